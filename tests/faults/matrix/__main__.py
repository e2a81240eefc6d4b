"""`scripts/faults`: runs rows of the matrix, prints them as they end, and writes the report."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from tests.faults.matrix import rows as rows
from tests.faults.matrix.arena import Arena
from tests.faults.matrix.checks import Verdict
from tests.faults.matrix.report import Report
from tests.faults.matrix.row import ROWS, Row


def main() -> int:
    """Exit code 0 when remote-env kept every promise in every row that was run, 1 when not, 2 for a wrong command line."""
    options = _parser().parse_args()
    # As Ctrl-C does: the row's engine, server, containers and files are removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if options.list:
        for each in ROWS.values():
            print(f"{each.name:32} {each.part:10} {each.title}")
        return 0
    unknown = [name for name in options.rows if name not in ROWS]
    if unknown:
        print(f"no such row: {', '.join(unknown)} (see --list)", file=sys.stderr)
        return 2
    report = Report(options.out)
    if options.merge:
        for directory in options.merge:
            report.take_over(Report(directory))
        report.write()
        return 0
    chosen = [ROWS[name] for name in options.rows] or [each for each in ROWS.values() if options.part in (None, each.part)]
    held = True
    for each in chosen:
        for subject in _subjects(each, options):
            verdict = _play(each, subject, options)
            report.add(each, verdict)
            print(_line(verdict), flush=True)
            for broken in verdict.broken[: 20 if subject == "remote-env" else 2]:
                print(f"    {broken}", flush=True)
            held = held and (subject != "remote-env" or not verdict.broken)
            report.write()
    return 0 if held else 1


def _play(row: Row, subject: str, options: argparse.Namespace) -> Verdict:
    commands = options.commands or (row.short if options.short else row.commands)
    peer = None
    if subject != "remote-env":
        from tests.faults.matrix.peers import PEERS

        peer = PEERS[subject]
        commands = min(commands, row.peer_commands or commands)
    return Arena(row, commands=commands, seed=options.seed, short=options.short, peer=peer).play()


def _subjects(row: Row, options: argparse.Namespace) -> list[str]:
    if not row.peers:
        return ["remote-env"] if "remote-env" in options.subjects else []
    return list(options.subjects)


def _line(verdict: Verdict) -> str:
    told = ", ".join(f"{count} {fate}" for fate, count in sorted(verdict.told.items()) if count) or "none"
    state = "held" if not verdict.broken else "BROKEN"
    return (
        f"{verdict.row:32} {verdict.subject:16} {state:7} {verdict.commands:6} commands {verdict.results:6} exact, told: {told}; "
        f"twice {verdict.twice}, lost {verdict.lost}, wrong {verdict.wrong}, orphans {verdict.orphans}  "
        f"({verdict.seconds:.0f} s, seed {verdict.seed})"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/faults",
        description="Break things while commands run, and count what became of each command. Needs root and a Docker engine.",
        epilog="Without ROW every row is run, which takes the better part of an hour. A row that is run again replaces its line.",
    )  # fmt: skip
    parser.add_argument("rows", nargs="*", metavar="ROW", help="run these rows only (see --list)")
    parser.add_argument("--part", help="run the rows of one part only: transport, network, server, journal, clock, sandbox, engine")
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument("--commands", type=int, metavar="N", help="commands per row (default: each row's own, at least 200)")
    parser.add_argument("--short", action="store_true", help="the version that the test suite runs: few commands, short waits")
    parser.add_argument("--seed", type=int, default=1, help="makes the same commands and the same faults again (default: 1)")
    parser.add_argument(
        "--subjects", type=lambda text: text.split(","), default=["remote-env", "requests", "requests+Retry", "swe-rex"], metavar="NAME,…",
        help="who is tested (default: remote-env, requests, requests+Retry, swe-rex; the last three in rows about transport only)",
    )  # fmt: skip
    parser.add_argument(
        "--merge", type=Path, nargs="+", metavar="DIR", help="run nothing; take over the figures that runs with --out DIR made"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("docs"), metavar="DIR", help="where reliability.md and reliability.json go (default: docs)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
