"""The link's messages, version 3: what server and init say to each other, as bytes.

The link is a ``SOCK_SEQPACKET`` unix socket; one message is one packet. This file and ``init/link.h`` are the
two halves of one definition; ``tests/init`` holds them against each other.

    packet  = type u8 | flags u8 | 0 u16 | body length u32 | body          integers little-endian
    string  = length u32 | bytes                                           no NUL inside
    LARGE   = flags bit 0: the body is not in the packet but in the first descriptor passed with it (a memfd)

    server → init                                               descriptors
    RUN      number u64 | id | run flags u32 | timeout_ms u64 | idle_timeout_ms u64 | grace_ms u32 | user | workdir
             | argc u32 | argv… | envc u32 | "NAME=value"…      [memfd of a LARGE body] [stdin]
             | session | rows u32 | cols u32 | stdin path       (an empty string: none)
    SKIP     number u64 | id
    KILL     id
    ACK      id
    SIGNAL   id | signal u32
    ACTIVITY id                                                 output was seen: starts the idle clock again
    WELCOME  orphan_ms u64                                      the hello is accepted
    FILES    request u32 | user                                 asks for a file agent

    init → server
    HELLO    version u32 | incarnation 16 | secret 16 | highest u64 | pipes u32 | count u32 | entries…
             entry: id | number u64 | state u8 (1 running, 2 ended) | ENDING    (running: started_ns alone counts)
    PIPES    count u32 | id…                                    one read end for each id; after a HELLO, before all else
    STARTED  id | number u64 | started_ns u64                   the read end of its output; SPLIT: of stdout, of stderr
    ENDED    id | number u64 | ENDING
    STALE    id | number u64                                    REFUSE: the number was taken before
    FILES_READY  request u32 | error i32                        a socket to the file agent, where error (an errno) is 0

    SPLIT    an execution that was started with this flag has two read ends: in PIPES its id stands twice in a row, in one
             packet, stdout's first. `pipes` counts read ends.
    SESSION  the execution is a shell that is kept: argv is (shell) or (shell, "-l"). A RUN that names it in `session` has one
             command as its argv, which this shell runs; its read ends are the session's own, once more.
    TTY      the read end is a terminal's other side, to be written to as well; its end of file is EIO. With SESSION: it has a
             terminal beside its pipe. With `session`: the command runs on that terminal.
    FILES    the first packet on the agent's socket is i32: 0, or the errno for which it could not become the user.

    Version 2 is the same without what stands behind env in RUN, its flags from SESSION on and FILES; version 1 without SPLIT, too.

    ENDING   kind u8 | cause u8 | flags u8 | stage u8 | status i32 | started_ns u64 | ended_ns u64 | cpu_us u64
             | max_rss_bytes u64 | waited_ms u64 | oom_kills u32 | 0 u32

What comes from an init is untrusted: everything here raises :class:`BadMessage` rather than guess.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

from server.bodyreader import BadMessage as BadMessage
from server.bodyreader import Reader

LINK_VERSION = 3
SPLIT_SINCE = 2  # the version that brought RunFlag.SPLIT
SESSIONS_SINCE = 3  # the version that brought sessions, terminals, files of stdin, long scripts and file agents
PACKET_LIMIT = 65536  # bytes, header included; a longer message travels as LARGE
BODY_LIMIT = 32 << 20  # bytes; beyond the HTTP body limit (16 MiB) with room for JSON's escapes
PIPES_PER_PACKET = 64  # read ends; the kernel's own limit is 253 (SCM_MAX_FD)
LARGE = 1

_HEADER = struct.Struct("<BBHI")
_U8 = struct.Struct("<B")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_I32 = struct.Struct("<i")
_ENDING = struct.Struct("<BBBBiQQQQQII")
_HELLO = struct.Struct("<I16s16sQII")
_RUN_CLOCKS = struct.Struct("<IQQI")
_RUN_SIZE = struct.Struct("<II")


class Type(IntEnum):
    RUN = 1
    SKIP = 2
    KILL = 3
    ACK = 4
    SIGNAL = 5
    ACTIVITY = 6
    WELCOME = 7
    FILES = 8
    HELLO = 64
    PIPES = 65
    STARTED = 66
    ENDED = 67
    STALE = 68
    FILES_READY = 69


class RunFlag(IntFlag):
    STDIN = 1  # the last descriptor is the command's standard input
    SHELL = 2  # argv[0] may be replaced by "sh" where the image does not have it
    MAKE_WORKDIR = 4  # make the working directory when it is missing
    SPLIT = 8  # stdout and stderr each have a pipe
    SESSION = 16  # a session's shell, kept for the commands that are sent to it
    TTY = 32  # it runs on a terminal; SESSION: it has one, for the commands that ask for it
    ECHO_OFF = 64  # what is typed into the terminal is not shown
    UNLINK_STDIN = 128  # the file that is its standard input is removed once it is open
    SCRIPT = 256  # the last string of argv is a command too long for one argument


class EndingKind(IntEnum):
    EXITED = 1  # status is a wait status, as wait(2) gives it
    FAILED_TO_START = 2  # status is an errno, stage says where
    SKIPPED = 3  # it never ran and never will


class Cause(IntEnum):
    """What the init itself did to the command before it ended."""

    NONE = 0
    TOTAL = 1
    IDLE = 2
    CANCEL = 3


class EndingFlag(IntFlag):
    OUTPUT_OPEN = 1  # descendants were left that may hold the output open
    ALONE = 2  # no other execution ran in the sandbox at any time during this one
    RUNNER_KILLED = 4  # its runner was killed from inside the sandbox; what was left of it was killed
    KILLED_BY_US = 8  # the init sent SIGKILL to it
    SESSION_OVER = 16  # its session's shell ended with it
    CPU_COUNTED = 32  # of a session's command: cpu_us is what its shell has used, in steps of the kernel's tick


class Stage(IntEnum):
    """Where a command failed to start."""

    NONE = 0
    FORK = 1
    PIPE = 2
    USER = 3
    WORKDIR = 4
    EXEC = 5
    STDIN = 6
    CAPACITY = 7
    REQUEST = 8
    SESSION = 9  # it has no such session, or one that is busy or over


@dataclass(frozen=True)
class Run:
    number: int
    id: str
    argv: tuple[str, ...]
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = "/"
    flags: RunFlag = RunFlag(0)
    timeout_ms: int = 0  # 0: none
    idle_timeout_ms: int = 0
    grace_ms: int = 2000
    session: str = ""  # the one that it is a command of
    rows: int = 0  # of its terminal
    cols: int = 0
    stdin_path: str = ""  # a file inside the sandbox


@dataclass(frozen=True)
class Ending:
    kind: EndingKind
    cause: Cause = Cause.NONE
    flags: EndingFlag = EndingFlag(0)
    stage: Stage = Stage.NONE
    status: int = 0
    started_ns: int = 0  # wall clock, nanoseconds since 1970
    ended_ns: int = 0
    cpu_us: int = 0
    max_rss_bytes: int = 0
    waited_ms: int = 0
    oom_kills: int = 0


@dataclass(frozen=True)
class Entry:
    """One line of the init's table: an execution that runs, or whose ending is not acknowledged (then `ending`)."""

    id: str
    number: int
    started_ns: int
    ending: Ending | None


@dataclass(frozen=True)
class Hello:
    version: int
    incarnation: bytes
    secret: bytes
    highest: int
    pipes: int  # how many read ends follow in PIPES packets
    entries: tuple[Entry, ...] = field(default=())


@dataclass(frozen=True)
class Pipes:
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Started:
    id: str
    number: int
    started_ns: int


@dataclass(frozen=True)
class Ended:
    id: str
    number: int
    ending: Ending


@dataclass(frozen=True)
class Stale:
    id: str
    number: int


@dataclass(frozen=True)
class FilesReady:
    request: int
    error: int  # an errno; 0: a socket comes with it


FromInit = Hello | Pipes | Started | Ended | Stale | FilesReady


def _string(text: str | bytes) -> bytes:
    try:
        raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        raise BadMessage(f"it cannot be written as bytes: {error.reason}") from None
    if b"\0" in raw:
        raise BadMessage("a NUL byte cannot be part of an argument, a name or a path")
    return _U32.pack(len(raw)) + raw


def _strings(items: Iterable[str]) -> bytes:
    packed = [_string(item) for item in items]
    return _U32.pack(len(packed)) + b"".join(packed)


def packet(type_: Type, body: bytes, flags: int = 0) -> bytes:
    return _HEADER.pack(type_, flags, 0, len(body)) + body


def large_packet(type_: Type, body_length: int) -> bytes:
    """The packet that goes with a memfd of `body_length` bytes."""
    return _HEADER.pack(type_, LARGE, 0, body_length)


def run_body(run: Run, version: int = LINK_VERSION) -> bytes:
    """As an init of this version reads it. Raises BadMessage for what it could not be told."""
    news: tuple[bytes, ...] = (
        _string(run.session),
        _RUN_SIZE.pack(run.rows, run.cols),
        _string(run.stdin_path),
    )
    if version < SESSIONS_SINCE:
        if run.session or run.stdin_path or run.flags >= RunFlag.SESSION:
            raise BadMessage(f"an init of link version {version} has no sessions, terminals, files of stdin or scripts")
        news = ()
    return b"".join(
        (
            _U64.pack(run.number),
            _string(run.id),
            _RUN_CLOCKS.pack(run.flags, run.timeout_ms, run.idle_timeout_ms, run.grace_ms),
            _string(run.user),
            _string(run.workdir),
            _strings(run.argv),
            _strings(run.env),
            *news,
        )
    )


def skip(number: int, id_: str) -> bytes:
    return packet(Type.SKIP, _U64.pack(number) + _string(id_))


def kill(id_: str) -> bytes:
    return packet(Type.KILL, _string(id_))


def ack(id_: str) -> bytes:
    return packet(Type.ACK, _string(id_))


def signal(id_: str, signum: int) -> bytes:
    return packet(Type.SIGNAL, _string(id_) + _U32.pack(signum))


def activity(id_: str) -> bytes:
    return packet(Type.ACTIVITY, _string(id_))


def welcome(orphan_ms: int) -> bytes:
    return packet(Type.WELCOME, _U64.pack(orphan_ms))


def files(request: int, user: str) -> bytes:
    return packet(Type.FILES, _U32.pack(request) + _string(user))


def agent_error(greeting: bytes) -> int:
    """The errno in a file agent's first packet, 0 where it serves. Raises BadMessage."""
    if len(greeting) != _I32.size:
        raise BadMessage("a file agent's first packet is no number")
    return int(_I32.unpack(greeting)[0])


def header(data: bytes) -> tuple[Type, bool, int]:
    """(type, LARGE?, body length) of a packet. Raises BadMessage."""
    if len(data) < _HEADER.size:
        raise BadMessage("the packet is shorter than its header")
    type_, flags, _, length = _HEADER.unpack_from(data)
    if length > BODY_LIMIT:
        raise BadMessage(f"a body of {length} bytes is over the limit")
    if not flags & LARGE and length != len(data) - _HEADER.size:
        raise BadMessage("the packet's length is not what its header says")
    try:
        return Type(type_), bool(flags & LARGE), length
    except ValueError:
        raise BadMessage(f"there is no message type {type_}") from None


def packet_body(data: bytes) -> bytes:
    return data[_HEADER.size :]


def parse(type_: Type, body: bytes) -> FromInit:
    """A message of the init. Raises BadMessage for anything else."""
    reader = Reader(body)
    message: FromInit
    if type_ is Type.STARTED:
        message = Started(reader.id(), reader.number(_U64), reader.number(_U64))
    elif type_ is Type.ENDED:
        message = Ended(reader.id(), reader.number(_U64), _ending(reader))
    elif type_ is Type.STALE:
        message = Stale(reader.id(), reader.number(_U64))
    elif type_ is Type.PIPES:
        message = Pipes(tuple(reader.id() for _ in range(_count(reader, PIPES_PER_PACKET))))
    elif type_ is Type.FILES_READY:
        message = FilesReady(reader.number(_U32), reader.number(_I32))
    elif type_ is Type.HELLO:
        message = _parse_hello(reader)
    else:
        raise BadMessage(f"{type_.name} is not for an init to say")
    reader.done()
    return message


def _parse_hello(reader: Reader) -> Hello:
    version, incarnation, secret, highest, pipes, count = reader.unpack(_HELLO)
    if pipes > count * (2 if version >= SPLIT_SINCE else 1):
        raise BadMessage("more read ends are announced than the executions can have")
    entries = []
    for _ in range(int(count)):
        id_, number, state = reader.id(), reader.number(_U64), reader.number(_U8)
        ending = _ending(reader)
        if state not in (1, 2):
            raise BadMessage(f"an entry's state is {state}")
        entries.append(Entry(id_, number, ending.started_ns, ending if state == 2 else None))
    return Hello(int(version), incarnation, secret, int(highest), int(pipes), tuple(entries))


def _ending(reader: Reader) -> Ending:
    kind, cause, flags, stage, status, started, ended, cpu, rss, waited, ooms, _ = reader.unpack(_ENDING)
    try:
        return Ending(
            EndingKind(kind), Cause(cause), EndingFlag(flags), Stage(stage), int(status), int(started), int(ended), int(cpu), int(rss),
            int(waited), int(ooms),
        )  # fmt: skip
    except ValueError as error:
        raise BadMessage(f"an ending holds a word that does not exist: {error}") from None


def _count(reader: Reader, limit: int) -> int:
    count = reader.number(_U32)
    if count > limit:
        raise BadMessage(f"{count} items, over the limit of {limit}")
    return count
