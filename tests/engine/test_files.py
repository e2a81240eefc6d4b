"""A sandbox's files over plain HTTP: what is read and written is the sandbox's own, whole or not at all, and nothing hangs."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import requests

from remote_env import Client, Sandbox
from remote_env.filemodels import HASHED
from remote_env.problems import PROBLEMS
from remote_env.protocol import EPOCH_HEADER
from tests.engine.conftest import Http, MakeSandbox
from tests.support.outside import docker as engine
from tests.support.outside import peak_memory, until
from tests.support.server import BUSYBOX, NONROOT, SMALL, Server

BIG = 1 << 30  # bytes
MARGIN = 48 << 20  # bytes of memory that a server may come to need for a transfer of any size
PIECE = bytes(range(256)) * 4096
UNFINISHED = ".remote-env-upload-"


class Files:
    """Requests about the files of one sandbox."""

    def __init__(self, http: Http, sandbox: Sandbox) -> None:
        self._http = http
        self._sandbox = sandbox

    def url(self, path: str, below: str = "", **query: str) -> str:
        return f"/v1/sandboxes/{self._sandbox.id}/files{below}?path={quote(path)}" + (f"&{urlencode(query)}" if query else "")

    def __call__(self, method: str, path: str, *, below: str = "", headers: dict[str, str] | None = None, data: Any = None,
                 **query: str) -> requests.Response:  # fmt: skip
        return self._http(method, self.url(path, below, **query), epoch=self._sandbox.epoch, headers=headers or {}, data=data)

    def put(self, path: str, content: bytes, **query: str) -> Any:
        body = content + hashlib.sha256(content).digest()
        reply = self("PUT", path, data=body, headers={"Content-Type": HASHED}, **query)
        assert reply.status_code in (200, 201), reply.text
        return reply.json()

    def get(self, path: str, **query: str) -> bytes:
        reply = self("GET", path, **query)
        assert reply.status_code == 200, reply.text
        return reply.content


def refused(reply: requests.Response, code: str) -> None:
    problem = reply.json()
    assert (problem["code"], reply.status_code) == (code, PROBLEMS[code][0]), problem


@pytest.fixture
def files(http: Http, shared: Sandbox) -> Files:
    """The files of the shared sandbox, with a directory /files for the test."""
    shared.run("rm -rf /files && mkdir /files", check=True)
    return Files(http, shared)


def test_commands_see_what_was_written_and_files_show_what_commands_wrote(files: Files, shared: Sandbox) -> None:
    written = files.put("/files/a b", b"from outside\n")
    assert (written["uid"], written["mode"]) == (0, 0o644)
    assert shared.run("cat '/files/a b'; echo from inside > /files/c").output() == b"from outside\n"
    assert files.get("/files/c") == b"from inside\n"


def test_relative_path_is_below_the_working_directory(http: Http, make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(workdir="/work/deep")
    files = Files(http, sandbox)
    files.put("there/file", b"x", parents="1")
    assert sandbox.run("cat /work/deep/there/file").output() == b"x"


def test_ordinary_user_owns_what_it_writes_and_is_kept_out_as_its_commands_are(http: Http, make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(NONROOT)
    files = Files(http, sandbox)
    uid = int(sandbox.run("id -u").output())
    assert uid != 0
    assert files.put("/tmp/mine", b"x")["uid"] == uid
    refused(files("PUT", "/etc/new", data=b"x"), "permission_denied")
    refused(files("PUT", "/etc/passwd", data=b"x"), "permission_denied")
    assert files.put("/etc/new", b"x", user="root")["uid"] == 0
    files.put("/root-only", b"secret", user="root", mode="0600")
    refused(files("GET", "/root-only"), "permission_denied")
    refused(files("DELETE", "/root-only"), "permission_denied")
    refused(files("GET", "/tmp/mine", user="nobody-of-that-name"), "invalid")


def test_image_without_shell_or_users_has_files(http: Http, client: Client, scratch_image: str) -> None:
    with client.create_sandbox(scratch_image, memory_bytes=SMALL) as sandbox:
        files = Files(http, sandbox)
        files.put("/made/here", b"content", parents="1")
        assert files.get("/made/here") == b"content"
        refused(files("PUT", "/made/here", data=b"x", user="somebody"), "invalid")
        assert files.put("/made/numbered", b"", user="0")["uid"] == 0


def test_links_stay_inside_the_sandbox(files: Files, shared: Sandbox) -> None:
    shared.run(
        "ln -s /etc/hostname /files/link; ln -s ../../../../../../etc/hostname /files/up; ln -s /proc/1/root/etc/hostname /files/proc"
    )
    name = shared.run("cat /etc/hostname").output()
    assert files.get("/files/link") == files.get("/files/up") == files.get("/../../../etc/hostname") == name
    assert name != Path("/etc/hostname").read_bytes()
    refused(files("GET", "/files/proc"), "permission_denied")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/dev/tty", "/dev/ptmx", "/files/fifo", "/dev/stdout", "/proc/self/fd/1"])
def test_devices_and_fifos_are_refused_at_once(files: Files, shared: Sandbox, path: str) -> None:
    shared.run("mkfifo /files/fifo")
    for method in ("GET", "PUT"):
        reply = files(method, path, data=b"x" if method == "PUT" else None)
        assert reply.json()["code"] in ("not_regular", "permission_denied"), reply.text
    shared.run("test -c /dev/null && test -p /files/fifo", check=True)


def test_made_up_files_are_read_by_the_sandboxs_own_process(files: Files) -> None:
    assert b"Name:" in files.get("/proc/self/status")
    assert files.get("/sys/class/net/lo/mtu") == b"65536\n"
    refused(files("PUT", "/proc/sys/kernel/hostname", data=b"x"), "read_only")


def test_mounted_file_is_written_in_place(files: Files, shared: Sandbox) -> None:
    hosts = files.get("/etc/hosts") + b"10.0.0.1 added\n"
    files.put("/etc/hosts", hosts)
    assert shared.run("cat /etc/hosts; ls -a /etc | grep -c remote-env-upload").output() == hosts + b"0\n"


def test_full_file_system_is_no_space_and_the_old_content_stays(http: Http, make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(shm_bytes=1 << 20)
    files = Files(http, sandbox)
    files.put("/dev/shm/file", b"old")
    refused(files("PUT", "/dev/shm/file", data=bytes(8 << 20)), "no_space")  # known beforehand
    refused(files("PUT", "/dev/shm/file", data=iter([bytes(1 << 20)] * 8)), "no_space")
    assert sandbox.run("cat /dev/shm/file; ls -A /dev/shm").output() == b"oldfile\n"
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        info = tarfile.TarInfo("large")
        info.size = 4 << 20
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    refused(files("PUT", "/dev/shm", data=archive.getvalue(), **{"as": "tar"}), "no_space")
    assert sandbox.run("ls -A /dev/shm").output() == b"file\n"


def test_sandbox_at_its_limit_of_processes_is_full_until_there_is_room(http: Http, make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(pids=16)
    files = Files(http, sandbox)
    # The subshell dies of its last fork; what that leaves free the last but one `sleep` takes.
    bomb = sandbox.start("(while :; do sleep 1000 & done) 2>/dev/null; sleep 1000 & echo full; exec sleep 1000")
    until(lambda: bomb.refresh().output() == b"full\n", "the limit is reached")
    refused(files("GET", "/etc/passwd"), "sandbox_full")
    bomb.cancel()
    bomb.wait()
    assert files.get("/etc/passwd")


def test_agent_that_is_killed_from_inside_is_made_again(files: Files, shared: Sandbox) -> None:
    files.put("/files/a", b"x")
    shared.run("kill -9 -1")
    until(lambda: files("GET", "/files/a").status_code == 200, "files are served again")


def test_paused_sandbox_is_told_of_and_serves_again_afterwards(http: Http, make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox()
    files = Files(http, sandbox)
    files.put("/file", b"x")
    engine("pause", str(sandbox.container_id))
    try:
        refused(files("GET", "/file"), "file_agent_failed")
    finally:
        engine("unpause", str(sandbox.container_id))
    assert files.get("/file") == b"x"


def test_other_epoch_and_unknown_sandbox_are_refused(http: Http, shared: Sandbox) -> None:
    refused(http("GET", f"/v1/sandboxes/{shared.id}/files?path=/", epoch="f" * 32), "epoch_mismatch")
    refused(http("GET", f"/v1/sandboxes/{shared.id}/files?path=/"), "epoch_required")
    refused(http("GET", "/v1/sandboxes/nobody-knows-it/files?path=/", epoch="f" * 32), "not_found")


# --------------------------------------------------------------------------------------------------- transfers


def test_large_file_goes_up_and_comes_down_in_constant_memory(server: Server, files: Files, shared: Sandbox) -> None:
    files.put("/files/small", b"x")
    before = peak_memory(server.pid)
    digest = hashlib.sha256()

    def content() -> Iterator[bytes]:
        for _ in range(BIG // len(PIECE)):
            digest.update(PIECE)
            yield PIECE
        yield digest.digest()

    written = files("PUT", "/files/big", data=content(), headers={"Content-Type": HASHED}).json()
    assert (written["size"], written["sha256"]) == (BIG, digest.hexdigest())
    seen, last = hashlib.sha256(), b""
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": f"Bearer {server.token}", EPOCH_HEADER: str(shared.epoch)}
        with session.get(server.url + files.url("/files/big", digest="1"), headers=headers, stream=True, timeout=60) as reply:
            assert int(reply.headers["Content-Length"]) == BIG + 32
            for piece in reply.iter_content(1 << 20):
                seen.update(last)
                last = piece
    seen.update(last[:-32])
    assert seen.digest() == last[-32:] == digest.digest()
    assert peak_memory(server.pid) - before < MARGIN
    files("DELETE", "/files/big")


class Upload:
    """A PUT whose body stops in the middle."""

    def __init__(self, server: Server, sandbox: Sandbox, path: str, sent: int, said: int = BIG) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self.connection.putrequest("PUT", f"/v1/sandboxes/{sandbox.id}/files?path={quote(path)}")
        for name, value in (("Authorization", f"Bearer {server.token}"), (EPOCH_HEADER, sandbox.epoch), ("Content-Length", said)):
            self.connection.putheader(name, str(value))
        self.connection.endheaders()
        for _ in range(sent // len(PIECE)):
            self.connection.send(PIECE)

    def begun(self, server: Server) -> None:
        """Returns when some of it is in the sandbox: in a file that the server has open, with or without a name."""
        descriptors = Path(f"/proc/{server.pid}/fd")

        def is_begun() -> bool:
            for each in descriptors.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    target = os.readlink(each)
                    if (UNFINISHED in target or "/#" in target) and each.stat().st_size > 1024:
                        return True
            return False

        until(is_begun, "the upload has begun")

    def close(self) -> None:
        self.connection.close()


def nothing_unfinished(sandbox: Sandbox, directory: str) -> None:
    until(lambda: not sandbox.run(f"find {directory} -name '{UNFINISHED}*'").output(), "nothing unfinished is left")


def test_upload_that_breaks_off_leaves_the_old_content_and_nothing_else(server: Server, files: Files, shared: Sandbox) -> None:
    files.put("/files/file", b"old")
    upload = Upload(server, shared, "/files/file", 4 << 20)
    upload.begun(server)
    upload.close()
    nothing_unfinished(shared, "/files")
    assert shared.run("cat /files/file; ls -A /files").output() == b"oldfile\n"


def test_server_killed_in_an_upload_leaves_the_old_content_and_nothing_else(make_server: Callable[..., Server]) -> None:
    """What it had begun is removed by its agent, which sees that its server is gone."""
    server = make_server().start()
    with server.client() as client, client.create_sandbox(BUSYBOX, memory_bytes=SMALL) as sandbox:
        sandbox.run("mkdir /files; printf old > /files/file")
        upload = Upload(server, sandbox, "/files/file", 4 << 20)
        upload.begun(server)
        server.restart()
        upload.close()
        nothing_unfinished(sandbox, "/files")
        assert sandbox.run("cat /files/file; ls -A /files").output() == b"oldfile\n"


def test_server_that_stops_ends_an_upload_that_stands_still(make_server: Callable[..., Server]) -> None:
    server = make_server().start()
    with server.client() as client, client.create_sandbox(BUSYBOX, memory_bytes=SMALL) as sandbox:
        upload = Upload(server, sandbox, "/tmp/file", 4 << 20)
        upload.begun(server)
        assert server.process is not None
        server.process.terminate()
        reply = upload.connection.getresponse()
        problem = json.loads(reply.read())
        assert (reply.status, problem["code"], problem["accepted"]) == (503, "stopping", False)
        upload.close()
        server.process.wait()
        server.start()
        assert sandbox.run("ls -A /tmp").output() == b""


def test_sandbox_removed_in_transfers_ends_them(server: Server, http: Http, make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox()
    upload = Upload(server, sandbox, "/tmp/file", 4 << 20, 6 << 20)
    upload.begun(server)
    sandbox.remove()
    for _ in range(2):
        upload.connection.send(PIECE)
    reply = upload.connection.getresponse()
    assert reply.status in (410, 502), reply.read()
    upload.close()
    refused(Files(http, sandbox)("GET", "/tmp/file"), "gone")
    assert sandbox.container_id not in server.containers()


# -------------------------------------------------------------------------------------------------------- trees


def test_tree_comes_and_goes_with_modes_links_and_times(files: Files, shared: Sandbox) -> None:
    shared.run(
        "cd /files && mkdir -p tree/sub/empty && echo hello > tree/file && chmod 751 tree/file"
        " && ln -s file tree/link && ln tree/file tree/sub/same"
        " && chmod 700 tree/sub && touch -d '2001-02-03 04:05:06' tree/file && mkfifo tree/fifo", check=True,
    )  # fmt: skip
    reply = files.get("/files/tree", digest="1", **{"as": "tar"})
    archive, digest = reply[:-32], reply[-32:]
    assert hashlib.sha256(archive).digest() == digest
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = tar.getnames()
        assert sorted(set(names)) == ["tree", "tree/file", "tree/link", "tree/sub", "tree/sub/empty", "tree/sub/same"]
        left_out = tar.getmembers()[-1].pax_headers["REMOTE_ENV.left_out"]
        assert left_out == '[{"path": "tree/fifo", "code": "not_regular"}]'
    body = archive + hashlib.sha256(archive).digest()
    headers = {"Content-Type": HASHED}
    assert files("PUT", "/files/copy", data=body, headers=headers, parents="1", **{"as": "tar"}).status_code == 200
    show = "find . ! -type p | sort | xargs stat -c '%n %a %F %Y' | grep -v '^. \\|symbolic\\|sub/same'; readlink link; cat file sub/same"
    assert shared.run(f"cd /files/copy/tree && {show}").output() == shared.run(f"cd /files/tree && {show}").output()


def test_tree_of_an_ordinary_user_is_its_own(http: Http, make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(NONROOT)
    files = Files(http, sandbox)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        info = tarfile.TarInfo("owned-by-root-in-the-archive")
        tar.addfile(info)
    assert files("PUT", "/tmp/tree", data=archive.getvalue(), parents="1", **{"as": "tar"}).status_code == 200
    assert sandbox.run("find /tmp/tree ! -user $(id -u)").output() == b""


def test_whole_sandbox_can_be_packed(files: Files) -> None:
    with tarfile.open(fileobj=io.BytesIO(files.get("/", **{"as": "tar"}))) as tar:
        names = set(tar.getnames())
    assert {"./etc/passwd", "./proc", "./sys"} <= names
    assert not any(name.startswith(("./proc/", "./sys/")) for name in names)
