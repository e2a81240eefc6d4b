"""`cp`: where a copy lands, what it says, and what is left when it fails."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from remote_env.cli.placing import Place, landing, parse_place
from remote_env.errors import InvalidSpec
from remote_env.protocol import Sandbox
from tests.unit.cli.conftest import Cli, Spawn
from tests.unit.client.fakefiles import FakeFiles
from tests.unit.client.fakeserver import TOKEN, Fault, pattern_bytes, refusal

SANDBOX = "0199aaaaaaaa7000aaaaaaaaaaaaaaaa"
FILES = r"/files$"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeFiles]:
    (tmp_path / "there").mkdir()
    with FakeFiles(tmp_path / "there") as server:
        monkeypatch.setenv("REMOTE_ENV_URL", server.url)
        monkeypatch.setenv("REMOTE_ENV_TOKEN", TOKEN)
        server.sandboxes[SANDBOX] = Sandbox(id=SANDBOX, run_id="run-number-1", image="image", state="running", epoch="epoch1")
        yield server


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


# ------------------------------------------------------------------------------------------------- where it lands


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("mysandbox:/a/b", Place("mysandbox", "/a/b")),
        ("mysandbox:a:b", Place("mysandbox", "a:b")),
        ("mysandbox:", Place("mysandbox", ".")),
        ("./a:b", Place(None, "./a:b")),
        ("/tmp/a:b", Place(None, "/tmp/a:b")),
        ("dir/a:b", Place(None, "dir/a:b")),
        ("../x:y", Place(None, "../x:y")),
        ("C:\\file", Place(None, "C:\\file")),
        ("plain", Place(None, "plain")),
        ("-", Place(None, "-")),
    ],
)
def test_a_name_with_a_colon_is_a_sandbox_unless_a_slash_says_otherwise(text: str, place: Place) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize(
    ("source", "destination", "kind", "expected"),
    [
        ("f", "/d", "directory", "/d/f"),
        ("f", "/d/", "directory", "/d/f"),
        ("f", "/d/", None, "/d/f"),
        ("f", "/d", None, "/d"),
        ("f", "/d", "file", "/d"),
        ("f", "/", "directory", "/f"),
        ("a/dir", "/d", "directory", "/d/dir"),
        ("a/dir/", "/d", "directory", "/d/dir"),
        ("a/dir", "/d", None, "/d"),
        ("a/dir", "/d/", None, "/d/dir"),
        ("a/dir/.", "/d", "directory", "/d"),
        ("a/dir/.", "/d", None, "/d"),
        ("a/dir/.", "/d/", None, "/d/"),
        (".", "/d", "directory", "/d"),
        ("..", "/d", "directory", "/d"),
        ("/", "/d", "directory", "/d"),
    ],
)
def test_a_copy_lands_where_cp_would_put_it(source: str, destination: str, kind: str | None, expected: str) -> None:
    assert landing(Place(None, source), Place("sandbox", destination), kind) == expected


def test_a_file_is_no_directory_because_of_a_slash() -> None:
    with pytest.raises(InvalidSpec):
        landing(Place(None, "f"), Place("sandbox", "/d/"), "file")


# ------------------------------------------------------------------------------------------------------ copying


def test_a_file_goes_in_and_comes_out(fake: FakeFiles, here: Path, cli: Cli) -> None:
    (here / "f").write_text("content")
    (here / "f").chmod(0o755)
    done = cli("cp", "f", f"{SANDBOX}:/d/g")
    assert (done.code, done.out) == (0, b"")
    assert (fake.root / "d" / "g").read_text() == "content"
    assert "7 B to" in done.err
    assert cli("cp", "--quiet", f"{SANDBOX[:8]}:/d/g", ".").err == ""
    assert (here / "g").read_text() == "content"
    assert (here / "g").stat().st_mode & 0o777 == 0o755


def test_a_tree_goes_into_a_directory_that_is_there_and_else_gets_its_name(fake: FakeFiles, here: Path, cli: Cli) -> None:
    (here / "tree" / "sub").mkdir(parents=True)
    (here / "tree" / "sub" / "f").write_text("x")
    (fake.root / "there").mkdir()
    for destination in ("/there", "/new", "/slash/"):
        assert cli("cp", "tree", f"{SANDBOX}:{destination}").code == 0
    assert cli("cp", "tree/.", f"{SANDBOX}:/contents").code == 0
    for path in ("there/tree", "new", "slash/tree", "contents"):
        assert (fake.root / path / "sub" / "f").read_text() == "x"
    assert cli("cp", f"{SANDBOX}:/new", ".").code == 0
    assert cli("cp", f"{SANDBOX}:/new/.", "contents").code == 0
    assert (here / "new" / "sub" / "f").read_text() == (here / "contents" / "sub" / "f").read_text() == "x"


def test_json_says_what_was_copied(fake: FakeFiles, here: Path, cli: Cli) -> None:
    (here / "f").write_text("content")
    done = cli("cp", "--json", "f", f"{SANDBOX}:/g")
    document = json.loads(done.out)
    assert done.err == ""
    assert document["seconds"] >= 0
    del document["seconds"]
    assert document == {
        "source": "f", "destination": f"{SANDBOX}:/g", "files": 1, "bytes": 7, "skipped": {},
        "sha256": "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73",
    }  # fmt: skip


def test_what_is_left_out_is_told(fake: FakeFiles, here: Path, cli: Cli) -> None:
    (here / "tree").mkdir()
    os.mkfifo(here / "tree" / "fifo")
    done = cli("cp", "-q", "tree", f"{SANDBOX}:/t")
    assert done.code == 0
    assert "fifo was left out" in done.err


def test_a_stream_goes_in_and_comes_out_untouched(fake: FakeFiles, here: Path, spawn: Spawn) -> None:
    content = bytes(range(256)) * 50_000  # more than is kept in memory
    out, err = spawn("cp", "-", f"{SANDBOX}:/f").communicate(content)
    assert out == b""
    assert (fake.root / "f").read_bytes() == content
    assert b"12.2 MiB" in err
    fake.on("GET", FILES, *[Fault(change=lambda body: body)] * 2, Fault(change=lambda body: body[:1000]))
    process = spawn("cp", f"{SANDBOX}:/f", "-")
    out, err = process.communicate()
    assert (process.returncode, out, err) == (0, content, b"")


def test_a_stream_that_is_a_tar_is_a_tree(fake: FakeFiles, here: Path, spawn: Spawn) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo("sub/f")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    process = spawn("cp", "--tar", "-", f"{SANDBOX}:/t")
    process.communicate(file.getvalue())
    assert process.returncode == 0
    assert (fake.root / "t" / "sub" / "f").read_text() == "x"
    process = spawn("cp", f"{SANDBOX}:/t", "-")
    out, _ = process.communicate()
    assert process.returncode == 0
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        assert "t/sub/f" in tar.getnames()


# ------------------------------------------------------------------------------------------------------ failing


@pytest.mark.parametrize(
    "words",
    [
        ("a", "b"),
        (f"{SANDBOX}:a", f"{SANDBOX}:b"),
        ("-", "-"),
        ("--tar", "a", f"{SANDBOX}:b"),
        ("a",),
    ],
)
def test_wrong_usage_is_told(fake: FakeFiles, here: Path, cli: Cli, words: tuple[str, ...]) -> None:
    assert cli("cp", *words).code == 2
    assert fake.requests == []


def test_what_is_missing_or_forbidden_is_told_on_one_line(fake: FakeFiles, here: Path, cli: Cli) -> None:
    done = cli("cp", "missing", f"{SANDBOX}:/f")
    assert (done.code, done.err) == (1, "remote-env: missing: No such file or directory\n")
    done = cli("cp", f"{SANDBOX}:/missing", "f")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "/missing" in done.err
    fake.on("PUT", FILES, refusal("permission_denied"))
    (here / "f").write_text("x")
    done = cli("cp", "--json", "f", f"{SANDBOX}:/f")
    assert done.code == 1
    assert json.loads(done.out)["error"]["kind"] == "SandboxPermissionError"
    done = cli("cp", "--json", "missing", f"{SANDBOX}:/f")
    assert json.loads(done.out)["error"] == {
        "kind": "FileNotFoundError", "message": "missing: No such file or directory", "exit_code": 1,
    }  # fmt: skip


def test_a_download_that_is_interrupted_says_what_is_kept_and_goes_on(fake: FakeFiles, here: Path, spawn: Spawn, cli: Cli) -> None:
    content = pattern_bytes(9 << 20)  # more than one range
    (fake.root / "f").write_bytes(content)
    as_it_is = Fault(change=lambda body: body)
    fake.on("GET", FILES, as_it_is, as_it_is, as_it_is, Fault(before=lambda: process.send_signal(signal.SIGINT)))
    process = spawn("cp", f"{SANDBOX}:/f", str(here / "f"))
    _, err = process.communicate()
    assert process.returncode == 130
    assert b"f.part is kept" in err
    assert sorted(each.name for each in here.iterdir()) == ["f.part", "f.part.json"]
    assert cli("cp", f"{SANDBOX}:/f", "f").code == 0
    assert fake.seen("GET", FILES)[-1].headers["range"].startswith(f"bytes={8 << 20}-")
    assert (here / "f").read_bytes() == content
    assert [each.name for each in here.iterdir()] == ["f"]


def test_diff_and_snapshot_have_help(cli: Cli) -> None:
    for name in ("diff", "snapshot", "cp"):
        done = cli(name, "--help")
        assert done.code == 0
        assert b"Examples:" in done.out
