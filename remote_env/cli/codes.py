"""The exit codes of `remote-env`."""

from __future__ import annotations

FAILED = 1  # of any command but run and exec
USAGE = 2
LOST_OR_UNKNOWN = 123
TIMED_OUT = 124
DID_NOT_RUN = 125
INTERRUPTED = 130  # 128 + SIGINT
STDOUT_CLOSED = 141  # 128 + SIGPIPE
