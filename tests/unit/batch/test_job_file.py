"""A job file's lines: all that is wrong with them is told at once, with the line and the reason."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_env.batch.jobfile import JobFile, JobFileError, read_jobs
from remote_env.batch.jobs import Job
from remote_env.batch.schema import job_schema

ROOT = Path(__file__).resolve().parents[3]
GOOD: dict[str, Any] = {"id": "a", "image": "busybox", "commands": ["true"]}


def read(*lines: dict[str, Any] | str, base: Path = ROOT) -> JobFile:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return read_jobs(text.encode(), name="jobs.jsonl", base=base)


def problems(*lines: dict[str, Any] | str, base: Path = ROOT) -> list[str]:
    with pytest.raises(JobFileError) as raised:
        read(*lines, base=base)
    return [str(problem) for problem in raised.value.problems]


def test_every_bad_line_is_told_at_once_with_its_number() -> None:
    found = problems(GOOD, "no JSON", "", {"id": "b", "image": "busybox"}, {**GOOD, "id": "../b"}, "[1]")
    assert [each.partition(":")[0] for each in found] == ["line 2", "line 4 (b)", "line 5 (../b)", "line 6"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"comands": ["true"]}, "unknown key 'comands'; did you mean 'commands'?"),
        ({"resources": {"memori": "1g"}}, "unknown key 'resources.memori'; did you mean 'memory'?"),
        ({"commands": [{"command": "true", "timeout": 3}]}, "unknown key 'commands.0.timeout'; did you mean 'timeout_s'?"),
        ({"commands": []}, "commands: "),
        ({"commands": [{"command": "a", "argv": ["a"]}]}, "commands.0: give either command"),
        ({"commands": [{"argv": ["a"], "shell": "sh"}]}, "commands.0: shell and login go with command"),
        ({"id": "x" * 129}, "id: "),
        ({"id": ".hidden"}, "id: "),
        ({"id": "a/b"}, "id: "),
        ({"id": "a\n"}, "id: "),
        ({"timeout_s": 0}, "timeout_s: "),
        ({"workdir": "work"}, "workdir: not an absolute path"),
        ({"resources": {"memory": "4q"}}, "resources.memory: '4q' is not a size"),
        ({"files": [{"path": "/a"}]}, "files.0: give exactly one of content, content_base64 and source"),
        ({"files": [{"path": "/a", "content_base64": "!"}]}, "files.0: content_base64 is not base64"),
        ({"files": [{"path": "/a", "content": "", "mode": "999"}]}, "files.0.mode: permission bits are octal digits"),
        ({"files": [{"path": "/a", "content": "", "mode": 644}]}, "files.0.mode: permission bits are octal digits"),
        ({"files": [{"path": "/a", "source": "no such file"}]}, "files.0.source: "),
        ({"files": [{"path": "/a", "source": "tests", "mode": "0644"}]}, "files.0.mode: "),
        ({"artifacts": ["/a/x", "/b/x"]}, "artifacts: two are called 'x'"),
        ({"artifacts": ["/"]}, "artifacts: '/' has no last part"),
        ({"artifacts": [{"path": "/x", "name": "../x"}]}, "artifacts.0.name: not the name of a file"),
        ({"env": {"A=B": "x"}}, "env: not an environment variable"),
        ({"network": "host"}, "network: "),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_line_is_named(change: dict[str, Any], said: str) -> None:
    (found,) = problems({**GOOD, **change})
    assert said in found


def test_an_id_that_is_there_twice_is_told_with_the_other_line_even_where_that_is_wrong() -> None:
    assert "line 3 (a): the id is that of line 1, too" in problems({**GOOD, "image": 7}, {**GOOD, "id": "b"}, GOOD)


def test_a_key_that_is_there_twice_is_no_silent_last_one_wins() -> None:
    assert problems('{"id": "a", "image": "busybox", "commands": ["true"], "id": "b"}') == [
        "line 1: not JSON: 'id' is there more than once"
    ]


def test_a_file_without_jobs_is_wrong() -> None:
    assert problems("", "  ") == ["jobs.jsonl has no jobs"]


def test_a_source_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x")
    line = {**GOOD, "files": [{"path": "/a", "source": "there"}, {"path": "/b", "source": "gone"}]}
    assert problems(line, base=tmp_path) == [f"line 1 (a): files.1.source: {tmp_path / 'gone'} does not exist"]


def test_short_forms_mean_the_long_ones() -> None:
    short, long = read(
        {**GOOD, "files": {"/a": "text"}, "commands": ["true"], "artifacts": ["/a"], "resources": {"memory": "1.5g"}},
        {
            **GOOD, "id": "b", "files": [{"path": "/a", "content": "text"}], "commands": [{"command": "true"}],
            "artifacts": [{"path": "/a"}], "resources": {"memory": 3 << 29},
        },
    ).jobs  # fmt: skip
    assert short.model_dump(exclude={"id"}) == long.model_dump(exclude={"id"})


def test_jobs_are_the_same_job_where_the_same_would_run() -> None:
    plain, noted, other = read(GOOD, {**GOOD, "id": "b", "metadata": {"x": 1}}, {**GOOD, "id": "c", "env": {"A": "1"}}).jobs
    assert plain.digest == noted.model_copy(update={"id": "a"}).digest
    assert plain.digest != other.model_copy(update={"id": "a"}).digest


def test_a_bom_and_windows_line_ends_are_no_mistake() -> None:
    data = b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n"
    assert [job.id for job in read_jobs(data, name="x", base=ROOT).jobs] == ["a"]


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_fail_otherwise_than_by_naming_lines(data: bytes) -> None:
    try:
        found = len(read_jobs(data, name="x", base=ROOT).jobs)
    except JobFileError as error:
        found = len(error.problems)
    assert found > 0


# ------------------------------------------------------------------------------------------------------------ schema


def test_the_published_schema_is_the_models() -> None:
    published = json.loads((ROOT / "docs" / "batch-job.schema.json").read_text())
    assert published == job_schema(), "write it anew: remote-env batch schema > docs/batch-job.schema.json"


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"files": {"/a": "b"}},
        {"files": [{"path": "/a", "content": "b", "mode": "0755"}]},
        {"setup": ["a", {"argv": ["b"], "output_limit_bytes": "1m"}], "artifacts": ["/x", {"path": "/y", "required": True}]},
        {"resources": {"memory": "512MiB", "cpus": 0.5, "shm": 65536}, "timeout_s": 3.5, "metadata": {"any": [1, None]}},
        {"binds": [{"source": "/data", "target": "/data"}], "network": "none"},
    ],
)  # fmt: skip
def test_the_schema_takes_what_the_models_take(change: dict[str, Any]) -> None:
    Job.model_validate({**GOOD, **change})
    jsonschema.validate({**GOOD, **change}, job_schema())


@pytest.mark.parametrize(
    "change", [{"comands": []}, {"commands": []}, {"id": "a/b"}, {"files": {"/a": 7}}, {"resources": {"memory": "4q"}}]
)
def test_the_schema_refuses_what_the_models_refuse(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**GOOD, **change}, job_schema())


@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "examples" / "batch").glob("*.jsonl")), ids=lambda path: str(path.name))
def test_the_examples_are_right(file: Path) -> None:
    assert os.access(file, os.R_OK)
    assert read_jobs(file.read_bytes(), name=file.name, base=file.parent).jobs
