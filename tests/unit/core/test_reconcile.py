"""What a hello means: each rule by its name, then over random histories of a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from server.machines.execution import ListedEnded, ListedRunning, NotListed
from server.machines.sandbox import Accepted, GiveUp, Known, reconcile
from server.messages import Ending, EndingKind, Entry, Hello

EPOCH = bytes(range(16))
EXITED = Ending(EndingKind.EXITED, started_ns=1)


def hello(highest: int, entries: Sequence[Entry] = (), incarnation: bytes = EPOCH) -> Hello:
    return Hello(1, incarnation, bytes(16), highest, 0, tuple(entries))


def running(number: int, id_: str | None = None) -> Entry:
    return Entry(id_ or f"e{number}", number, 1, None)


def ended(number: int, id_: str | None = None) -> Entry:
    return Entry(id_ or f"e{number}", number, 1, EXITED)


def verdict(
    said: Hello, unfinished: Sequence[int] = (), final: Mapping[str, int] | None = None, highest: int | None = None
) -> Accepted | GiveUp:
    numbers = [*unfinished, *(final or {}).values()]
    return reconcile(
        epoch=EPOCH.hex(), journal_highest=max(numbers, default=0) if highest is None else highest,
        unfinished=[Known(f"e{number}", number) for number in unfinished], final=final or {}, hello=said,
    )  # fmt: skip


def test_incarn_another_incarnation_means_the_sandbox_died() -> None:
    assert verdict(hello(1, [running(1)], incarnation=bytes(16)), [1]) == GiveUp("sandbox_died")


def test_strict_a_higher_number_than_the_journal_s_means_it_was_set_back() -> None:
    assert verdict(hello(3, [running(1)]), [1]) == GiveUp("journal_set_back")


def test_strict_an_unfinished_row_that_was_taken_and_is_not_listed_means_it_was_set_back() -> None:
    assert verdict(hello(2, [running(2)]), [1, 2]) == GiveUp("journal_set_back")


def test_strict_an_id_under_another_number_means_it_was_set_back() -> None:
    assert verdict(hello(2, [running(2, "e1")]), [1, 2]) == GiveUp("journal_set_back")


def test_strict_an_entry_that_the_journal_never_had_means_it_was_set_back() -> None:
    assert verdict(hello(1, [running(1, "stranger")]), final={"e1": 1}) == GiveUp("journal_set_back")


def test_strict_a_final_row_that_still_runs_means_it_is_another_journal() -> None:
    assert verdict(hello(1, [running(1)]), final={"e1": 1}) == GiveUp("journal_set_back")


def test_strict_a_final_row_under_another_number_means_it_is_another_journal() -> None:
    assert verdict(hello(2, [ended(2, "e1")]), final={"e1": 1}, highest=2) == GiveUp("journal_set_back")


def test_rehello_what_never_arrived_is_sent_again() -> None:
    assert verdict(hello(1, [running(1)]), [1, 2, 3]) == Accepted((("e1", ListedRunning()), ("e2", NotListed()), ("e3", NotListed())), ())


def test_rehello_what_runs_goes_on() -> None:
    assert verdict(hello(1, [running(1)]), [1]) == Accepted((("e1", ListedRunning()),), ())


def test_rehello_what_ended_meanwhile_is_taken() -> None:
    assert verdict(hello(1, [ended(1)]), [1]) == Accepted((("e1", ListedEnded(EXITED)),), ())


def test_ackafter_an_ending_whose_ack_was_lost_is_acknowledged_again() -> None:
    assert verdict(hello(1, [ended(1)]), final={"e1": 1}) == Accepted((), ("e1",))


def test_an_init_that_has_seen_nothing_fits_an_empty_journal() -> None:
    assert verdict(hello(0)) == Accepted((), ())


# ------------------------------------------------------------------------------------------ random histories

ROW_AND_TABLE = st.sampled_from(["running", "ended", "final, held", "final, forgotten"])


@dataclass(frozen=True)
class History:
    """The journal's rows and the init's table after some true history of one sandbox. Numbers are 1, 2, …"""

    taken: tuple[str, ...]  # one of ROW_AND_TABLE for each number that the init took
    waiting: int  # accepted after those, and never arrived

    @property
    def highest(self) -> int:
        return len(self.taken)

    @property
    def accepted(self) -> int:
        return self.highest + self.waiting

    def hello(self) -> Hello:
        entries = [
            running(number) if fate == "running" else ended(number)
            for number, fate in enumerate(self.taken, 1)
            if fate != "final, forgotten"
        ]
        return hello(self.highest, entries)

    def unfinished(self) -> list[int]:
        return [n for n, fate in enumerate(self.taken, 1) if not fate.startswith("final")] + list(
            range(self.highest + 1, self.accepted + 1)
        )

    def finals(self) -> dict[str, int]:
        return {f"e{n}": n for n, fate in enumerate(self.taken, 1) if fate.startswith("final")}


HISTORIES = st.builds(History, st.lists(ROW_AND_TABLE, max_size=12).map(tuple), st.integers(0, 4))


@settings(derandomize=True, max_examples=300, deadline=None)
@given(HISTORIES)
def test_every_true_history_is_accepted_with_the_right_events(history: History) -> None:
    expected = {
        "running": ListedRunning(), "ended": ListedEnded(EXITED)
    }  # fmt: skip
    events = [(f"e{n}", expected[fate]) for n, fate in enumerate(history.taken, 1) if fate in expected]
    events += [(f"e{n}", NotListed()) for n in range(history.highest + 1, history.accepted + 1)]
    held = {f"e{n}" for n, fate in enumerate(history.taken, 1) if fate == "final, held"}
    found = verdict(history.hello(), history.unfinished(), history.finals(), highest=history.accepted)
    assert isinstance(found, Accepted)
    assert (found.events, set(found.acknowledge)) == (tuple(events), held)


@settings(derandomize=True, max_examples=500, deadline=None)
@given(HISTORIES, st.data())
def test_a_journal_set_back_is_found_whenever_it_lost_something_that_the_init_took(history: History, data: st.DataObject) -> None:
    """A copy of the journal is put back: rows after some point are missing, later endings are unfinished again, and the
    server may have accepted new work since."""
    kept = data.draw(st.integers(0, history.accepted), label="rows kept")
    reopened = data.draw(st.sets(st.sampled_from(sorted(history.finals().values()) or [0])), label="finals undone")
    fresh = data.draw(st.integers(0, 6), label="rows accepted since")
    finals = {id_: n for id_, n in history.finals().items() if n <= kept and n not in reopened}
    unfinished = [n for n in history.unfinished() if n <= kept] + sorted(n for n in reopened if 0 < n <= kept)
    said = history.hello()
    known = [Known(f"e{n}", n) for n in unfinished] + [Known(f"new{n}", n) for n in range(kept + 1, kept + fresh + 1)]
    found = reconcile(
        epoch=EPOCH.hex(), journal_highest=kept + fresh, unfinished=known,
        final={id_: n for id_, n in finals.items() if id_ in {entry.id for entry in said.entries}}, hello=said,
    )  # fmt: skip
    lost_a_number = kept < history.highest
    lost_a_result = any(history.taken[n - 1] == "final, forgotten" for n in reopened if 0 < n <= min(kept, history.highest))
    if lost_a_number or lost_a_result:
        assert found == GiveUp("journal_set_back")
    else:
        assert isinstance(found, Accepted)
