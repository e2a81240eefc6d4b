"""Files of real sandboxes, through the client: whose they are, what cannot be reached, and what survives a server that dies."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from remote_env import (
    DirectoryNotEmpty,
    FileError,
    InvalidSpec,
    NoSpace,
    NotARegularFile,
    Progress,
    Sandbox,
    SandboxFileNotFound,
    SandboxGone,
    SandboxIsADirectory,
    SandboxNotADirectory,
    SandboxPermissionError,
)
from tests.engine.conftest import MakeSandbox
from tests.support.server import BUSYBOX, NONROOT, SMALL, Server

MIB = 1 << 20


def text(sandbox: Sandbox, command: str) -> str:
    return sandbox.run(command, check=True).text.strip()


def pattern(size: int) -> bytes:
    """Different everywhere, so that a range in the wrong place shows."""
    return b"".join(b"%015d\n" % number for number in range(size // 16))


# ------------------------------------------------------------------------------------------------ whose and where


def test_a_file_belongs_to_the_sandboxs_user_and_paths_begin_at_its_workdir(make_sandbox: MakeSandbox, nonroot_image: str) -> None:
    sandbox = make_sandbox(NONROOT)
    written = sandbox.write("notes/today", "text", mode=0o640)
    assert written.path == "/home/app/notes/today"
    assert text(sandbox, "stat -c '%U %G %a %s' notes notes/today").split("\n")[1].split()[0] == "app"
    assert text(sandbox, "stat -c '%a' notes/today") == "640"
    sandbox.write("/root/secret", "x", user="root")
    assert text(sandbox, "stat -c %a /root || true") == "700"
    with pytest.raises(SandboxPermissionError):
        sandbox.read_bytes("/root/secret")
    with pytest.raises(SandboxPermissionError):
        sandbox.write("/root/other", "x")
    assert sandbox.read_bytes("/root/secret", user="0") == b"x"


def test_a_file_that_is_replaced_keeps_its_mode_and_is_never_half_there(sandbox: Sandbox) -> None:
    sandbox.run("echo old > /f; chmod 751 /f; ln -s f /link", check=True)
    sandbox.write("/link", b"new")
    assert text(sandbox, "stat -c %a /f; cat /f; echo; readlink /link") == "751\nnew\nf"
    assert sandbox.stat("/link", follow=False).type == "symlink"


def test_what_the_client_says_of_a_file_is_what_stat_says(sandbox: Sandbox) -> None:
    sandbox.run("mkdir /d; printf 12345 > /d/f; chown app:staff /d/f; chmod 4711 /d/f; ln -s f /d/l; mkfifo /d/p; mkdir /d/s", check=True)
    found = {each.name: each for each in sandbox.list("/d")}
    assert list(found) == ["f", "l", "p", "s"]
    assert [found[name].type for name in found] == ["file", "symlink", "other", "directory"]
    assert (found["f"].size, found["f"].mode, found["l"].target) == (5, 0o4711, "f")
    assert text(sandbox, "stat -c '%u %g %Y' /d/f") == f"{found['f'].uid} {found['f'].gid} {int(found['f'].mtime)}"
    assert sandbox.stat("/d/l").type == "file"


def test_names_of_any_letters_and_bytes_are_the_files_own(sandbox: Sandbox) -> None:
    for name in ("/a b", "/ü☃", "/new\nline", "/%2e%2e", "/a&b=c?d#e", os.fsdecode(b"/\xff\xfe")):
        sandbox.write(name, name.encode("utf-8", "surrogateescape"))
        assert sandbox.read_bytes(name) == name.encode("utf-8", "surrogateescape")
        assert sandbox.stat(name).path == name
    assert {os.fsdecode(b"\xff\xfe"), "ü☃"} <= {each.name for each in sandbox.list("/")}
    assert sandbox.run(["cat", "/new\nline"]).output() == b"/new\nline"


# ------------------------------------------------------------------------------------------------------- errors


def test_each_failure_is_told_as_what_it_is(sandbox: Sandbox) -> None:
    sandbox.run("mkdir -p /d/e; echo x > /f; ln -s loop /loop", check=True)
    failures: list[tuple[Callable[[], object], type[Exception]]] = [
        (lambda: sandbox.read_bytes("/none"), SandboxFileNotFound),
        (lambda: sandbox.stat("/none/x"), SandboxFileNotFound),
        (lambda: sandbox.write("/none/x", b"", parents=False), SandboxFileNotFound),
        (lambda: sandbox.remove("/none"), SandboxFileNotFound),
        (lambda: sandbox.read_bytes("/d"), SandboxIsADirectory),
        (lambda: sandbox.write("/d", b"x"), SandboxIsADirectory),
        (lambda: sandbox.read_bytes("/f/x"), SandboxNotADirectory),
        (lambda: sandbox.list("/f"), SandboxNotADirectory),
        (lambda: sandbox.remove("/d"), DirectoryNotEmpty),
        (lambda: sandbox.read_bytes("/loop"), NotARegularFile),
        (lambda: sandbox.read_bytes("/" + "x" * 300), InvalidSpec),
    ]
    for call, kind in failures:
        with pytest.raises(kind):
            call()
    assert (text(sandbox, "cat /f"), sandbox.gone) == ("x", None)


@pytest.mark.parametrize("path", ["/fifo", "/dev/zero", "/dev/null"])
def test_what_is_no_file_is_refused_at_once(sandbox: Sandbox, path: str) -> None:
    """A FIFO that nobody writes to would be waited for, and /dev/zero has no end."""
    sandbox.run("mkfifo /fifo", check=True)
    with pytest.raises(NotARegularFile):
        sandbox.read_bytes(path)
    with pytest.raises(NotARegularFile):
        sandbox.write(path, b"x")


def test_a_full_disk_leaves_the_old_file_and_nothing_of_the_new(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(shm_bytes=2 * MIB)
    sandbox.write("/dev/shm/f", b"old")
    with pytest.raises(NoSpace):
        sandbox.write("/dev/shm/f", bytes(8 * MIB))
    assert sandbox.read_bytes("/dev/shm/f") == b"old"
    assert [each.name for each in sandbox.list("/dev/shm")] == ["f"]


def test_a_read_only_root_cannot_be_written(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(read_only=True)
    with pytest.raises(SandboxPermissionError):
        sandbox.write("/f", b"x")


def test_a_sandbox_that_is_gone_has_no_files(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox()
    again = sandbox._client.sandbox(sandbox.id)
    sandbox.remove()
    for each in (sandbox, again):
        with pytest.raises(SandboxGone):
            each.read_bytes("/etc/passwd")


def test_nothing_of_the_host_is_reached(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the host's")
    sandbox.run(f"ln -s {tmp_path}/secret /direct; ln -s /proc/1/root/{tmp_path}/secret /through; mkdir -p /a", check=True)
    up = "/../" * 20
    for path in ("/direct", "/through", f"{up}{tmp_path}/secret", f"/a{up}{tmp_path}/secret"):
        with pytest.raises(FileError):
            sandbox.read_bytes(path)
    sandbox.write(f"{up}{tmp_path}/secret", b"the sandbox's")
    assert (tmp_path / "secret").read_text() == "the host's"
    assert sandbox.read_bytes(f"{tmp_path}/secret") == b"the sandbox's"


# -------------------------------------------------------------------------------------------------------- trees


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (top / "run.sh").chmod(0o755)
    (top / "secret").write_bytes(b"")
    (top / "secret").chmod(0o600)
    (top / "sub" / "data").write_bytes(pattern(3 * MIB))
    (top / "sub" / ("long" * 50)).write_text("x")
    (top / "ü").write_text("x")
    (top / "sub").chmod(0o700)
    (top / "out").symlink_to("/etc/passwd")
    (top / "nowhere").symlink_to("missing")
    return top


def shape(top: Path) -> dict[str, tuple[int, object]]:
    found: dict[str, tuple[int, object]] = {}
    for path in sorted(top.rglob("*")):
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(top))] = (0 if path.is_symlink() else stat.S_IMODE(path.lstat().st_mode), content)
    return found


def test_a_tree_goes_in_runs_there_and_comes_back_the_same(
    make_sandbox: MakeSandbox, nonroot_image: str, tree: Path, tmp_path: Path
) -> None:
    sandbox = make_sandbox(NONROOT)
    sent = sandbox.upload(tree, "project")
    assert sent.files == 5
    assert text(sandbox, "./project/run.sh") == "ran"
    assert text(sandbox, "find project ! -user app") == ""
    assert text(sandbox, "readlink project/out; readlink project/nowhere") == "/etc/passwd\nmissing"
    sandbox.download("project", tmp_path / "back")
    assert shape(tmp_path / "back") == shape(tree)


def test_a_tree_is_not_written_through_a_link_of_the_sandbox(sandbox: Sandbox, tree: Path) -> None:
    sandbox.run("mkdir /t /elsewhere; ln -s /elsewhere /t/sub", check=True)
    with pytest.raises((FileError, InvalidSpec)):
        sandbox.upload(tree, "/t")
    assert text(sandbox, "ls -A /elsewhere") == ""


def test_what_is_no_file_in_a_tree_is_left_out_and_waits_for_nobody(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.run("mkdir /t; mkfifo /t/fifo; mknod /t/null c 1 3 2>/dev/null; echo x > /t/f; ln -s /proc /t/proc", check=True)
    assert sandbox.download("/t", tmp_path / "t").skipped["t/fifo"] == "not_regular"
    assert sorted(os.listdir(tmp_path / "t")) == ["f", "proc"]
    assert os.readlink(tmp_path / "t" / "proc") == "/proc"


def test_a_tree_that_a_link_leads_to_is_downloaded(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.run("mkdir /t; echo x > /t/f; ln -s /t /link", check=True)
    sandbox.download("/link", tmp_path / "t")
    assert (tmp_path / "t" / "f").read_text() == "x\n"


# ------------------------------------------------------------------------------------------- servers that go away


def once_at(size: int, action: Callable[[], object]) -> Callable[[Progress], None]:
    done: list[bool] = []

    def tell(progress: Progress) -> None:
        if progress.bytes >= size and not done:
            done.append(True)
            action()

    return tell


def test_a_transfer_outlives_its_server(make_server: Callable[..., Server], busybox_image: str, tmp_path: Path) -> None:
    """The server is killed in the middle of an upload and of a download, and another one takes over."""
    server = make_server().start()
    content = pattern(48 * MIB)
    (tmp_path / "f").write_bytes(content)
    with server.client() as client, client.create_sandbox(BUSYBOX, memory_bytes=SMALL) as sandbox:
        sent = sandbox.upload(tmp_path / "f", "/f", on_progress=once_at(24 * MIB, server.restart))
        assert sent.sha256 == hashlib.sha256(content).hexdigest()
        assert text(sandbox, "sha256sum /f").startswith(sent.sha256)
        assert text(sandbox, "ls -A / | grep -v '^[a-z]' || true") in ("", ".remote-env", ".dockerenv\n.remote-env")
        sandbox.download("/f", tmp_path / "back", on_progress=once_at(24 * MIB, server.restart))
    assert (tmp_path / "back").read_bytes() == content
    assert sorted(each.name for each in tmp_path.iterdir() if each.name[0] != "d") == ["back", "f"]


def test_a_file_that_is_written_while_it_is_read_is_one_version_or_told(sandbox: Sandbox, tmp_path: Path) -> None:
    old, new = pattern(24 * MIB), b"new" * MIB
    sandbox.write("/f", old)
    sandbox.download("/f", tmp_path / "f", on_progress=once_at(8 * MIB, lambda: sandbox.write("/f", new)))
    assert (tmp_path / "f").read_bytes() in (old, new)


def test_files_of_the_kernel_that_say_they_are_empty_are_read(sandbox: Sandbox, tmp_path: Path) -> None:
    assert b"MemTotal" in sandbox.read_bytes("/proc/meminfo")
    sandbox.download("/proc/meminfo", tmp_path / "meminfo")
    assert "MemTotal" in (tmp_path / "meminfo").read_text()
