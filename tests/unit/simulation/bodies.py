"""What commands do, as far as it matters to anybody else."""

from __future__ import annotations

QUICK, ENDLESS, DAEMON, FLOOD = "quick", "endless", "daemon", "flood"
BODIES = (QUICK, ENDLESS, DAEMON, FLOOD)
"""Ends by itself; ends by a kill or its timeout; leaves a child that writes a little; leaves one that never stops."""

LEAVING, STUBBORN = "leaving", "stubborn"
IN_SESSION = (*BODIES, LEAVING, STUBBORN)
"""In a session as well: ends, and its shell with it (`exit 3`); can be ended only with its shell."""

SESSION = "session"
"""No command, but the shell that runs some."""

NEVER_END = (ENDLESS, STUBBORN, SESSION)
LEAVE_CHILDREN = (DAEMON, FLOOD)
LEFT_BYTES = 2  # bytes that a daemon writes after its command ended
