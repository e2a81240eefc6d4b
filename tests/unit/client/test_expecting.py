"""What a program says, and who waits for what in it: whole, byte by byte, torn anywhere."""

from __future__ import annotations

import re

import pytest

from remote_env.errors import InvalidSpec
from remote_env.expecting import END, TEXT_LIMIT, Expecter, Match, Pattern


def heard(text: str) -> Expecter:
    expecter = Expecter()
    expecter.feed(text.encode())
    return expecter


CASES: list[tuple[str, list[Pattern], Match | None, str]] = [
    ("Python 3\r\n>>> ", [">>> "], Match(0, "Python 3\r\n", ">>> "), ""),
    ("a>>> b>>> ", [">>> "], Match(0, "a", ">>> "), "b>>> "),
    ("zwei drei eins", ["eins", "zwei"], Match(1, "", "zwei"), " drei eins"),
    ("same", ["sam", "same"], Match(0, "", "sam"), "e"),
    ("größer: 7 €\n", [re.compile(r"(\d) (€)")], Match(0, "größer: ", "7 €", ("7", "€")), "\n"),
    ("no such thing", ["other"], None, "no such thing"),
    ("one\ntwo", ["one.two"], Match(0, "", "one\ntwo"), ""),
]


@pytest.mark.parametrize(("said", "patterns", "expected", "left"), CASES)
def test_match_is_the_same_whole_and_after_a_tail(said: str, patterns: list[Pattern], expected: Match | None, left: str) -> None:
    expecter = heard(said)
    assert expecter.expect(patterns).match() == expected
    assert expecter.text == left
    tailed = heard(said + " tail")
    assert tailed.expect(patterns).match() == expected
    assert tailed.text == left + " tail"


@pytest.mark.parametrize(("said", "patterns", "expected", "left"), [case for case in CASES if case[0] != "same"])
def test_match_is_the_same_byte_by_byte(said: str, patterns: list[Pattern], expected: Match | None, left: str) -> None:
    """A terminal's output comes in whatever pieces it likes; a character's bytes may come apart."""
    expecter = Expecter()
    expectation = expecter.expect(patterns)
    found: Match | None = None
    for byte in said.encode():
        expecter.feed(bytes([byte]))
        found = found or expectation.match()
    assert found == expected
    assert expecter.text == left


def test_what_is_left_is_there_for_the_next_expectation() -> None:
    expecter = heard("1 $ 2 $ 3")
    first, second = expecter.expect(r"\$").match(), expecter.expect(r"\$").match()
    assert (first and first.before, second and second.before) == ("1 ", " 2 ")
    assert expecter.expect(r"\$").match() is None
    assert expecter.take() == " 3"
    assert expecter.take() == ""


def test_match_that_begins_in_text_searched_before_is_found() -> None:
    expecter = heard("x" * 100_000 + "(gd")
    expectation = expecter.expect(re.escape("(gdb) "))
    assert expectation.match() is None
    expecter.feed(b"b) ")
    found = expectation.match()
    assert found is not None
    assert (len(found.before), found.match) == (100_000, "(gdb) ")


def test_end_is_found_only_after_what_was_said_before_it() -> None:
    expecter = heard("last words $ ")
    assert expecter.expect([END]).match() is None
    expecter.end()
    assert expecter.expect([END, r"\$ "]).match() == Match(1, "last words ", "$ ")
    assert expecter.expect([r"\$ ", END]).match() == Match(1, "", "")


def test_what_is_not_utf8_becomes_a_replacement_and_hides_nothing() -> None:
    expecter = Expecter()
    for piece in (b"\xff ok \xe2\x82", b"> "):
        expecter.feed(piece)
    assert expecter.expect("> ").match() == Match(0, "\ufffd ok \ufffd", "> ")


def test_character_cut_by_the_end_or_by_a_gap_is_told() -> None:
    for close in (Expecter.end, Expecter.skip):
        expecter = Expecter()
        expecter.feed(b"a\xe2\x82")
        assert expecter.text == "a"
        close(expecter)
        assert expecter.text == "a\ufffd"


def test_text_that_nobody_takes_is_bounded_and_what_goes_is_counted() -> None:
    expecter = Expecter()
    expectation = expecter.expect("prompt> ")
    piece = b"0123456789abcdef" * 4096
    for _ in range(TEXT_LIMIT // len(piece) + 3):
        expecter.feed(piece)
        assert expectation.match() is None
    expecter.feed(b"prompt> rest")
    found = expectation.match()
    assert found is not None
    total = (TEXT_LIMIT // len(piece) + 3) * len(piece)
    assert found.dropped + len(found.before) == total
    assert 0 < len(found.before) <= TEXT_LIMIT
    assert expecter.text == "rest"
    following = expecter.expect("rest").match()
    assert following is not None and following.dropped == 0


@pytest.mark.parametrize("wrong", [[], "(", [b"bytes"], [re.compile(b"bytes")], 7, [None]])
def test_what_is_no_pattern_is_refused(wrong: object) -> None:
    with pytest.raises((InvalidSpec, TypeError)):
        Expecter().expect(wrong)  # type: ignore[arg-type]
