"""What `batch report` counts and writes, from results of batches that never ran."""

from __future__ import annotations

from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from remote_env.batch.charts import histogram, timeline
from remote_env.batch.directory import DirectoryError
from remote_env.batch.distribution import Durations, bin_edges, count_into, quantile, round_step, ticks
from remote_env.batch.html import MOST_DETAILS, write_page
from remote_env.batch.readable import clock, readable, span
from remote_env.batch.report import read_report
from tests.support.batches import HOSTILE, hostile, results, write_results


class Elements(HTMLParser):
    """What a browser would make of a page: its elements, and the text of each `pre`."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.outputs: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "pre":
            self.outputs.append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "pre"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.outputs[-1] += data


def page_of(directory: Path) -> str:
    write_page(read_report(directory), directory / "report.html", beside=directory)
    return (directory / "report.html").read_text("utf-8")


def test_output_becomes_text_without_colours_redrawn_lines_and_invisible_signs() -> None:
    assert readable("\x1b[1;31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x1b\\") == "red link"
    assert readable("10%\r50%\r100%\nend\r\n") == "100%\nend\n"
    assert readable("a\x00b\x7f\x9b31mc\ud800\u202ed") == "a\u2400b\u2421c\\ud800\\u202ed"
    assert readable("unended \x1b]0;title") == "unended "
    assert readable("tabs\tand 漢字 stay") == "tabs\tand 漢字 stay"


def test_times_are_shown_in_units_that_fit() -> None:
    assert [span(each) for each in (0, 0.416, 3.14, 59.94, 132, 3900)] == ["0.00s", "0.42s", "3.1s", "59.9s", "2m 12s", "1h 05m"]
    assert [clock(each) for each in (0, 0.5, 20, 80, 3720)] == ["0", "0.5 s", "20 s", "1:20", "1:02:00"]


def test_quantiles_are_values_that_were_measured() -> None:
    values = [float(each) for each in range(1, 101)]
    assert (quantile(values, 0.5), quantile(values, 0.95), quantile([7.0], 0.95)) == (50.0, 95.0, 7.0)
    assert Durations.of([3.0, 1.0, 2.0]) == Durations(3, 2.0, 3.0, 3.0, 6.0)
    assert Durations.of([]) is None


@pytest.mark.parametrize("values", [[0.0], [5.0] * 9, [0.01, 0.02, 900.0], [1.0, 2.0, 3.0, 100.0], [0.4, 0.5, 0.6] * 50 + [86400.0]])
def test_every_value_is_in_one_bin_however_they_are_spread(values: list[float]) -> None:
    edges = bin_edges(values)
    assert edges == sorted(set(edges)) and edges[0] <= min(values) and max(values) < edges[-1] and len(edges) <= 60
    assert count_into(values, edges) == [sum(low <= value < high for value in values) for low, high in pairwise(edges)]


def test_axes_have_round_numbers() -> None:
    assert [round_step(each) for each in (0.3, 1.2, 7.0, 12.0, 51.0, 70.0, 5000.0)] == [0.5, 2.0, 10.0, 15.0, 60.0, 120.0, 7200.0]
    assert ticks(100.0) == [0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0]


def test_charts_hold_every_job_once(tmp_path: Path) -> None:
    report = read_report(write_results(tmp_path, results(300, workers=7)))
    assert sum(block.count for bar in histogram(report.jobs).bars for block in bar.blocks) == 300
    drawn = timeline(report.attempts, report.began, report.span_s)
    assert (len(drawn.stretches), drawn.workers) == (300, tuple(range(7)))
    for row in {each.y for each in drawn.stretches}:
        bars = sorted((each for each in drawn.stretches if each.y == row), key=lambda each: each.x)
        assert all(one.x + one.width <= next_one.x + 0.2 for one, next_one in pairwise(bars))
    assert max(each.x + each.width for each in drawn.stretches) <= 100.2


def test_a_job_that_was_taken_up_covers_no_other_on_its_new_row(tmp_path: Path) -> None:
    one, two = results(2, workers=1, wrong=0.0)
    late = two.model_copy(update={"started_at": one.started_at, "reattached": 1})
    report = read_report(write_results(tmp_path, [one, late]))
    first, second = timeline(report.attempts, report.began, report.span_s).stretches
    assert first.job.id == one.id and second.x >= first.x + first.width - 0.01 and second.width > 0


def test_last_attempt_counts_and_infrastructure_is_nobodys_failure(tmp_path: Path) -> None:
    first, *others = results(40, wrong=0.0)
    lost = first.model_copy(update={"outcome": "lost", "reason": "its sandbox died"})
    again = first.model_copy(update={"attempt": 2})
    dead = others[0].model_copy(update={"outcome": "error", "reason": "no such image"})
    report = read_report(write_results(tmp_path, [lost, dead, *others[1:], again], total=50))
    assert (report.summary.counts["passed"], report.summary.unfinished, len(report.attempts)) == (39, 10, 41)
    assert report.summary.pass_rate == 1.0 and report.failed == [] and [job.id for job in report.infrastructure] == [dead.id]


def test_nothing_that_a_job_wrote_becomes_an_element_or_an_attribute(tmp_path: Path) -> None:
    made = results(30, wrong=0.5)
    plain = Elements(page_of(write_results(tmp_path / "plain", made)))
    page = page_of(write_results(tmp_path / "hostile", [hostile(each) for each in made], jobs_file=HOSTILE))
    attacked = Elements(page)
    assert {"script", "img"} & set(attacked.tags) == {"script"} and attacked.tags.count("script") == plain.tags.count("script") == 1
    assert not [name for name, _ in attacked.attributes if name.startswith("on") or name == "style"]
    assert all(value and value.startswith(("./", "#", "data:,")) for name, value in attacked.attributes if name in ("href", "src"))
    assert readable(HOSTILE) in attacked.outputs and "{{ 7*7 }}" in page and "\x1b" not in page and "\x00" not in page


def test_a_page_written_elsewhere_links_to_the_directory(tmp_path: Path) -> None:
    directory = write_results(tmp_path / "results with space", results(5))
    write_page(read_report(directory), tmp_path / "elsewhere.html", beside=directory)
    assert f'href="{directory.as_uri()}/jobs/project-00000/1/0-command-0.out"' in (tmp_path / "elsewhere.html").read_text()


def test_a_thousand_failures_stay_readable(tmp_path: Path) -> None:
    page = page_of(write_results(tmp_path, results(1000, wrong=1.0)))
    elements = Elements(page)
    report = read_report(tmp_path)
    shown = min(len(report.failed), MOST_DETAILS) + min(len(report.infrastructure), MOST_DETAILS)
    assert elements.tags.count("details") == shown < 1000 and f"{len(report.failed) - MOST_DETAILS} more are in the table" in page


def test_a_batch_without_results_has_a_report_too(tmp_path: Path) -> None:
    page = page_of(write_results(tmp_path, [], total=12))
    assert "No job was judged." in page and 'data-count="unfinished">12<' in page


def test_torn_last_line_is_left_out_and_a_strange_directory_refused(tmp_path: Path) -> None:
    directory = write_results(tmp_path / "torn", results(3), total=4)
    with open(directory / "results.jsonl", "a") as file:
        file.write('{"id": "project-000')
    assert read_report(directory).summary.finished == 3
    with pytest.raises(DirectoryError, match=r"batch\.json"):
        read_report(tmp_path)
