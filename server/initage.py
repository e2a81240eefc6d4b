"""Sandboxes whose init an older server has started: what it does not know is refused in one way."""

from __future__ import annotations

from server.problems import ProblemError


def made_before(what: str, id: str) -> ProblemError:
    """The refusal of a request about the sandbox or execution `id`, for a sandbox whose init knows nothing of `what`. Never a state
    of the sandbox's: all else works in it."""
    return ProblemError("invalid", f"{what}: this sandbox was made by an older server and knows nothing of that; make a new sandbox", id=id)
