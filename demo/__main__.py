"""`python -m demo`: plays the demo, and leaves nothing behind. Exit code 0 when every promise held, 130 after Ctrl-C."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    with ExitStack() as stack:
        try:
            scratch = Path(tempfile.mkdtemp(prefix="remote-env-demo-"))
            stack.callback(shutil.rmtree, scratch, ignore_errors=True)
            return _play(scratch, stack)
        except KeyboardInterrupt:
            sys.stderr.write("\nInterrupted: taking everything down.\n")
            return 130
        finally:
            # What is left to do is short, and half of it would be worse than waiting for it.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _play(scratch: Path, stack: ExitStack) -> int:
    # mini-swe-agent greets when it is imported, and makes a directory for its settings: not in the home of who plays this.
    os.environ["MSWEA_SILENT_STARTUP"] = "1"
    os.environ["MSWEA_GLOBAL_CONFIG_DIR"] = str(scratch / "mini-swe-agent")
    from demo.play import play
    from demo.stage import Stage
    from remote_env import RemoteEnvError

    logging.getLogger("minisweagent").setLevel(logging.ERROR)
    try:
        return play(Stage(), scratch, stack)
    except (RemoteEnvError, RuntimeError) as error:
        sys.stderr.write(f"\nThe demo cannot go on: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
