"""The connection between client and server breaks, and requests come late, twice or again."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

import requests

from remote_env.protocol import EPOCH_HEADER, new_id
from tests.faults.matrix.arena import Arena
from tests.faults.matrix.proxied import ANY, dice, drive_all, through_proxy, told_counts
from tests.faults.matrix.row import row
from tests.faults.matrix.subjects import told
from tests.faults.matrix.traffic import Call, Command
from tests.support.handling import PASS, Handling, Request, chance, cut_after, cut_before, first_of_each, half_answer, replay, reset

# ----------------------------------------------------------------------------------------------------------------- cuts


@row(
    "cut-before-delivery",
    "Connection cut before the request is delivered",
    "a proxy ends the connection (FIN or RST) before the server has the whole request: half of the commands' requests",
    "transport",
    allows=("not run",),
    peers=True,
)
def cut_before_delivery(arena: Arena) -> None:
    proxy = through_proxy(arena)
    proxy.rule = chance(dice(arena), 0.5, cut_before, marker=arena.subject.marker)
    drive_all(arena, proxy, "cut before delivery")


@row(
    "cut-and-redelivered",
    "The same, where the command may be sent again",
    "a proxy cuts each command's first request before delivery; half of the commands are redelivered on request, half idempotent",
    "transport",
)
def cut_and_redelivered(arena: Arena) -> None:
    def text(request: Request) -> bytes | None:
        return request.body.partition(b'"command":')[2] if arena.subject.marker in request.head else None

    rng = dice(arena)
    ways: list[dict[str, Any]] = [{"on_undelivered": "redeliver"}, {"idempotent": True}]
    proxy = through_proxy(arena, first_of_each(text, lambda request: cut_before(rng)))

    def run(command: Command) -> Call:
        how = ways[int(command.name[1:]) % 2]
        return told(command, lambda: arena.ours.sandbox.run(command.text, **how))

    drive_all(arena, proxy, "cut before delivery", run=run)
    assert proxy.counts["cut before delivery"] == arena.commands


@row(
    "cut-after-delivery",
    "Connection cut after the request is delivered",
    "a proxy ends the connection before a byte of the answer, while the command runs or when it has ended: half of the commands' requests",
    "transport",
    peers=True,
)
def cut_after_delivery(arena: Arena) -> None:
    proxy = through_proxy(arena)
    proxy.rule = chance(dice(arena), 0.5, cut_after, marker=arena.subject.marker)
    drive_all(arena, proxy, "cut after delivery")


@row(
    "connection-reset",
    "Connection reset",
    "a proxy sends RST both ways: in the request, while the command runs, in the answer's head or body; half of the commands' requests",
    "transport",
    allows=("not run",),
    peers=True,
)
def connection_reset(arena: Arena) -> None:
    proxy = through_proxy(arena)
    proxy.rule = chance(dice(arena), 0.5, reset, marker=arena.subject.marker)
    drive_all(arena, proxy, "reset")


@row(
    "half-an-answer",
    "Half an answer",
    "a proxy ends the connection in the middle of the answer: half of all requests, also those that fetch output",
    "transport",
    peers=True,
)
def half_an_answer(arena: Arena) -> None:
    proxy = through_proxy(arena)
    proxy.rule = chance(dice(arena), 0.5, half_answer, marker=ANY)
    drive_all(arena, proxy, "half an answer")


@row(
    "connection-cuts",
    "Connections cut at every moment",
    "a proxy cuts a fifth of all requests before delivery, after it, in the answer, or by RST; others: 1,000 commands",
    "transport",
    allows=("not run",),
    commands=10_000,
    peer_commands=1_000,
    short=32,
    peers=True,
)
def connection_cuts(arena: Arena) -> None:
    kinds = (cut_before, cut_after, half_answer, reset)
    proxy = through_proxy(arena)
    proxy.rule = chance(dice(arena), 0.2, *kinds, marker=ANY)
    drive_all(arena, proxy, "cut before delivery", "cut after delivery", "half an answer", "reset", workers=16)


@row(
    "stale-keep-alive",
    "Kept-alive connections closed at the moment of reuse",
    "a proxy closes a kept connection (FIN or RST) while the next request is on its way, or at the idle limit at which it comes",
    "transport",
    allows=("not run",),
    peers=True,
)
def stale_keep_alive(arena: Arena) -> None:
    rng = dice(arena)

    def close_at_reuse(request: Request) -> Handling:
        if not request.reused or arena.subject.marker not in request.head or rng.random() < 0.3:
            return PASS
        return Handling("closed at reuse", delivered=0.0, end=rng.choice(("close", "reset")))

    proxy = through_proxy(arena, close_at_reuse)
    half = arena.commands // 2
    arena.drive(arena.traffic.commands(half), workers=2)  # few, so that connections are used again
    told_counts(arena, proxy, "closed at reuse")

    idle_s = 0.05
    boundary = through_proxy(arena, idle_s=idle_s)
    pauses: dict[str, float] = {}

    def at_the_boundary(command: Command) -> Call:
        time.sleep(pauses[command.name])  # the fault is a matter of time: as long as the limit, give or take
        return arena.subject.run(command)

    commands = arena.traffic.commands(arena.commands - half, lines=20)
    pauses.update({command.name: idle_s + arena.rng.uniform(-0.002, 0.002) for command in commands})
    arena.drive(commands, run=at_the_boundary)
    told_counts(arena, boundary, "idle ends")


# -------------------------------------------------------------------------------------------------- copies, old requests


@row(
    "held-back-request",
    "A request that arrives after its connection was cut",
    "a proxy cuts the connection and delivers the request later: at once, or 10 s late when the caller has been answered; half of them",
    "transport",
    allows=("not run",),
    peers=True,
)
def held_back_request(arena: Arena) -> None:
    def held_back(rng: random.Random) -> Handling:
        after_s = rng.choice((0.0, 0.002, 0.01, 10.0 * arena.scale))
        return Handling("request held back", delivered=0.0, copies=1, copies_after_s=after_s)

    proxy = through_proxy(arena)
    proxy.rule = chance(dice(arena), 0.5, held_back, marker=arena.subject.marker)
    drive_all(arena, proxy, "request held back")
    assert proxy.counts["copy sent"] == proxy.counts["request held back"], "a request that was held back never arrived"


@row(
    "late-duplicate",
    "A duplicate POST that arrives 10 s late",
    "a proxy sends each command's POST again, 10 s later, on a connection of its own",
    "transport",
    peers=True,
)
def late_duplicate(arena: Arena) -> None:
    proxy = through_proxy(arena)
    copy = Handling("duplicated", copies=1, copies_after_s=10.0 * arena.scale)
    proxy.rule = chance(dice(arena), 1.0, lambda rng: copy, marker=arena.subject.marker)
    drive_all(arena, proxy, "duplicated", "copy answered 200")


@row(
    "parallel-duplicates",
    "20 parallel duplicates of each POST",
    "a proxy sends each command's POST 20 times more, at the same time, on connections of their own; others: 50 commands",
    "transport",
    peers=True,
    peer_commands=50,
)
def parallel_duplicates(arena: Arena) -> None:
    proxy = through_proxy(arena)
    proxy.rule = chance(dice(arena), 1.0, lambda rng: Handling("duplicated", copies=20), marker=arena.subject.marker)
    drive_all(arena, proxy, "duplicated", "copy sent", workers=4)


@row(
    "replayed-request",
    "Old requests that are sent again",
    "a proxy keeps commands' requests and sends one to three of them again beside every other new one",
    "transport",
    peers=True,
)
def replayed_request(arena: Arena) -> None:
    proxy = through_proxy(arena)
    proxy.keeps = arena.subject.marker
    proxy.rule = chance(dice(arena), 0.5, replay, marker=arena.subject.marker)
    drive_all(arena, proxy, "old requests sent again", "replay answered 200")


@row(
    "id-conflict",
    "The same id with another body",
    "another POST with a command's id and another command, while the first runs and after it has ended",
    "transport",
)
def id_conflict(arena: Arena) -> None:
    sandbox = arena.ours.sandbox
    http = requests.Session()
    arena.on_close(http.close)
    http.trust_env = False
    http.headers.update({"Authorization": f"Bearer {arena.server.token}", EPOCH_HEADER: sandbox.epoch})
    answers: Counter[str] = Counter()

    def conflicting(execution_id: str, command: Command) -> None:
        body = {"id": execution_id, "command": command.text.replace(command.name, f"{command.name}-other", 1)}
        answer = http.post(f"{arena.server.url}/v1/sandboxes/{sandbox.id}/executions", json=body, timeout=60)
        answers[f"{answer.status_code} {answer.json().get('code')} accepted {answer.json().get('accepted')}"] += 1

    def run(command: Command) -> Call:
        execution = sandbox.start(command.text, id=new_id())
        conflicting(execution.id, command)
        call = told(command, execution.wait)
        conflicting(execution.id, command)
        return call

    arena.drive(arena.traffic.commands(arena.commands, sleep_s=0.05), run=run)
    assert answers == {"422 id_conflict accepted False": 2 * arena.commands}, dict(answers)
    arena.note(f"{2 * arena.commands} conflicting requests, each answered 422")
