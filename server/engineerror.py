"""What every call to the engine may end with."""

from __future__ import annotations


class EngineError(Exception):
    """The engine refused, or does not answer. `code` is one of the wire's problem codes."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
