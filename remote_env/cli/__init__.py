"""The command line. Modules here import what is heavy only when a command needs it: `--version` and `--help` are quick."""
