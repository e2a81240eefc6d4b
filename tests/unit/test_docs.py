"""The pages say what is so: every test, row and file that they name exists."""

from __future__ import annotations

import re
from pathlib import Path

from tests.faults.matrix import rows as rows
from tests.faults.matrix.checks import PROMISES
from tests.faults.matrix.report import OURS, Report, put_summary
from tests.faults.matrix.row import FULL_COMMANDS, ROWS
from tests.unit.simulation.rules import RULES

ROOT = Path(__file__).parents[2]


def names_of_tests() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        found.update(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE))
    return found


def test_every_test_that_the_security_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "security.md").read_text()))
    assert len(named) > 30
    assert named - names_of_tests() == set()


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_reliability_page_is_what_its_figures_say_and_has_every_row() -> None:
    """Each row with its full number of commands, every promise kept; `scripts/faults` writes the page, nobody else."""
    report = Report(ROOT / "docs")
    assert report.markdown() == (ROOT / "docs" / "reliability.md").read_text()
    readme = (ROOT / "README.md").read_text()
    assert put_summary(readme, report.summary()) == readme
    for row in ROWS.values():
        figures = report.of(row, OURS)
        assert figures is not None, f"{row.name} was never run in full"
        assert figures["broken"] == [], row.name
        assert figures["commands"] >= row.commands >= FULL_COMMANDS, row.name
        assert set(figures["checked"]) == set(PROMISES), row.name


def test_rules_page_has_every_rule_that_the_simulation_can_switch_off() -> None:
    named = re.findall(r"^\| \*\*(.+?)\*\*", (ROOT / "docs" / "rules.md").read_text(), re.MULTILINE)
    assert named == [rule.name for rule in RULES]
