"""The remote-env server: runs commands in containers, at most once each, and never loses a result."""

REMOTE_ENV_SERVER = True  # `remote-env serve` looks for this: a top-level package called `server` is easily shadowed
