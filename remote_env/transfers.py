"""What a transfer tells while it goes on and when it is over, and how a tree comes."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from remote_env.carrier import StreamedReply
from remote_env.errors import Damaged
from remote_env.exchange import BrokenAnswer
from remote_env.filemodels import DIGEST_BYTES
from remote_env.filerequests import FileRequests, Path
from remote_env.hashed import CutShort, Damage, Piece, Unframer
from remote_env.intake import Intake
from remote_env.lanes import Aside

_TRIES = 3  # of a tree that comes damaged

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Progress:
    """How far an upload or download is. It may go back: what broke off is sent or fetched again."""

    path: str  # of the file or tree in the sandbox; of a tree that comes, the entry that is being unpacked
    bytes: int  # of content, so far
    total: int | None  # bytes of content in all; None where that is not known beforehand


@dataclass(frozen=True)
class Transfer:
    """What was carried over."""

    path: str  # where it is now
    files: int
    bytes: int  # of content
    sha256: str | None  # hex, of a file's content; None of a tree, and of a file that came in several ranges, each with its own
    skipped: Mapping[str, str] = field(default_factory=dict)
    """What was left out of a tree, by path, and why: "not_regular" for sockets, FIFOs and devices, "permission_denied", …"""


OnProgress = Callable[[Progress], object]


def told(on_progress: OnProgress | None, path: Path, total: int | None) -> Callable[[int], None]:
    """Turns a count of bytes into progress. Of a tree that is sent, headers count too: never more than there is."""
    name = os.fspath(path)

    def tell(count: int) -> None:
        if on_progress is not None:
            on_progress(Progress(name, count if total is None else min(count, total), total))

    return tell


async def receive_tree(requests: FileRequests, path: Path, user: str | None, take: Callable[[StreamedReply], Awaitable[Answer]]) -> Answer:
    """A tree as a framed tar, for `take` to read; anew for each attempt. Raises FileError and its kinds, and what any request raises."""
    damaged = 0

    async def guarded(reply: StreamedReply) -> Answer:
        nonlocal damaged
        try:
            return await take(reply)
        except Damage as damage:
            damaged += 1
            requests.transport.stats.add(corrupted=1)
            requests.transport.drop_connections()
            if damaged == _TRIES:
                raise Damaged(f"{os.fspath(path)}: {damage}, {_TRIES} times.", path=os.fspath(path)) from damage
            raise BrokenAnswer(str(damage)) from damage

    url = requests.url(path, **{"as": "tar"}, digest=True, user=user)
    return await requests.receive(url, path, guarded)


async def unframe(
    reply: StreamedReply, write: Callable[[Piece], object], aside: Aside, on_batch: Callable[[], object] = lambda: None, *, apart: bool
) -> None:  # fmt: skip
    """The content of a framed answer to `write`. Raises Damage; BrokenAnswer where it was cut; what reading and writing raise.

    Args:
        on_batch: called now and then.
        apart: `write` may be called in a thread of its own.
    """
    length = reply.headers.get("Content-Length", "")  # a chunked answer tells by itself when it was cut
    unframer = Unframer(max(0, int(length) - DIGEST_BYTES) if length.isdigit() else None)
    async with Intake(unframer, aside, apart=apart) as intake:
        while data := await reply.read():
            await intake.take(data, write)
            on_batch()
        try:
            await intake.finish()
        except CutShort as cut:
            raise BrokenAnswer(f"the answer was cut: {cut}") from cut
        on_batch()
