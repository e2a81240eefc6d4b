"""A real agent repairs a real program in a sandbox, and the server is killed under it."""
