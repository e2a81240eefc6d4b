"""A command's output: the pipe that holds it, the file that keeps it. A byte is its own place in the output: 0, 1, 2, …"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

CAPACITY = 3  # bytes that a pipe holds
HEAD = 1  # bytes that are kept of the beginning of an output
TAIL = 1  # and of its end


class Pipe:
    """Who holds its read end is counted: a writer to a pipe that nobody can read dies of SIGPIPE."""

    __slots__ = ("holders", "queue")

    def __init__(self) -> None:
        self.queue: deque[int] = deque()
        self.holders: list[object] = []

    @property
    def full(self) -> bool:
        return len(self.queue) >= CAPACITY

    def hold(self, holder: object) -> None:
        self.holders.append(holder)

    def let_go(self, holder: object) -> None:
        """What no one can read any more is gone."""
        if holder in self.holders:
            self.holders.remove(holder)
            if not self.holders:
                self.queue.clear()


class SpoolFile:
    """Append-only, its middle punched out beyond the limit: its length is the exact total (APPEND).

    Args:
        ring: APPEND is off: the tail is a ring that is written over.
    """

    __slots__ = ("content", "ring")

    def __init__(self, ring: bool) -> None:
        self.content: list[int | None] = []
        self.ring = ring

    def write(self, place: int, byte: int) -> None:
        if self.ring and place >= HEAD:
            place = HEAD + (place - HEAD) % TAIL
        self.content.extend([None] * (place + 1 - len(self.content)))
        self.content[place] = byte

    def kept(self, total: int) -> tuple[int | None, ...]:
        """The kept bytes of an output that is `total` bytes long."""
        if not self.ring:
            return tuple(self.content[place] for place in kept_places(total) if place < len(self.content))
        places = [place if place < HEAD else HEAD + (place - HEAD) % TAIL for place in kept_places(total)]
        return tuple(self.content[place] for place in places if place < len(self.content))


class Reader:
    """The server's end of a pipe. It begins where the file ends (LENGTH)."""

    __slots__ = ("file", "pipe", "place")

    def __init__(self, pipe: Pipe, file: SpoolFile, place: int) -> None:
        self.pipe, self.file, self.place = pipe, file, place
        pipe.hold(self)

    def splice(self, most: int) -> int:
        """Take up to so many bytes; returns how many there were."""
        taken = 0
        while taken < most and self.pipe.queue:
            self.file.write(self.place, self.pipe.queue.popleft())
            self.place += 1
            taken += 1
        return taken

    def close(self) -> None:
        self.pipe.let_go(self)


def kept_places(total: int) -> Sequence[int]:
    """Which bytes of an output of that length are kept: its head and its tail."""
    if total <= HEAD + TAIL:
        return range(total)
    return [*range(HEAD), *range(total - TAIL, total)]
