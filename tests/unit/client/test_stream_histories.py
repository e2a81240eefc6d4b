"""Following an execution through any history that a bad network can make."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from remote_env.cursor import torn_bytes
from remote_env.events import (
    STREAMS,
    Accepted,
    End,
    Gap,
    OutputPiece,
    Started,
    Stopping,
    StreamName,
    WireEvent,
)
from remote_env.protocol import Execution, Output
from remote_env.stream import Stream
from remote_env.stream_steps import (
    Ask,
    Broke,
    Fail,
    Failed,
    Fetch,
    Fetched,
    Finish,
    Happening,
    Heard,
    Instruction,
    Open,
    Passed,
    Read,
    RefusedBy,
    Told,
)
from tests.unit.client.streamed import (
    AT,
    RUNNING,
    TIMINGS,
    greeting,
    kept,
    piece,
    refusal,
)

# ------------------------------------------------------------------------------------------------ any history at all


@dataclass
class World:
    """A server with its output limit, and a network that breaks whatever it likes for a while."""

    rng: random.Random
    outputs: dict[StreamName, bytes]
    limit: int
    steps: int = 0
    now: float = 0.0
    written: dict[StreamName, int] = field(default_factory=dict)
    over: bool = False
    places: dict[StreamName, int] = field(default_factory=dict)  # of the connection that stands
    greeted: bool = False

    def __post_init__(self) -> None:
        self.written = dict.fromkeys(self.outputs, 0)
        self.record = RUNNING.model_copy(update={"streams": "split" if len(self.outputs) > 1 else "merged", "started_at": None})

    @property
    def kind(self) -> bool:
        """Nothing breaks any more."""
        return self.steps > 80

    def go_on(self) -> None:
        self.steps += 1
        self.now += self.rng.choice((0.0, 0.1, 1.0, 7.0, 25.0))
        for stream, output in self.outputs.items():
            self.written[stream] = min(len(output), self.written[stream] + self.rng.randrange(0, 40))
        done = all(self.written[stream] == len(output) for stream, output in self.outputs.items())
        self.over = self.over or (done and (self.kind or self.rng.random() < 0.2)) or self.steps > 200

    def dropped(self, stream: StreamName) -> tuple[int, int]:
        half = self.limit // 2
        return (half, self.written[stream] - half) if self.written[stream] > self.limit else (0, 0)

    def told(self) -> Execution:
        outputs = [
            kept(self.outputs[stream][: self.written[stream]], self.limit, inline=self.rng.random() < 0.5) for stream in self.outputs
        ]
        if not self.over:
            outputs = [Output(total_bytes=output.total_bytes) for output in outputs]
        state = "ended" if self.over else "running"
        return self.record.model_copy(update={"state": state, "output": outputs[0], "stderr": outputs[1] if len(outputs) > 1 else None})

    def perform(self, instruction: Instruction) -> Happening:
        self.go_on()
        trouble = 0.0 if self.kind else self.rng.random()
        if isinstance(instruction, Open):
            if trouble > 0.7:
                return Broke(self.now, "refused", silent=self.rng.random() < 0.2)
            if trouble > 0.6:
                return RefusedBy(self.now, refusal("stopping", 1.0))
            now = [str(self.written[stream]) for stream in self.outputs]
            asked = now if instruction.position is None else instruction.position.split(",")
            self.places = {stream: int(place) for stream, place in zip(self.outputs, asked, strict=True)}
            self.greeted = False
            return Heard(self.now, ())
        if isinstance(instruction, Read):
            return Broke(self.now, "cut", silent=self.rng.random() < 0.2) if trouble > 0.8 else Heard(self.now, list(self.say()))
        if trouble > 0.8:
            return Failed(self.now, "cut")
        if trouble > 0.75:
            return RefusedBy(self.now, refusal("capacity"))
        if isinstance(instruction, Ask):
            return Told(self.now, self.told())
        assert isinstance(instruction, Fetch)
        return self.fetch(instruction)

    def say(self) -> list[WireEvent]:
        events: list[WireEvent] = []
        if not self.greeted:
            self.greeted = True
            events.append(greeting(",".join(map(str, self.places.values())), self.record))
            events.append(Started(AT))
        for _ in range(self.rng.randrange(3)):
            stream = self.rng.choice(list(self.outputs))
            events += self.say_of(stream, self.rng.randrange(1, 30))
        if self.rng.random() < 0.05 and not self.kind:
            return [*events, Stopping(1.0)]
        if self.over and self.rng.random() < 0.5:
            for stream in self.outputs:
                while self.places[stream] < self.written[stream]:
                    events += self.say_of(stream, 30)
            events.append(End(self.told()))
        return events

    def say_of(self, stream: StreamName, most: int) -> list[WireEvent]:
        place, end = self.places[stream], self.written[stream]
        start, stop = self.dropped(stream)
        if start <= place < stop:
            self.places[stream] = stop
            return [Gap(stream, place, stop)]
        if place < start:
            end = start
        data = self.outputs[stream][place : min(end, place + most)]
        whole = len(data) - (torn_bytes(data) if len(data) > 4 else 0)
        self.places[stream] = place + whole
        return [piece(place, data[:whole], stream)] if whole else []

    def fetch(self, fetch: Fetch) -> Happening:
        output = self.outputs[fetch.stream][: self.written[fetch.stream]]
        if self.over:
            half = self.limit // 2
            there = output if len(output) <= self.limit else output[:half] + output[-half:]
        else:
            there = output[: self.limit // 2]  # what will stay in its place
        end = min(fetch.end, fetch.start + self.rng.randrange(1, 60))
        return Fetched(self.now, there[fetch.start : end], "ended" if self.over else "running")


OUTPUT = st.text(st.sampled_from("abc\näß日本\U0001f600"), max_size=120).map(str.encode) | st.binary(max_size=300)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.randoms(use_true_random=False), st.booleans())
def test_whatever_breaks_no_byte_comes_twice_and_none_is_missing(data: st.DataObject, rng: random.Random, split: bool) -> None:
    names = STREAMS["split" if split else "merged"]
    world = World(rng, {name: data.draw(OUTPUT) for name in names}, limit=data.draw(st.sampled_from([20, 100, 1000])))
    for _ in range(rng.randrange(4)):
        world.go_on()
    world.over = False
    start = data.draw(st.sampled_from(["start", "now", "position"]))
    begin = None if start == "now" else tuple(0 if start == "start" else world.written[name] // 2 for name in names)
    stream = Stream(world.told(), start=begin, timings=replace(TIMINGS, reconnect_budget_s=1e9), draw=rng.random)
    seen: list[Passed] = []
    step = stream.begin(world.now)
    for _ in range(2000):
        seen += step.events
        if isinstance(step.next, (Finish, Fail)):
            break
        step = stream.handle(world.perform(step.next))
    assert isinstance(step.next, Finish), f"it never ends: {step.next}"
    assert isinstance(seen[0], Accepted)
    assert [type(event) for event in seen].count(Accepted) == 1
    assert [type(event) for event in seen].count(Started) <= 1
    origin = stream.origin
    assert origin is not None
    for name, output in world.outputs.items():
        place = origin[name]
        assert start == "now" or begin is None or place == begin[names.index(name)]
        lost_from, lost_to = world.dropped(name)
        for event in seen:
            if isinstance(event, OutputPiece) and event.stream == name:
                assert event.offset == place, "a byte came twice, or is missing"
                assert event.data == output[place : event.end], "wrong bytes"
                place = event.end
            elif isinstance(event, Gap) and event.stream == name:
                assert event.start == place
                assert lost_from <= event.start < event.end <= lost_to, "told of a gap where nothing was dropped"
                place = event.end
        assert place == world.written[name], "the end is missing"
