"""docs/performance.md, made of figures that a quick run has saved."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from scripts.benchmarks import report
from scripts.benchmarks.__main__ import main
from scripts.benchmarks.kinds import PEERS
from scripts.benchmarks.sections import SECTIONS
from scripts.benchmarks.targets import TARGETS

SAVED = Path(__file__).with_name("figures.json")


@pytest.fixture
def run() -> dict[str, Any]:
    return report.load(SAVED)


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its header."""
    part = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = re.search(r"(?:^\|.*\n)+", part, re.MULTILINE)
    assert lines is not None, heading
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()[2:]]


def test_same_figures_make_the_same_page(run: dict[str, Any]) -> None:
    assert report.render(run) == report.render(json.loads(json.dumps(run)))


def test_page_has_every_section_that_was_run_with_its_pictures_and_no_other(run: dict[str, Any]) -> None:
    assert set(run["sections"]) == set(SECTIONS)
    del run["sections"]["transfers"]
    page = report.render(run)
    for name, section in SECTIONS.items():
        assert (f"\n## {section.title}\n" in page) is (name != "transfers")
        for picture in section.plots:
            assert f"](performance/{picture})" in page


def test_every_target_has_a_row_and_says_whether_it_is_met(run: dict[str, Any]) -> None:
    found = rows(report.render(run), "Targets")
    assert [row[0] for row in found] == [target.name for target in TARGETS]
    assert {row[3] for row in found} <= {"met", "**not met**", "not measured"}
    assert {row[3] for row in found} >= {"met", "not measured"}


def test_target_that_is_not_met_is_told_with_its_reason(run: dict[str, Any]) -> None:
    for kind in run["sections"]["latency"]["kinds"]:
        if (kind["name"], kind["shell"]) == ("docker exec", "sh"):
            kind["seconds"] = [[0.001] * len(taken) for taken in kind["seconds"]]
    page = report.render(run)
    assert re.search(
        r"^- `docker exec` p50 over `sandbox.run`, sh: p50: .*fork\+exec of sh alone .*the server's profile", page, re.MULTILINE
    )


def test_latency_ranks_kinds_by_their_ratio_and_calls_ours_by_bold_names(run: dict[str, Any]) -> None:
    found = rows(report.render(run), "Latency")
    ratios = [float(row[1].split()[0].replace(",", "")) for row in found]
    assert ratios == sorted(ratios)
    (reference,) = [row for row in found if row[0] == "**sandbox.run**"]
    assert reference[1] == "1.00 (1.00–1.00)"
    assert next(row for row in found if row[0] == "docker exec")


def test_what_was_not_measured_is_said_with_its_reason(run: dict[str, Any]) -> None:
    assert "\n## Not measured\n\n- docker-ssh: no sshd is installed\n" in report.render(run)
    run["missing"] = {}
    assert "## Not measured" not in report.render(run)


def test_page_ends_with_machine_seed_and_the_command_to_repeat_it(run: dict[str, Any]) -> None:
    page = report.render(run)
    assert ["processor", "2 × an example"] in rows(page, "Machine and versions")
    assert "\n    scripts/bench --quick --seed 1\n" in page
    assert "Seed 1." in page


def test_quick_run_says_that_it_was_one(run: dict[str, Any]) -> None:
    assert "**A quick run:**" in report.render(run)
    run["quick"] = False
    assert "**A quick run:**" not in report.render(run)


def test_figures_of_another_version_are_refused(tmp_path: Path, run: dict[str, Any]) -> None:
    other = tmp_path / "old.json"
    other.write_text(json.dumps({**run, "version": 0}))
    with pytest.raises(ValueError, match="version 0"):
        report.load(other)


def test_command_shows_saved_figures_again(capsys: pytest.CaptureFixture[str], run: dict[str, Any]) -> None:
    assert main(["--from", str(SAVED)]) == 0
    assert capsys.readouterr().out == report.render(run)


def test_command_refuses_a_section_and_a_peer_that_do_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["latency", "speed"])
    assert "there is no section 'speed': latency, throughput," in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["--without", "podman"])
    assert all(peer in capsys.readouterr().err for peer in PEERS[:1])
