"""When a lease ends."""

from __future__ import annotations

from typing import Literal

import pytest

from server.machines.lease import Term


def test_a_lease_is_over_exactly_one_term_after_its_renewal() -> None:
    term = Term(lease_s=300, on_end="wait", renewed_at=1000, began_at=0)
    assert (term.over(1299.9), term.over(1300)) == (False, True)


@pytest.mark.parametrize(
    ("on_end", "busy_until", "ends_at"),
    [
        ("wait", None, 1300),
        ("wait", 1200, 1300),  # a command that ends before the lease changes nothing
        ("wait", 5000, 5000),  # a running command holds it to its own deadline at most
        ("kill", 5000, 1300),
        ("kill", None, 1300),
    ],
)
def test_a_running_command_holds_the_lease_only_where_the_sandbox_waits(
    on_end: Literal["wait", "kill"], busy_until: float | None, ends_at: float
) -> None:
    assert Term(300, on_end, 1000, 0, busy_until).ends_at() == ends_at


@pytest.mark.parametrize(("renewed_at", "ends_at"), [(None, 1300), (10, 1300), (1100, 1400)])
def test_a_lease_has_a_full_term_from_the_moment_on_in_which_it_could_be_renewed(renewed_at: float | None, ends_at: float) -> None:
    """The server was away, or the machine asleep: what was renewed before counts from then on (FRESHLEASE)."""
    assert Term(300, "wait", renewed_at, began_at=1000).ends_at() == ends_at
