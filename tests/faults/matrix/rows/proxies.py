"""What stands between client and server is slow, impatient, holds back, answers in the server's place or damages what it passes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

from remote_env import Timings
from tests.faults.matrix.arena import Arena
from tests.faults.matrix.proxied import ANY, dice, drive_all, through_proxy, told_counts
from tests.faults.matrix.row import row
from tests.faults.matrix.traffic import Fate
from tests.support.handling import PASS, Handling, Request, bad_gateway, chance, flipped_answer, flipped_request
from tests.support.server import Server

# ------------------------------------------------------------------------------------------------- slow, buffered, idle


@row(
    "slow-link",
    "A slow link",
    "a proxy passes 64 KiB a second on each connection, both ways",
    "transport",
    peers=True,
)
def slow_link(arena: Arena) -> None:
    slow = Handling("slow", bytes_per_s=(64 << 10) / arena.scale)
    proxy = through_proxy(arena, lambda request: slow)
    drive_all(arena, proxy, "slow", workers=16)


@row(
    "idle-limit",
    "A proxy with a 60 s idle limit and HTML error pages",
    "a proxy ends what is silent for 60 s, with a page of HTML where an answer is being waited for; the commands are silent for 70 s",
    "transport",
    short=24,
)
def idle_limit(arena: Arena) -> None:
    limit_s = 60.0
    if arena.short:  # as the defaults stand to 60 s
        limit_s = 1.2
        arena.timings = replace(Timings().scaled(0.1), poll_slice_s=20.0 * limit_s / 60.0)
    proxy = through_proxy(arena, idle_s=limit_s, silence_s=limit_s)
    pausing = arena.ours.new_client(proxy.url).sandbox(arena.ours.sandbox.id)
    before, after = arena.traffic.commands(8), arena.traffic.commands(8)
    arena.drive(before, run=lambda command: arena.ours.run(command, pausing))
    arena.drive(arena.traffic.commands(arena.commands, sleep_s=limit_s * 70 / 60, lines=40), workers=arena.commands)
    # Its kept connections were left alone for longer than the limit meanwhile.
    arena.drive(after, run=lambda command: arena.ours.run(command, pausing))
    told_counts(arena, proxy, "idle ends")
    assert not proxy.counts["answers given up"], "a wait was longer than the proxy's patience"


@row(
    "buffering-proxy",
    "A proxy that buffers",
    "a proxy holds every answer back until it is whole",
    "transport",
    peers=True,
)
def buffering_proxy(arena: Arena) -> None:
    proxy = through_proxy(arena, lambda request: Handling("held back", whole=True))
    drive_all(arena, proxy, "held back")


# ------------------------------------------------------------------------------------------------------- answers that lie


@row(
    "error-pages",
    "A proxy's 502 pages",
    "a proxy answers two in five of all requests with a 502 page in HTML, delivered before or not",
    "transport",
    allows=("not run",),
    peers=True,
)
def error_pages(arena: Arena) -> None:
    proxy = through_proxy(arena)
    proxy.rule = chance(dice(arena), 0.4, bad_gateway, marker=ANY)
    drive_all(arena, proxy, "error page")


@row(
    "flipped-answer",
    "A bit flipped in an answer",
    "a proxy turns over one bit of the body of every other answer",
    "transport",
    peers=True,
)
def flipped_answers(arena: Arena) -> None:
    proxy = through_proxy(arena)
    proxy.rule = chance(dice(arena), 0.5, flipped_answer, marker=ANY)
    drive_all(arena, proxy, "bit flipped in an answer")


@row(
    "flipped-request",
    "A bit flipped in a request",
    "a proxy turns over one bit of the body of every other command's request",
    "transport",
    peers=True,
)
def flipped_requests(arena: Arena) -> None:
    proxy = through_proxy(arena)
    proxy.rule = chance(dice(arena), 0.5, flipped_request, marker=arena.subject.marker)
    drive_all(arena, proxy, "bit flipped in a request")


@row(
    "other-host",
    "Another host's answers",
    "a proxy sends requests to a second server of ours (same token) in the middle, and later to the first again",
    "transport",
    allows=("not run", "unknown"),
)
def other_host(arena: Arena) -> None:
    other = _second_server(arena)
    rng = dice(arena)
    waves = max(2, arena.commands // 20)
    proxy = through_proxy(arena)
    strayed: Counter[int] = Counter()

    def astray(request: Request) -> Handling:
        return Handling("answered by the other host", port=other.port) if strayed[request.number % 2] else PASS

    proxy.rule = astray
    for number in range(waves):
        strayed.clear()
        arena.subject.connect(proxy.url)
        before = sum(arena.runs().values())
        width = -(-arena.commands // waves)
        commands = arena.traffic.commands(width, sleep_s=0.2)
        with arena.meanwhile(commands, workers=max(2, width // 2)) as calls:
            arena.until(partial(_more_ran, arena, before), "one of them runs")
            strayed[0] = 1  # from now on every other request, in every second wave all of them
            strayed[1] = number % 2
            if rng.random() < 0.5:
                proxy.cut_all()
        fates = Counter(call.fate for call in calls)
        assert fates[Fate.RESULT] < len(calls) or proxy.counts["answered by the other host"]
    told_counts(arena, proxy, "answered by the other host")


def _more_ran(arena: Arena, before: int) -> bool:
    return sum(arena.runs().values()) > before


def _second_server(arena: Arena) -> Server:
    data_dir = arena.tmp / "other"
    data_dir.mkdir(mode=0o700)
    token = data_dir / "token"
    token.touch(0o600)
    token.write_text(arena.server.token + "\n")
    other = Server(data_dir)
    other.start()
    arena.on_close(other.remove_all)
    return other
