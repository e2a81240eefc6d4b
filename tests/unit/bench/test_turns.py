"""Who is measured when."""

from __future__ import annotations

from scripts.benchmarks.turns import order, take_turns

NAMES = ["ours", "theirs", "floor", "another"]


def test_every_kind_has_one_turn_in_every_round() -> None:
    for names in order(NAMES, 20, seed=1):
        assert sorted(names) == sorted(NAMES)


def test_order_is_drawn_anew_for_each_round_and_is_the_seeds() -> None:
    drawn = list(order(NAMES, 20, seed=1))
    assert len({tuple(names) for names in drawn}) > 5
    assert drawn == list(order(NAMES, 20, seed=1))
    assert drawn != list(order(NAMES, 20, seed=2))


def test_nobody_always_follows_the_same_other() -> None:
    before_ours = {names[names.index("ours") - 1] for names in order(NAMES, 50, seed=1) if names[0] != "ours"}
    assert before_ours == set(NAMES) - {"ours"}


def test_turns_are_kept_by_kind_and_round_in_the_order_that_was_drawn() -> None:
    happened: list[str] = []

    def turn(name: str) -> int:
        happened.append(name)
        return len(happened)

    advanced: list[str] = []
    taken = take_turns({name: lambda name=name: turn(name) for name in NAMES}, 3, seed=5, advance=advanced.append)  # type: ignore[misc]
    assert happened == advanced == [name for names in order(NAMES, 3, seed=5) for name in names]
    for name, turns in taken.items():
        assert turns == [at for at, who in enumerate(happened, start=1) if who == name]
