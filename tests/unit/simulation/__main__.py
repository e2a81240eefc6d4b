"""Look for a broken promise in many histories, or print what each rule is good for.

python -m tests.unit.simulation --histories 100000 --seed 7     any violation, made short, with its seed
python -m tests.unit.simulation --replay 1234                   what happens in one history
python -m tests.unit.simulation --rules                         Markdown: rule → shortest history that shows it missing
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.unit.simulation.actions import words
from tests.unit.simulation.histories import Violation, draw, search
from tests.unit.simulation.rules import HISTORIES, RULES

_PROGRESS = 10_000  # histories between two lines of progress


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.unit.simulation", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--histories", type=int, default=10_000, help="how many (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first one; the others follow (default %(default)s)")
    parser.add_argument("--replay", type=int, metavar="SEED", help="print one history, action by action")
    parser.add_argument("--rules", action="store_true", help="switch each rule off and print a Markdown table")
    chosen = parser.parse_args()
    if chosen.rules:
        return rules()
    if chosen.replay is not None:
        return replayed(chosen.replay)
    return soak(chosen.seed, chosen.histories)


def soak(seed: int, histories: int) -> int:
    began, violations = time.monotonic(), 0
    for number in range(0, histories, _PROGRESS):
        first, last = seed + number, seed + min(number + _PROGRESS, histories)
        while (found := search(frozenset(), (), range(first, last))) is not None:
            violations += 1
            report(found)
            first = found.seed + 1
        done, seconds = last - seed, time.monotonic() - began
        say(f"{done} histories from seed {seed}, {violations} violations, {done / seconds * 60:,.0f} a minute")
    return 1 if violations else 0


def replayed(seed: int) -> int:
    history, error, in_the_end = draw(seed)
    for number, action in enumerate(history, 1):
        say(f"{number:4} {words([action])}")
    say("no promise broken" if error is None else f"{'in the end: ' if in_the_end else ''}{error}")
    return 0 if error is None else 1


def report(found: Violation) -> None:
    say(f"seed {found.seed}: {found.message}\n    {words(found.history)}{END if found.in_the_end else ''}")


END = " → nothing fails any more"


def rules() -> int:
    say("| rule | switched off, this happens | shortest history found (seed) |\n|---|---|---|")
    blind = 0
    for rule in RULES:
        with rule.switched_off() as off:
            found = search(off, rule.groups, range(HISTORIES), rule.begin)
        if found is None:
            blind += 1
            say(f"| **{rule.name}** {rule.means} | NOT SEEN in {HISTORIES} histories | |")
        else:
            history = words(found.history) + (END if found.in_the_end else "")
            say(f"| **{rule.name}** {rule.means} | {found.message} | {history} ({found.seed}) |")
    return 1 if blind else 0


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
