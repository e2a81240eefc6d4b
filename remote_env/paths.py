"""Where the server keeps its data by default. The client looks there for the token of a server on the same machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def default_data_dir() -> Path:
    """$REMOTE_ENV_SERVER_DATA_DIR; else /var/lib/remote-env for root; else the user's data directory by platform
    convention. Needs neither HOME nor that the directory exists."""
    configured = os.environ.get("REMOTE_ENV_SERVER_DATA_DIR")
    if configured:
        return Path(configured)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/remote-env")
    home = Path(os.path.expanduser("~"))  # Path.home() raises where no home is known
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "remote-env"
    data_home = os.environ.get("XDG_DATA_HOME", "")
    return (Path(data_home) if data_home.startswith("/") else home / ".local" / "share") / "remote-env"
