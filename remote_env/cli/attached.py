"""A person's terminal and a remote one, held together: what is typed goes there, what is said comes here, over as many links
as it takes.

The rules: output is asked for from the byte after the last that was shown, so that none is missing and none comes twice.
Input that a broken link may have lost is sent again only where the server says how much of it has come.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass

from remote_env.backoff import Backoff
from remote_env.cli.escapes import Escapes
from remote_env.cli.rawmode import RawTerminal
from remote_env.cli.terminaldial import LinkBroken, LinkRefused
from remote_env.cli.terminallink import At, Message, Over, Said, TerminalLink

KEYBOARD_BYTES = 4096  # read at once
TYPED_LIMIT = 64 << 10  # bytes of input that are kept for another link; more is not read while they wait
SCREEN_LIMIT = 1 << 20  # bytes that wait for a slow screen; more is not taken from the link
_PIPE_BYTES = 4096  # that a pipe which can be written takes without blocking (PIPE_BUF)

log = logging.getLogger("remote_env")


@dataclass(frozen=True)
class Detached:
    """The person has left; the program goes on."""


@dataclass(frozen=True)
class GaveUp:
    """No link could be made for the whole reconnect budget; the program goes on, as far as anybody knows."""

    reason: str


@dataclass(frozen=True)
class Refused:
    """The server will have no more links. `status`: 404, 409, 410, 412; 401 where it refuses the token."""

    status: int
    reason: str


Ending = Over | Detached | GaveUp | Refused


class Typed:
    """Input on its way to the program, which may have to be sent again over another link."""

    def __init__(self) -> None:
        self._kept = bytearray()  # the latest of what was handed to a link
        self._end: int | None = None  # the server's count after all of it; None: it is not known

    def sent(self, data: bytes) -> None:
        self._kept += data
        del self._kept[: max(0, len(self._kept) - TYPED_LIMIT)]
        if self._end is not None:
            self._end += len(data)

    @property
    def count(self) -> int | None:
        """The server's, after all of it."""
        return self._end

    def missing(self, arrived: int | None, *, counted: bool = False) -> bytes:
        """What of it has not come, now that a new link says how much has. None: it does not say; one that counts begins anew then."""
        end, self._end = self._end, 0 if counted and arrived is None else arrived
        kept, self._kept = bytes(self._kept), bytearray()
        if end is None or arrived is None or not 0 < end - arrived <= len(kept):
            return b""
        return kept[len(kept) - (end - arrived) :]


class Attachment:
    """Shows one execution's terminal.

    Args:
        connect: makes a link that begins at that offset of the output. Raises LinkBroken, LinkRefused.
        keyboard, screen: descriptors. A keyboard that ends is no reason to leave.
        raw: our own terminal, where the keyboard is one.
        tell: shows a line of ours.
        budget_s: for how long another link is tried for.
    """

    def __init__(
        self,
        connect: Callable[[int | None], TerminalLink],
        *,
        offset: int | None,
        keyboard: int | None,
        screen: int,
        raw: RawTerminal | None,
        tell: Callable[[str], None],
        backoff: Backoff,
        budget_s: float,
    ) -> None:
        self._connect = connect
        self._offset = offset
        self._keyboard = keyboard
        self._screen = screen
        self._raw = raw
        self._tell = tell
        self._backoff = backoff
        self._budget_s = budget_s
        self._escapes = Escapes()
        self._typed = Typed()
        self._held = bytearray()  # typed while there was no link
        self._shown = bytearray()  # came, and was not written to the screen yet
        self._link: TerminalLink | None = None
        self._greeted = False  # whether the link that stands has said where it is
        self._over: Over | None = None
        self._broken_at: float | None = None  # since when there is no link that has said anything
        self._retry_at = 0.0

    def run(self) -> Ending:
        """Until the program ends, the person leaves, or no link can be had. Raises OSError where the screen cannot be written."""
        try:
            while True:
                ending = self._turn()
                if ending is not None:
                    return ending
        finally:
            if self._link is not None:
                self._link.close()

    def _turn(self) -> Ending | None:
        """One round: wait for something, and deal with all that has come."""
        try:
            if self._link is None and self._over is None:
                refused = self._try_connect()
                if refused is not None:
                    return refused
            self._wait()
            if self._escapes.detached:
                return Detached()
            self._serve_link()
        except LinkBroken as broken:
            return self._broke(broken)
        except LinkRefused as refusal:
            return Refused(refusal.status, str(refusal))
        return self._over if self._over is not None and not self._shown else None

    # ------------------------------------------------------------------------------------------------- descriptors

    def _wait(self) -> None:
        link = self._link
        now = time.monotonic()
        reading: list[int] = [] if self._raw is None else [self._raw.woken]
        writing: list[int] = [self._screen] if self._shown else []
        reads_keys = self._keyboard is not None and len(self._held) < TYPED_LIMIT and (link is None or link.backlog < TYPED_LIMIT)
        if reads_keys and self._keyboard is not None:
            reading.append(self._keyboard)
        timeout_s: float | None = None
        if link is not None:
            if self._has_room:
                timeout_s = 0.0 if link.has_more else link.due_s(now)
                reading.append(link.fileno())
            if link.wants_write:
                writing.append(link.fileno())
        elif self._over is None:
            timeout_s = max(0.0, self._retry_at - now)
        readable, writable, _ = select.select(reading, writing, [], timeout_s)
        if self._raw is not None and self._raw.woken in readable:
            self._raw.drain()
        if self._keyboard in readable:
            self._read_keys()
        if self._screen in writable:
            self._show()

    @property
    def _has_room(self) -> bool:
        """Whether more is taken from the link."""
        return len(self._shown) < SCREEN_LIMIT

    def _read_keys(self) -> None:
        assert self._keyboard is not None
        try:
            typed = os.read(self._keyboard, KEYBOARD_BYTES)
        except OSError as error:  # the terminal has gone
            log.debug("the keyboard cannot be read any more: %s", error)
            typed = b""
        if not typed:
            self._keyboard = None
            self._escapes.detached = self._raw is not None  # nobody can type anything any more
            return
        self._held += self._escapes.feed(typed) if self._raw is not None else typed

    def _show(self) -> None:
        try:
            written = os.write(self._screen, self._shown[:_PIPE_BYTES])
        except BlockingIOError:  # somebody who shares it with us has set it so
            return
        del self._shown[:written]

    # -------------------------------------------------------------------------------------------------------- link

    def _try_connect(self) -> Refused | None:
        if time.monotonic() < self._retry_at:
            return None
        try:
            self._link, self._greeted = self._connect(self._offset), False
        except LinkRefused as refusal:
            return Refused(refusal.status, str(refusal))
        if self._raw is not None:
            self._raw.resized = True  # whoever was attached meanwhile may have had another size
        return None

    def _serve_link(self) -> None:
        link = self._link
        if link is None:
            return
        has_room = self._has_room
        if has_room:
            for message in link.receive():
                self._take(link, message)
        if self._over is not None:
            link.close()
            self._link = None
            return
        if self._raw is not None and self._raw.resized:
            link.resize(*self._raw.size())
        if self._held and self._greeted:
            self._send(link, bytes(self._held))
            self._held.clear()
        if has_room:  # else its signs of life are not read, either
            link.tick(time.monotonic())
        link.flush()

    def _send(self, link: TerminalLink, data: bytes) -> None:
        link.send(data, self._typed.count)
        self._typed.sent(data)

    def _take(self, link: TerminalLink, message: Message) -> None:
        if isinstance(message, At):
            self._greet(link, message)
        elif isinstance(message, Over):
            self._over = message
        elif self._offset is None:
            raise LinkBroken("output came before it was said where it begins")
        elif isinstance(message, Said):
            self._shown += message.data
            self._offset += len(message.data)
        else:
            self._skip_to(message.end)

    def _skip_to(self, offset: int) -> None:
        if self._offset is not None and offset > self._offset:
            self._tell(f"{offset - self._offset} bytes of output are not kept any more")
        self._offset = offset

    def _greet(self, link: TerminalLink, at: At) -> None:
        if self._offset is not None and at.offset < self._offset:
            raise LinkBroken(f"asked for output from byte {self._offset}, got it from {at.offset}")
        self._skip_to(at.offset)
        again = self._typed.missing(at.typed, counted=link.counts)
        if again:
            self._send(link, again)
        if self._broken_at is not None:
            self._tell(f"back at the same program after {time.monotonic() - self._broken_at:.0f} s")
        self._broken_at, self._greeted = None, True
        self._backoff.reset()

    def _broke(self, broken: LinkBroken) -> GaveUp | None:
        now = time.monotonic()
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._broken_at is None:
            self._broken_at = now
            self._tell(f"the link broke ({broken}): trying again; the program goes on{', ~. leaves it' if self._raw is not None else ''}")
        delay = self._backoff.next_s()
        if now + delay - self._broken_at > self._budget_s:
            return GaveUp(str(broken))
        self._retry_at = now + delay
        return None
