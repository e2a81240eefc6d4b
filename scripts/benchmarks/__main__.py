"""scripts/bench: measures, and writes docs/performance.md."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from scripts.benchmarks import machine, report
from scripts.benchmarks.arena import Arena
from scripts.benchmarks.bench import Bench
from scripts.benchmarks.kinds import PEERS
from scripts.benchmarks.progress import CONSOLE, say
from scripts.benchmarks.sections import SECTIONS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = "performance.md"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="How fast remote-env is, side by side in one run with what people use instead. Without sections: all of them, and "
        "docs/performance.md is written; the better part of an hour. With sections: their figures on standard output.",
        epilog="sections: " + "; ".join(f"{name} ({section.title})" for name, section in SECTIONS.items()),
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="what to measure (default: everything)")
    parser.add_argument("--quick", action="store_true", help="few rounds, small sizes: a minute or two")
    parser.add_argument("--rounds", type=int, help="rounds in which every kind has one turn (default: each section's own)")
    parser.add_argument("--seed", type=int, default=1, help="of the order of turns and of what is made up (default 1)")
    parser.add_argument("--without", nargs="+", default=[], choices=PEERS, metavar="PEER", help=f"leave out: {', '.join(PEERS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save every sample")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="saved", help="measure nothing: show figures that --json has saved")
    parser.add_argument("--docs", type=Path, metavar="DIRECTORY", help=f"write {PAGE} and its plots there (default, for a whole run: docs)")
    options = parser.parse_args(argv)
    for name in options.sections:
        if name not in SECTIONS:
            parser.error(f"there is no section {name!r}: {', '.join(SECTIONS)}")
    if options.docs is None and not options.sections and not options.quick and not options.saved:
        options.docs = DOCS
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    wanted = options.sections or list(SECTIONS)
    command = ["scripts/bench", *options.sections]
    command += ["--quick"] if options.quick else []
    command += ["--rounds", str(options.rounds)] if options.rounds else []
    command += ["--seed", str(options.seed)]
    command += ["--without", *options.without] if options.without else []
    with Arena() as arena:
        bench = Bench(arena, options.quick, options.rounds, options.seed, frozenset(PEERS) - set(options.without))
        run: dict[str, Any] = {
            "version": report.VERSION,
            "command": " ".join(command),
            "quick": options.quick,
            "seed": options.seed,
            "machine": machine.describe(arena),
            "missing": arena.missing,
            "failed": [],
            "sections": {},
        }
        for name in wanted:
            try:
                run["sections"][name] = SECTIONS[name].measure(bench)
            except Exception as error:  # an hour's other figures must not go with it
                CONSOLE.print_exception()
                run["missing"][name] = f"it failed: {type(error).__name__}: {error}"
                run["failed"].append(name)
            if options.json:  # what there is so far: the run may be ended early
                options.json.write_text(json.dumps(run))
    return run


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    signal.signal(signal.SIGTERM, _end)
    os.environ["MSWEA_SILENT_STARTUP"] = "1"  # mini-swe-agent greets on standard output otherwise
    os.environ["SWE_REX_LOG_STREAM_LEVEL"] = "ERROR"
    try:
        run = report.load(options.saved) if options.saved else measure(options)
    except KeyboardInterrupt:
        say("interrupted; what was made for the run is gone")
        return 130
    if options.docs is None:
        sys.stdout.write(report.render(run))
        return int(bool(run["failed"]))
    from scripts.benchmarks import plots  # here: only the page needs matplotlib

    plots.draw(run, options.docs / "performance")
    page = options.docs / PAGE
    page.write_text(report.render(run))
    say(f"wrote {page}")
    return int(bool(run["failed"]))


if __name__ == "__main__":
    raise SystemExit(main())
