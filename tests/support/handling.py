"""What a fault proxy does with a request and its answer: a value, and the dice that choose it.

The dice are seeded, and thrown once for each request that a rule looks at, in the order in which requests come.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

End = Literal["close", "reset", "silence"]
"""How the client's connection ends: with FIN, with RST, or not at all: nothing more is heard on it."""


def error_page(status: str) -> bytes:
    """What proxies answer in a server's place: HTML."""
    body = f"<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>".encode()
    head = f"HTTP/1.1 {status}\r\nServer: proxy\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


BAD_GATEWAY = error_page("502 Bad Gateway")
GATEWAY_TIMEOUT = error_page("504 Gateway Time-out")


@dataclass(frozen=True)
class Request:
    """A request as it came. `number` counts the requests of the proxy; `reused`: its connection had carried another."""

    number: int
    reused: bool
    head: bytes
    body: bytes

    @property
    def whole(self) -> bytes:
        return self.head + self.body


@dataclass(frozen=True)
class Handling:
    """What is done with one request and its answer, in this order. The default passes both on unharmed.

    Args:
        name: what it is counted as; "" is not counted.
        delay_s: the request is held so long first.
        flip_request: where in the request's body one bit is turned over, from 0 to 1; None: nowhere.
        copies: how often the request is sent besides, each copy on a connection of its own, `copies_after_s` later.
        replays: how many earlier requests are sent again beside this one.
        delivered: the share of the request's bytes that reaches the server. Below 1, the connection is then at its end.
        port: of the server that gets it; None: the proxy's own.
        page: what the client gets in place of the answer; it is sent once the answer is there, or at once where the
            request is not delivered.
        whole: the answer is held back until all of it is there.
        flip_answer: where in the answer's body one bit is turned over, from 0 to 1; None: nowhere.
        answered: the share of the answer that reaches the client, cut off once all of it is there. Below 1, the
            connection is then at its end.
        answered_bytes: how many bytes of the answer pass before the connection is at its end; 0: none, and the end comes
            while the server still works on it. None: no such end.
        bytes_per_s: how fast request and answer pass; None: as fast as they can.
        end: how the client's connection ends, where it does.
        end_server: the server sees the end too; otherwise it finishes its answer, to nobody.
    """

    name: str = ""
    delay_s: float = 0.0
    flip_request: float | None = None
    copies: int = 0
    copies_after_s: float = 0.0
    replays: int = 0
    delivered: float = 1.0
    port: int | None = None
    page: bytes | None = None
    whole: bool = False
    flip_answer: float | None = None
    answered: float = 1.0
    answered_bytes: int | None = None
    bytes_per_s: float | None = None
    end: End = "close"
    end_server: bool = False


PASS = Handling()
Rule = Callable[[Request], Handling]


# -------------------------------------------------------------------------------------------------- kinds, by the dice


def cut_before(rng: random.Random) -> Handling:
    """Nothing, or a part, of the request reaches the server."""
    share = 0.0 if rng.random() < 0.5 else rng.uniform(0.01, 0.99)
    return Handling("cut before delivery", delivered=share, end="reset" if rng.random() < 0.5 else "close")


def cut_after(rng: random.Random) -> Handling:
    """The request reaches the server, not a byte of the answer the client."""
    if rng.random() < 0.5:
        return Handling("cut after delivery", answered_bytes=0)
    return Handling("cut after delivery", answered=0.0)


def half_answer(rng: random.Random) -> Handling:
    """The answer ends somewhere in its middle."""
    return Handling("half an answer", answered=rng.uniform(0.01, 0.99))


def reset(rng: random.Random) -> Handling:
    """RST on both sides, at any moment of the exchange."""
    moment = rng.choice(("before", "meanwhile", "head", "body"))
    if moment == "before":
        return Handling("reset", delivered=rng.uniform(0.0, 0.99), end="reset", end_server=True)
    if moment == "meanwhile":
        return Handling("reset", answered_bytes=0, end="reset", end_server=True)
    if moment == "head":
        return Handling("reset", answered_bytes=rng.randint(1, 400), end="reset", end_server=True)
    return Handling("reset", answered=rng.uniform(0.0, 0.99), end="reset", end_server=True)


def bad_gateway(rng: random.Random) -> Handling:
    """An error page in HTML in place of the answer: the request was delivered, or not."""
    return Handling("error page", delivered=rng.choice((0.0, 1.0)), page=BAD_GATEWAY)


def flipped_request(rng: random.Random) -> Handling:
    return Handling("bit flipped in a request", flip_request=rng.random())


def flipped_answer(rng: random.Random) -> Handling:
    return Handling("bit flipped in an answer", flip_answer=rng.random())


def replay(rng: random.Random) -> Handling:
    return Handling("old requests sent again", replays=rng.randint(1, 3))


def chance(rng: random.Random, rate: float, *kinds: Callable[[random.Random], Handling], marker: bytes = b"") -> Rule:
    """Of the requests whose head has `marker`, this share is handled as one of the kinds; all others pass. The kinds are
    dealt like cards: each comes once before one comes again."""
    deck: list[Callable[[random.Random], Handling]] = []

    def choose(request: Request) -> Handling:
        if marker not in request.head or rng.random() >= rate:
            return PASS
        if not deck:
            deck.extend(rng.sample(kinds, len(kinds)))
        return deck.pop()(rng)

    return choose


def first_of_each(key: Callable[[Request], bytes | None], rule: Rule) -> Rule:
    """The rule applies to the first request of each key alone; None is no key."""
    seen: set[bytes] = set()

    def choose(request: Request) -> Handling:
        found = key(request)
        if found is None or found in seen:
            return PASS
        seen.add(found)
        return rule(request)

    return choose


def flipped(head: bytes, body: bytes, where: float) -> bytes:
    """The message with one bit of its body turned over, `where` from 0 to 1; as it is where it has no body."""
    if not body:
        return head
    bit = min(int(where * len(body) * 8), len(body) * 8 - 1)
    changed = bytearray(body)
    changed[bit // 8] ^= 1 << (bit % 8)
    return head + bytes(changed)
