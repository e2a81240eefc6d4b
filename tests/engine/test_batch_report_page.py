"""The page of `batch report` in a real browser: what it says, asks for, and does when it is searched, sorted, hovered and clicked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from remote_env.batch.html import write_page
from remote_env.batch.report import Report, read_report
from tests.engine_fixtures import skip_unless_ci
from tests.support.batches import hostile, results, write_results
from tests.support.browser import Page, browser, find_browser, open_page


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = find_browser()
    if program is None:
        skip_unless_ci("no Chromium is installed (scripts/test installs Debian's chromium-headless-shell as root)")
    assert program is not None
    with browser(program, tmp_path_factory.mktemp("profile")) as address:
        yield address


@pytest.fixture
def page(endpoint: str) -> Iterator[Page]:
    with open_page(endpoint) as fresh:
        fresh.resize(1280, 900)
        yield fresh


def shown(page: Page, directory: Path) -> Report:
    report = read_report(directory)
    write_page(report, directory / "report.html", beside=directory)
    page.open(directory / "report.html")
    return report


def visible(page: Page) -> list[str]:
    """Ids of the jobs in the table, as it is."""
    listed = "[...document.querySelectorAll('#jobs tbody tr')].filter(row => row.offsetHeight).map(row => row.cells[0].textContent)"
    found = page.evaluate(listed)
    assert isinstance(found, list)
    return found


def assert_quiet(page: Page, directory: Path) -> None:
    """It asked for nothing but itself, and neither its console nor its policy had anything to say."""
    assert page.requests == [(directory / "report.html").as_uri()]
    assert page.complaints == []


def test_counts_are_those_of_the_results_file(page: Page, tmp_path: Path) -> None:
    shown(page, write_results(tmp_path, results(240), total=250))
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    counted = {name: sum(line["outcome"] == name for line in lines) for name in ("passed", "failed", "timed_out", "lost", "error")}
    said = "Object.fromEntries([...document.querySelectorAll('[data-count]')].map(each => [each.dataset.count, +each.textContent]))"
    assert page.evaluate(said) == {**counted, "unfinished": 10}
    judged = counted["passed"] + counted["failed"] + counted["timed_out"]
    assert page.evaluate("document.getElementById('pass-rate').textContent") == f"{counted['passed'] / judged * 100:.1f} %"
    infrastructure = (counted["lost"] + counted["error"]) / 240
    assert page.evaluate("document.getElementById('infrastructure-rate').textContent") == f"{infrastructure * 100:.1f} %"
    assert page.evaluate("document.querySelectorAll('#timeline rect').length") == len(visible(page)) == 240
    assert page.evaluate("document.querySelectorAll('#failures details').length") == counted["failed"] + counted["timed_out"]
    assert page.evaluate("document.querySelectorAll('#infrastructure details').length") == counted["lost"] + counted["error"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert_quiet(page, tmp_path)


def test_table_is_searched_filtered_and_sorted(page: Page, tmp_path: Path) -> None:
    report = shown(page, write_results(tmp_path, results(120)))
    page.evaluate("document.getElementById('search').focus()")
    page.type("project-0001 pytest")
    assert visible(page) == [job.id for job in report.jobs if "project-0001" in job.id]
    assert page.evaluate("document.getElementById('shown').textContent") == "10 of 120"
    page.evaluate("document.getElementById('search').select()")
    page.type(" ")
    for name in ("passed", "lost", "error", "timed_out"):
        page.evaluate(f"document.querySelector('#filter input[value={name}]')?.click()")
    assert visible(page) == [job.id for job in report.jobs if job.outcome == "failed"]
    page.evaluate("document.querySelectorAll('#jobs th')[2].click(), document.querySelectorAll('#jobs th')[2].click()")
    slowest_first = sorted((job for job in report.jobs if job.outcome == "failed"), key=lambda job: -job.duration_s)
    assert visible(page) == [job.id for job in slowest_first]
    assert_quiet(page, tmp_path)


def test_timeline_tells_on_hover_and_leads_to_the_job_on_click(page: Page, tmp_path: Path) -> None:
    report = shown(page, write_results(tmp_path, results(120)))
    job = report.failed[0]
    number = report.jobs.index(job)
    page.evaluate(f"window.bar = document.querySelector('#timeline rect[data-job=\"{number}\"]'); bar.scrollIntoView({{block: 'center'}})")
    where = page.evaluate("(box => [box.x + box.width / 2, box.y + box.height / 2])(bar.getBoundingClientRect())")
    page.hover(*where)
    said = page.evaluate("document.getElementById('tip').hidden ? null : document.getElementById('tip').innerText")
    assert said is not None and job.id in said and job.outcome in said and str(job.reason) in said
    page.click(*where)
    assert page.evaluate(f"document.getElementById('detail-{number}').open")
    box = page.evaluate(f"(box => [box.top, box.bottom])(document.getElementById('detail-{number}').getBoundingClientRect())")
    assert box[1] > 0 and box[0] < 900
    assert_quiet(page, tmp_path)


def test_light_and_dark_follow_the_system_and_the_button(page: Page, tmp_path: Path) -> None:
    shown(page, write_results(tmp_path, results(10)))
    brightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((sum, each) => sum + +each, 0)"
    page.prefer("dark")
    assert page.evaluate(brightness) < 150
    page.prefer("light")
    assert page.evaluate(brightness) > 600
    page.evaluate("document.getElementById('theme').click()")
    assert page.evaluate(brightness) < 150


def test_hostile_output_runs_nothing_and_asks_for_nothing(page: Page, tmp_path: Path) -> None:
    shown(page, write_results(tmp_path, [hostile(each) for each in results(60, wrong=0.5)]))
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert page.evaluate("document.querySelectorAll('script').length") == 1
    assert "</script><script>alert(1)</script>" in page.evaluate("document.querySelector('details pre').textContent")
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert_quiet(page, tmp_path)


def test_page_is_whole_without_scripts(page: Page, tmp_path: Path) -> None:
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    shown(page, write_results(tmp_path, results(60, wrong=0.5)))
    page.call("Emulation.setScriptExecutionDisabled", value=False)
    assert len(visible(page)) == 60
    assert page.evaluate("document.getElementById('filter').offsetHeight + document.getElementById('theme').offsetHeight") == 0
    assert page.evaluate("document.querySelectorAll('#timeline title').length") == 60


def test_ten_thousand_jobs_are_drawn_and_searched(page: Page, tmp_path: Path) -> None:
    report = shown(page, write_results(tmp_path, results(10_000, workers=64)))
    assert page.evaluate("document.querySelectorAll('#timeline rect').length") == 10_000
    page.evaluate("document.getElementById('search').focus()")
    page.type("project-0777")
    assert visible(page) == [job.id for job in report.jobs if "project-0777" in job.id]
    assert (tmp_path / "report.html").stat().st_size < 16 << 20
    assert_quiet(page, tmp_path)
