"""What a person types at a terminal: what of it is for us, and what of it has to be sent again."""

from __future__ import annotations

import pytest

from remote_env.cli.attached import Typed
from remote_env.cli.escapes import Escapes


@pytest.mark.parametrize(
    ("typed", "meant", "detached"),
    [
        (b"ls\r", b"ls\r", False),
        (b"~.", b"", True),
        (b"ls\r~.more", b"ls\r", True),
        (b"a~.", b"a~.", False),
        (b"~~", b"~", False),
        (b"~~.", b"~.", False),
        (b"~x\n~.", b"~x\n", True),
        (b"cd ~\r~/bin\r", b"cd ~\r~/bin\r", False),
        (b"~\r~.", b"~\r", True),
    ],
)
def test_escapes_are_the_same_whole_and_byte_by_byte(typed: bytes, meant: bytes, detached: bool) -> None:
    whole, torn = Escapes(), Escapes()
    assert (whole.feed(typed), whole.detached) == (meant, detached)
    assert (b"".join(torn.feed(bytes([byte])) for byte in typed), torn.detached) == (meant, detached)


@pytest.mark.parametrize(
    ("arrived", "missing"), [(10, b"abcdef"), (13, b"def"), (16, b""), (9, b""), (17, b""), (None, b"")]
)  # fmt: skip
def test_missing_input_is_what_the_server_has_not_counted(arrived: int | None, missing: bytes) -> None:
    typed = Typed()
    assert typed.missing(10) == b""
    typed.sent(b"abc")
    typed.sent(b"def")
    assert typed.missing(arrived) == missing
