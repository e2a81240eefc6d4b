"""The live output of commands breaks off, is held back or damaged on its way."""

from __future__ import annotations

import random
from dataclasses import replace

from remote_env import Execution
from remote_env.events import Ended, Gap, OutputPiece
from tests.faults.matrix.arena import Arena
from tests.faults.matrix.proxied import dice, drive_all, through_proxy
from tests.faults.matrix.row import row
from tests.faults.matrix.subjects import told
from tests.faults.matrix.traffic import Call, Command, Fate
from tests.support.handling import Handling, chance, cut_after, flipped_answer, half_answer

EVENTS = b"/events"  # in the head of a request for a stream
LIVE = b"GET /v1/executions/"  # in that of a stream, a piece of output, or a long-poll


def follow(arena: Arena, command: Command) -> Call:
    """Run the command and follow its output: what came live must be the output, no byte missing, none twice."""
    heard = bytearray()

    def to_the_end() -> Execution:
        with arena.ours.sandbox.stream(command.text) as events:
            for event in events:
                if isinstance(event, OutputPiece):
                    assert event.offset == len(heard), f"byte {event.offset} came after byte {len(heard)}"
                    heard.extend(event.data)
                elif isinstance(event, Gap):
                    raise AssertionError(f"a gap in output that is kept whole: {event}")
                elif isinstance(event, Ended):
                    return event.result
        raise AssertionError("the stream ended without its end")

    call = told(command, to_the_end)
    if call.fate is Fate.RESULT and call.output == command.output:
        call.output = heard.decode("utf-8", "replace")
    return call


def cut_mid_event(rng: random.Random) -> Handling:
    return Handling("stream cut", answered_bytes=rng.randint(1, 3000), end=rng.choice(("close", "reset")), end_server=rng.random() < 0.5)


@row(
    "stream-cut",
    "A stream of output cut in the middle of an event",
    "a proxy ends seven in ten streams (FIN or RST) after some bytes; each command's live output is compared byte by byte",
    "transport",
)
def stream_cut(arena: Arena) -> None:
    proxy = through_proxy(arena)
    proxy.rule = chance(dice(arena), 0.7, cut_mid_event, marker=EVENTS)
    commands = arena.traffic.commands(arena.commands, sleep_s=0.2)
    drive_all(arena, proxy, "stream cut", commands=commands, workers=16, run=lambda command: follow(arena, command))


@row(
    "stream-and-polls-cut",
    "Streams and the long-polls that replace them cut",
    "a proxy cuts half of the streams, and half of the long-polls and of the pieces of output fetched in their place",
    "transport",
)
def stream_and_polls_cut(arena: Arena) -> None:
    proxy = through_proxy(arena)
    proxy.rule = chance(dice(arena), 0.5, cut_mid_event, cut_after, half_answer, marker=LIVE)
    commands = arena.traffic.commands(arena.commands, sleep_s=0.2)
    injected = ("stream cut", "cut after delivery", "half an answer")
    drive_all(arena, proxy, *injected, commands=commands, workers=16, run=lambda command: follow(arena, command))


@row(
    "stream-held-back",
    "A proxy that holds streams back",
    "a proxy passes no stream on before it has ended; the commands last longer than the silence that a stream may keep (here 3 s)",
    "transport",
)
def stream_held_back(arena: Arena) -> None:
    silence_s = 0.5 if arena.short else 3.0
    arena.timings = replace(arena.timings, stream_silence_s=silence_s)
    proxy = through_proxy(arena)
    proxy.rule = chance(dice(arena), 1.0, lambda rng: Handling("stream held back", whole=True), marker=EVENTS)
    commands = arena.traffic.commands(arena.commands, sleep_s=2 * silence_s)
    drive_all(arena, proxy, "stream held back", commands=commands, workers=32, run=lambda command: follow(arena, command))


@row(
    "stream-damaged",
    "A bit flipped in a stream of output",
    "a proxy turns over one bit in the body of half of the streams",
    "transport",
)
def stream_damaged(arena: Arena) -> None:
    proxy = through_proxy(arena)
    proxy.rule = chance(dice(arena), 0.5, flipped_answer, marker=EVENTS)
    drive_all(arena, proxy, "bit flipped in an answer", run=lambda command: follow(arena, command))
