"""Carries out what `stream` decides, for the iterators of both faces (`EventStream`, `aio.AsyncEventStream`)."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from functools import partial

from remote_env import protocol
from remote_env.carrier import MaybeSent, NotSent, Reply, StreamBroken, StreamedReply
from remote_env.correlation import About
from remote_env.cursor import parse_position
from remote_env.errors import InvalidSpec, LinkLost, RemoteEnvError
from remote_env.events import STREAMS, End, Gap, Greeting, Happened, OutputPiece, WireEvent, decode
from remote_env.exchange import BrokenAnswer, Exchange, Refused
from remote_env.output import fetch_piece
from remote_env.protocol import EPOCH_HEADER
from remote_env.sse import Garbled, SseParser
from remote_env.stream import Stream
from remote_env.stream_steps import Ask, Broke, Fail, Failed, Fetch, Fetched, Finish, Happening, Heard, Open, Read, RefusedBy, Told
from remote_env.trace import trace

MEDIA_TYPE = "text/event-stream"
_PROBLEM_BYTES = 64 << 10  # of an answer that is no stream

log = logging.getLogger("remote_env")


class Following(ABC):
    """One execution's events, one step of the `Stream` machine after the other."""

    def __init__(self, exchange: Exchange, record: protocol.Execution, from_: str | int, *, counted: bool) -> None:
        """`counted`: in the client's statistics, where it is this stream that brings the execution's end."""
        self._exchange = exchange
        self._transport = exchange.transport
        self._about = About(record.id, record.sandbox_id, record.epoch)
        self._epoch_header = {EPOCH_HEADER: record.epoch}
        # Nothing here refers back to this: a stream that is dropped half-read is gone, with its connection, at once.
        self._machine = Stream(record, start=_offsets(from_, record), timings=self._transport.timings, note=partial(_note, self._about))
        self._pending: deque[Happened | protocol.Execution | RemoteEnvError] = deque()  # the record: it has ended so
        self._next: Open | Read | Fetch | Ask | None = None
        self._begun = False
        self._counts = counted and not record.over
        self._began_at = time.monotonic()
        self._passed: dict[str, int] = {}  # stream → where what was had of it ends
        self._reply: StreamedReply | None = None
        self._parser = SseParser()
        self._heard_at = 0.0  # when it last brought some of an event
        self._trusted = False  # whether the headers of the connection that stands were looked at
        self._lock = threading.Lock()  # guards _reply against those who interrupt it
        self._closed = False
        self._conclusion: protocol.Execution | None = None

    @property
    def position(self) -> str | None:
        """Where to go on later, after the events that were had so far: for `Execution.stream`. None while that is not known."""
        origin = self._machine.origin
        if origin is None:
            return None
        return ",".join(str(self._passed.get(stream, offset)) for stream, offset in origin.items())

    def conclude(self, record: protocol.Execution) -> None:
        """Tells a stream that somebody else reads how the execution has ended: it need not wait for anything any more."""
        self._conclusion = record
        self._wake()

    async def _next_event(self) -> Happened | protocol.Execution | None:
        """What happened next, the record of its end at last; None after that, or when it was closed."""
        try:
            while not self._closed and not self._pending and not (self._begun and self._next is None):
                await self._advance()
            event = None if self._closed or not self._pending else self._pending.popleft()
            if isinstance(event, RemoteEnvError):
                raise event
        except BaseException:
            self._hang_up()
            raise
        if event is None:
            self._hang_up()
        elif isinstance(event, (OutputPiece, Gap)):
            self._passed[event.stream] = event.end
        return event

    @abstractmethod
    async def _pause(self, seconds: float) -> None:
        """Waits; less where it is closed, or need not wait any more."""

    @abstractmethod
    def _signal_woken(self, woken: bool) -> None:
        """Ends a `_pause` that is under way, and those to come; or lets them be waited out again."""

    def _wake(self) -> None:
        self._signal_woken(True)
        with self._lock:
            if self._reply is not None:
                self._reply.interrupt()

    def _hang_up(self) -> None:
        with self._lock:
            reply, self._reply = self._reply, None
        if reply is not None:
            reply.close()

    # ------------------------------------------------------------------------------------------------ carrying out

    async def _advance(self) -> None:
        """One step of the machine."""
        if self._next is None:
            self._begun = True
            step = self._machine.begin(time.monotonic())
        else:
            happening = await self._perform(self._next)
            if happening is None:
                return
            step = self._machine.handle(happening)
        self._next = None
        self._pending.extend(step.events)
        if not isinstance(step.next, Read):
            self._hang_up()
        if isinstance(step.next, Finish):
            if self._counts:
                self._transport.stats.complete(time.monotonic() - self._began_at)
            self._pending.append(step.next.record)
        elif isinstance(step.next, Fail):
            about = self._about
            log.warning("execution %s in sandbox %s: given up following it: %s", about.execution_id, about.sandbox_id, step.next.error)
            self._pending.append(step.next.error)
        else:
            self._next = step.next

    async def _perform(self, instruction: Open | Read | Fetch | Ask) -> Happening | None:
        """None: the stream was closed meanwhile."""
        if not isinstance(instruction, Read):
            await self._pause(instruction.after_s)
        happening: Happening | None = None
        if not self._interrupted:
            happening = await self._carry_out(instruction)
        if self._closed:
            return None
        if self._transport.closed:
            raise LinkLost(
                "The client was closed while it followed the execution, which goes on.",
                execution_id=self._about.execution_id, sandbox_id=self._about.sandbox_id,
            )  # fmt: skip
        if self._conclusion is not None and not isinstance(happening, Fetched):
            record, self._conclusion = self._conclusion, None
            self._signal_woken(False)
            return Told(time.monotonic(), record)
        if isinstance(happening, (Broke, Failed)):
            self._transport.stats.add(retries=1)
        return happening

    async def _carry_out(self, instruction: Open | Read | Fetch | Ask) -> Happening:
        if isinstance(instruction, Read):
            return await self._read()
        if isinstance(instruction, Open):
            return await self._open(instruction.position)
        about = self._about
        try:
            if isinstance(instruction, Fetch):
                wanted = (instruction.stream, instruction.start, instruction.end, instruction.wait_s)
                piece = await fetch_piece(self._exchange, about, *wanted)
                return Fetched(time.monotonic(), piece.data, piece.state)
            path = f"/v1/executions/{about.execution_id}"
            record = await self._exchange.once(protocol.Execution, "GET", path, None, self._epoch_header, about=about)
            return Told(time.monotonic(), record)
        except Refused as refusal:
            return self._refused(refusal)
        except (NotSent, MaybeSent) as error:
            return Failed(time.monotonic(), str(error))

    async def _open(self, position: str | None) -> Happening:
        path = f"/v1/executions/{self._about.execution_id}/events"
        headers = {**self._epoch_header, "Accept": MEDIA_TYPE, "Cache-Control": "no-store"}
        if position is None:
            path += "?from=now"
        elif position.strip("0,"):  # else from the start, which is what it does unasked
            headers["Last-Event-ID"] = position
        trace("stream", "execution %s: %s from %s", self._about.execution_id, path, position)
        try:
            reply = await self._transport.open("GET", path, headers, silence_s=self._transport.timings.stream_silence_s)
            with self._lock:
                self._reply = reply
            if reply.status != 200:
                self._require_events(reply, await reply.read_all(_PROBLEM_BYTES))
        except Refused as refusal:
            return self._refused(refusal)
        except StreamBroken as broken:
            return Broke(time.monotonic(), str(broken), broken.silent)
        except (NotSent, MaybeSent) as error:
            return Broke(time.monotonic(), str(error))
        self._parser, self._trusted = SseParser(), False
        self._heard_at = time.monotonic()
        return Heard(self._heard_at, ())

    def _require_events(self, reply: StreamedReply, body: bytes) -> None:
        """Lets pass what is the events of this execution, as far as its headers tell. Raises as `Exchange.require_ours`."""
        self._exchange.require_ours(Reply(reply.status, reply.headers, body), self._about, named=True)
        kind = reply.headers.get("Content-Type", "")
        if reply.status != 200 or not kind.startswith(MEDIA_TYPE):
            raise BrokenAnswer(f"asked for events, got HTTP {reply.status}, {kind or 'no content type'}")

    async def _read(self) -> Happening:
        reply = self._reply
        try:
            data = await reply.read() if reply is not None else b""
            if reply is None or not data:
                return Broke(time.monotonic(), "it ended before the execution did")
            if not self._trusted:
                # Not before a byte of the body is here: the library takes headers that were cut off for whole ones.
                self._require_events(reply, b"")
                self._trusted = True
            messages = self._parser.feed(data)
            events = [event for message in messages if (event := decode(message)) is not None]
        except StreamBroken as broken:
            return Broke(time.monotonic(), str(broken), broken.silent)
        except (BrokenAnswer, Garbled) as error:
            return Broke(time.monotonic(), str(error))
        now = time.monotonic()
        if messages or self._parser.begun:
            self._heard_at = now
        elif now - self._heard_at > self._transport.timings.stream_silence_s:
            # Comments are a proxy's way to keep a connection alive whose other half is dead.
            return Broke(now, "nothing but comments has come for too long", silent=True)
        trace("stream", "execution %s: %d bytes, %d events", self._about.execution_id, len(data), len(events))
        for event in events:
            wrong = self._wrong(event)
            if wrong is not None:
                return Broke(time.monotonic(), str(self._exchange.mismatch(wrong)))
        return Heard(time.monotonic(), events)

    def _wrong(self, event: WireEvent) -> str | None:
        """What the event says of another execution than this one."""
        if isinstance(event, End):
            return self._about.wrong_body(event.record)
        if isinstance(event, Greeting):
            greeted = event.accepted
            said = About(greeted.execution_id, greeted.sandbox_id, greeted.epoch)
            return None if said == self._about else f"asked for the events of {self._about}, got those of {said}"
        return None

    def _refused(self, refusal: Refused) -> Happening:
        problem = refusal.problem
        if problem.code == "unauthorized" and self._transport.token.reload():
            log.info("the server refused the token; its file holds another one: using that")
            problem = problem.model_copy(update={"retry_after_s": 0.0})
        return RefusedBy(time.monotonic(), problem)

    @property
    def _interrupted(self) -> bool:
        return self._closed or self._transport.closed or self._conclusion is not None


def _note(about: About, sentence: str, trouble: bool) -> None:
    log.log(logging.WARNING if trouble else logging.INFO, "execution %s in sandbox %s: %s", about.execution_id, about.sandbox_id, sentence)
    trace("stream", "execution %s: %s", about.execution_id, sentence)


def _offsets(from_: str | int, record: protocol.Execution) -> tuple[int, ...] | None:
    """Where to begin in each of its streams; None: wherever they stand."""
    if from_ == "now":
        return None
    try:
        return (0,) * len(STREAMS[record.streams]) if from_ == "start" else parse_position(str(from_), record.streams)
    except Garbled as error:
        raise InvalidSpec(f'from_: "start", "now" or a position; {error}.', execution_id=record.id) from None
