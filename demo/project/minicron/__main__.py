"""The command line: print the next runs of a cron expression."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime

from minicron.schedule import Schedule


def main() -> int:
    parser = argparse.ArgumentParser(prog="minicron", description="Print the next runs of a cron expression.")
    parser.add_argument("expression", help="five fields, quoted: '*/15 9-17 * * 1-5'")
    parser.add_argument("--after", type=datetime.fromisoformat, default=None, help="default: now")
    parser.add_argument("--count", type=int, default=1)
    arguments = parser.parse_args()
    try:
        schedule = Schedule(arguments.expression)
    except ValueError as error:
        parser.error(str(error))
    for run in schedule.upcoming(arguments.after or datetime.now(), arguments.count):
        sys.stdout.write(f"{run:%a %Y-%m-%d %H:%M}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
