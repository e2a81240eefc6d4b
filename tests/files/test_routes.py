"""The routes of files, in front of a real agent: what is asked, what is answered, what is there afterwards."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from remote_env.filemodels import HASHED
from remote_env.problems import PROBLEMS
from tests.unit.server.fakes import EPOCH, SANDBOX
from tests.unit.server.harness import EPOCH_OF_SANDBOX, Reply, RunningServer

BASE = f"/v1/sandboxes/{SANDBOX}/files"
CONTENT = bytes(range(256)) * 5000


def url(path: str | bytes, below: str = "", **query: str) -> str:
    rest = f"&{urlencode(query)}" if query else ""
    return f"{BASE}{below}?path={quote(path if isinstance(path, bytes) else os.fsencode(path))}{rest}"


def ask(server: RunningServer, method: str, path: str | bytes, body: bytes | None = None, *, below: str = "",
        headers: dict[str, str] | None = None, **query: str) -> Reply:  # fmt: skip
    return server.request(method, url(path, below, **query), body, {**EPOCH_OF_SANDBOX, **(headers or {})})


def hashed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


def refused(reply: Reply, code: str) -> None:
    problem = reply.json()
    assert (problem["code"], reply.status) == (code, PROBLEMS[code][0]), problem


def put(server: RunningServer, path: str | bytes, content: bytes, **query: str) -> Any:
    reply = ask(server, "PUT", path, hashed(content), headers={"Content-Type": HASHED}, **query)
    assert reply.status in (200, 201), reply.body
    return reply.json()


# --------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("size", [0, 1, 4095, 1 << 20, (1 << 20) + 1, len(CONTENT)])
def test_content_of_any_size_comes_back_as_it_was_written(server: RunningServer, root: Path, size: int) -> None:
    content = CONTENT[:size]
    written = put(server, "/file", content)
    assert written["sha256"] == hashlib.sha256(content).hexdigest()
    assert (root / "file").read_bytes() == content
    assert ask(server, "GET", "/file").body == content
    reply = ask(server, "GET", "/file", digest="1")
    assert (reply.body, reply.headers["Content-Type"]) == (hashed(content), HASHED)


def test_answers_say_what_they_are_about(server: RunningServer, root: Path) -> None:
    (root / "file").write_bytes(b"x")
    reply = ask(server, "GET", "/file")
    assert (reply.headers["X-Remote-Env-Sandbox"], reply.headers["X-Remote-Env-Epoch"]) == (SANDBOX, EPOCH)


def test_range_is_a_part_and_its_digest_is_of_that_part(server: RunningServer, root: Path) -> None:
    (root / "file").write_bytes(CONTENT)
    whole = ask(server, "GET", "/file")
    reply = ask(server, "GET", "/file", headers={"Range": "bytes=1000000-1000999", "If-Range": whole.headers["ETag"]}, digest="1")
    assert (reply.status, reply.body) == (206, hashed(CONTENT[1000000:1001000]))
    assert reply.headers["Content-Range"] == f"bytes 1000000-1000999/{len(CONTENT)}"
    assert ask(server, "GET", "/file", headers={"Range": "bytes=5-"}).body == CONTENT[5:]
    refused(ask(server, "GET", "/file", headers={"Range": f"bytes={len(CONTENT)}-"}), "range_not_satisfiable")


def test_file_that_changed_is_sent_whole_or_refused_never_mixed(server: RunningServer, root: Path) -> None:
    (root / "file").write_bytes(b"old content")
    etag = ask(server, "GET", "/file").headers["ETag"]
    put(server, "/file", b"new content")
    reply = ask(server, "GET", "/file", headers={"Range": "bytes=4-", "If-Range": etag})
    assert (reply.status, reply.body) == (200, b"new content")
    refused(ask(server, "GET", "/file", headers={"Range": "bytes=4-", "If-Match": etag}), "changed")
    now = reply.headers["ETag"]
    assert ask(server, "GET", "/file", headers={"Range": "bytes=4-", "If-Match": f'"other", {now}'}).body == b"content"


def test_head_says_everything_but_the_content(server: RunningServer, root: Path) -> None:
    (root / "file").write_bytes(CONTENT)
    (root / "file").chmod(0o640)
    reply = ask(server, "HEAD", "/file")
    assert (reply.status, reply.body, reply.headers["Content-Length"]) == (200, b"", str(len(CONTENT)))
    assert (reply.headers["X-Remote-Env-Mode"], reply.headers["Accept-Ranges"]) == ("0640", "bytes")


def test_size_of_a_sparse_file_is_its_size(server: RunningServer, root: Path) -> None:
    with (root / "sparse").open("wb") as file:
        file.truncate(1 << 42)
    reply = ask(server, "GET", "/sparse", headers={"Range": f"bytes={(1 << 42) - 3}-"})
    assert (reply.status, reply.body) == (206, b"\0\0\0")


# --------------------------------------------------------------------------------------- what cannot be read


def special(root: Path, kind: str) -> None:
    path = root / "special"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero: has no end
    else:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))


@pytest.mark.parametrize("kind", ["fifo", "device", "socket"])
@pytest.mark.parametrize("through_link", [False, True])
def test_special_files_are_neither_read_nor_written_nor_waited_for(
    server: RunningServer, root: Path, kind: str, through_link: bool
) -> None:
    special(root, kind)
    (root / "link").symlink_to("special")
    path = "/link" if through_link else "/special"
    refused(ask(server, "GET", path), "not_regular")
    refused(ask(server, "PUT", path, b"x"), "not_regular")
    assert ask(server, "GET", path, **{"as": "stat"}).json()["type"] == "other"
    assert not stat.S_ISREG((root / "special").stat().st_mode)
    assert ask(server, "DELETE", path).status == 200
    assert (root / "special").exists() == through_link


@pytest.mark.parametrize(
    ("path", "method", "code"),
    [
        ("/missing", "GET", "file_not_found"), ("/missing", "DELETE", "file_not_found"), ("/missing/deeper", "PUT", "file_not_found"),
        ("/directory", "GET", "is_directory"), ("/directory", "PUT", "is_directory"), ("/", "PUT", "is_directory"),
        ("/file/below", "GET", "not_directory"), ("/file/below", "PUT", "not_directory"), ("/file/", "GET", "not_directory"),
        ("/directory", "DELETE", "directory_not_empty"), ("/loop", "GET", "too_many_links"), ("/loop", "PUT", "too_many_links"),
        ("/" + "n" * 256, "GET", "name_too_long"), ("/" + "n" * 256, "PUT", "name_too_long"), ("/d" * 3000, "GET", "name_too_long"),
        ("/x" * 20000, "GET", "name_too_long"), ("/with\0nul", "GET", "invalid"), ("", "GET", "invalid"),
        ("/directory/new/", "PUT", "is_directory"),
        ("/directory/..", "PUT", "is_directory"),
    ],
)  # fmt: skip
def test_refusals_have_a_code(server: RunningServer, root: Path, path: str, method: str, code: str) -> None:
    (root / "directory").mkdir()
    (root / "directory/inside").write_bytes(b"")
    (root / "file").write_bytes(b"content")
    (root / "loop").symlink_to("loop")
    before = sorted(root.rglob("*"))
    refused(ask(server, method, path, b"new" if method == "PUT" else None), code)
    assert sorted(root.rglob("*")) == before
    assert (root / "file").read_bytes() == b"content"


@pytest.mark.parametrize(
    "query", ["as=xml", "mode=9", "mode=01234567", "user=a%00b", "digest=maybe", "&".join(f"a{n}=1" for n in range(40))]
)
def test_query_that_makes_no_sense_is_refused(server: RunningServer, root: Path, query: str) -> None:
    method = "PUT" if query.startswith("mode") else "GET"
    refused(server.request(method, f"{BASE}?path=/file&{query}", b"x" if method == "PUT" else None, EPOCH_OF_SANDBOX), "invalid")


def test_epoch_is_needed(server: RunningServer) -> None:
    refused(server.request("GET", url("/file")), "epoch_required")


# --------------------------------------------------------------------------------------------------- writing


def test_file_is_replaced_whole_with_the_mode_it_had(server: RunningServer, root: Path) -> None:
    (root / "file").write_bytes(b"old")
    (root / "file").chmod(0o751)
    with (root / "file").open("rb") as reader:
        reply = ask(server, "PUT", "/file", b"new")
        assert reader.read() == b"old"
    assert (reply.status, reply.json()["mode"]) == (200, 0o751)
    assert ((root / "file").read_bytes(), stat.S_IMODE((root / "file").stat().st_mode)) == (b"new", 0o751)


def test_new_file_has_the_mode_asked_for_or_0644(server: RunningServer, root: Path) -> None:
    assert ask(server, "PUT", "/a", b"").json()["mode"] == 0o644
    assert ask(server, "PUT", "/b", b"", mode="4755").json()["mode"] == 0o4755
    assert ask(server, "PUT", "/b", b"", mode="0600").json()["mode"] == 0o600
    assert ask(server, "PUT", "/b", b"", mode="0").json()["mode"] == 0


def test_damaged_body_changes_nothing(server: RunningServer, root: Path) -> None:
    (root / "file").write_bytes(b"old")
    damaged = hashed(CONTENT)[:-1] + b"?"
    for body in (damaged, b"short"):
        refused(ask(server, "PUT", "/file", body, headers={"Content-Type": HASHED}), "damaged")
    assert (root / "file").read_bytes() == b"old"
    assert [path.name for path in root.iterdir()] == ["file"]


def test_missing_directories_are_made_only_where_asked(server: RunningServer, root: Path) -> None:
    put(server, "/a/b/c", b"x", parents="1")
    assert (root / "a/b/c").read_bytes() == b"x"
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o755


@pytest.mark.parametrize("target", ["real", "/real", "directory/../real", "second", "/directory/absolute"])
@pytest.mark.parametrize("there", [True, False])
def test_symlink_stays_and_the_file_it_leads_to_is_written(server: RunningServer, root: Path, target: str, there: bool) -> None:
    (root / "directory").mkdir()
    (root / "second").symlink_to("/directory/absolute")
    (root / "directory/absolute").symlink_to("../real")
    (root / "link").symlink_to(target)
    if there:
        (root / "real").write_bytes(b"old")
    put(server, "/link", b"new")
    assert (root / "link").is_symlink()
    assert (root / "real").read_bytes() == b"new"


def test_links_lead_into_the_sandboxs_own_etc(server: RunningServer, root: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc/hostname").write_bytes(b"the sandbox's")
    (root / "link").symlink_to("/etc/hostname")
    (root / "up").symlink_to("../../../../../../etc/hostname")
    for path in ("/link", "/up", "/../../../../etc/hostname", "/etc/../../etc/hostname"):
        assert ask(server, "GET", path).body == b"the sandbox's"
        put(server, path, b"the sandbox's")
    assert ask(server, "GET", "/etc/passwd").status == 404


def test_paths_are_relative_to_the_working_directory(server: RunningServer, root: Path) -> None:
    put(server, "deeper/file", b"x", parents="1")
    assert (root / "deeper/file").read_bytes() == b"x"
    assert ask(server, "GET", "./deeper/../deeper/file").body == b"x"


@pytest.mark.parametrize(
    "name", [b"plain", "ümläut €".encode(), b"\xff\xfe", b"new\nline", b"%41+ &=?#", b"'\"\\", b"n" * 255, b" ", b"-rf"]
)
def test_any_name_is_a_name(server: RunningServer, root: Path, name: bytes) -> None:
    put(server, b"/" + name, b"content")
    assert os.listdir(os.fsencode(root)) == [name]
    assert ask(server, "GET", b"/" + name).body == b"content"
    (listed,) = ask(server, "GET", "/", **{"as": "list"}).json()["entries"]
    if listed["path_base64"] is None:
        assert listed["path"].encode() == b"/" + name
    else:
        assert "\ufffd" in listed["path"]
    assert ask(server, "DELETE", b"/" + name).status == 200
    assert os.listdir(root) == []


# -------------------------------------------------------------------------------- looking, making, removing


def test_stat_follows_a_link_or_shows_it(server: RunningServer, root: Path) -> None:
    (root / "file").write_bytes(b"12345")
    (root / "link").symlink_to("file")
    found = ask(server, "GET", "/link", **{"as": "stat"}).json()
    assert (found["type"], found["size"], found["target"]) == ("file", 5, None)
    found = ask(server, "GET", "/link", **{"as": "stat", "follow": "0"}).json()
    assert (found["type"], found["target"]) == ("symlink", "file")


def test_list_is_sorted_and_whole_however_long(server: RunningServer, root: Path) -> None:
    for number in range(3000):
        (root / f"{number:04}").symlink_to("t" * 1000) if number % 3 == 0 else (root / f"{number:04}").write_bytes(b"x")
    entries = ask(server, "GET", "/", **{"as": "list"}).json()["entries"]
    assert [entry["path"] for entry in entries] == [f"/{number:04}" for number in range(3000)]
    assert {entry["target"] for entry in entries[::3]} == {"t" * 1000}


def test_tree_is_removed_only_where_asked_and_nothing_beside_it(server: RunningServer, root: Path) -> None:
    (root / "kept").mkdir()
    (root / "kept/file").write_bytes(b"x")
    for number in range(1200):
        (root / f"tree/{number % 7}/deep/{number % 3}").mkdir(parents=True, exist_ok=True)
        (root / f"tree/{number % 7}/deep/{number % 3}/{number}").write_bytes(b"x")
    (root / "tree/out").symlink_to("/kept")
    os.mkfifo(root / "tree/fifo")
    refused(ask(server, "DELETE", "/tree"), "directory_not_empty")
    assert ask(server, "DELETE", "/tree", recursive="1").status == 200
    assert sorted(path.name for path in root.rglob("*")) == ["file", "kept"]


def test_deleting_a_link_to_a_tree_leaves_the_tree(server: RunningServer, root: Path) -> None:
    (root / "tree").mkdir()
    (root / "tree/file").write_bytes(b"x")
    (root / "link").symlink_to("tree")
    assert ask(server, "DELETE", "/link", recursive="1").status == 200
    assert (root / "tree/file").exists()


def test_directories_are_made(server: RunningServer, root: Path) -> None:
    refused(ask(server, "POST", "/a/b", below="/directory"), "file_not_found")
    assert ask(server, "POST", "/a/b", below="/directory", parents="1", mode="0700").status == 201
    assert stat.S_IMODE((root / "a/b").stat().st_mode) == 0o700
    assert ask(server, "POST", "/a/b", below="/directory", parents="1").status == 200
    refused(ask(server, "POST", "/a/b", below="/directory"), "wrong_state")
    (root / "file").write_bytes(b"")
    refused(ask(server, "POST", "/file", below="/directory", parents="1"), "not_directory")
