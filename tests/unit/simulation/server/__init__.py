"""What the server's parts do with the instructions of its tables, one at a time. Its memory dies with it."""
