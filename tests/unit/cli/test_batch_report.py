"""`remote-env batch report` at the command line."""

from __future__ import annotations

import json
from pathlib import Path

from remote_env.batch.readable import readable
from remote_env.batch.report import read_report
from tests.support.batches import HOSTILE, hostile, results, write_results
from tests.unit.cli.conftest import Cli


def test_terminal_says_both_rates_and_shows_tails_harmlessly(cli: Cli, tmp_path: Path) -> None:
    made = [hostile(each) if each.outcome != "passed" else each for each in results(100, wrong=0.2)]
    done = cli("batch", "report", str(write_results(tmp_path, made)))
    report, out = read_report(tmp_path), done.out.decode()
    assert done.code == 0 and (tmp_path / "report.html").exists()
    assert f"{report.summary.pass_rate:.1%} of the {report.summary.judged} that were judged" in out
    assert f"{report.summary.infrastructure_rate:.1%} of the 100" in out
    assert f"  │ {readable(HOSTILE)}" in out and "\x1b" not in out and "\x9b" not in out


def test_json_has_the_counts_and_where_the_page_is(cli: Cli, tmp_path: Path) -> None:
    directory = write_results(tmp_path / "results", results(50))
    done = cli("batch", "report", str(directory), "--json", "--html", str(tmp_path / "page.html"))
    answer = json.loads(done.out)
    assert answer["html"] == str(tmp_path / "page.html") and (tmp_path / "page.html").exists()
    assert sum(answer["counts"].values()) == answer["total"] == 50
    assert len(answer["failed"]) == answer["counts"]["failed"] + answer["counts"]["timed_out"]
    assert cli("batch", "report", str(tmp_path / "nothing")).code == 1
