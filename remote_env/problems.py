"""Every refusal of the server, as the wire has it: RFC 9457 problem+json with a stable code."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

PROBLEMS: dict[str, tuple[int, str, bool | Literal["unknown"], bool]] = {
    # code: (status, title, accepted, retryable)
    "damaged": (400, "The request was damaged on the way", False, True),
    "unauthorized": (401, "The token is missing or wrong", False, False),
    "forbidden": (403, "Not allowed", False, False),
    "permission_denied": (403, "The sandbox's user may not", False, False),
    "not_found": (404, "Unknown here", False, False),
    "image_not_found": (404, "The image is not there and cannot be pulled", False, False),
    "file_not_found": (404, "No such file or directory in the sandbox", False, False),
    "method_not_allowed": (405, "No such method here", False, False),
    "wrong_state": (409, "Not possible in this state", False, False),
    "is_directory": (409, "It is a directory", False, False),
    "not_directory": (409, "It is not a directory", False, False),
    "not_regular": (409, "It is no regular file", False, False),
    "directory_not_empty": (409, "The directory is not empty", False, False),
    "read_only": (409, "The file system is read-only", False, False),
    "too_many_links": (409, "Too many symbolic links", False, False),
    "session_ended": (409, "The session is over, or none of this sandbox", False, False),
    "session_busy": (409, "Another command of the session has not ended", False, True),
    "input_unknown": (409, "How much of the terminal's input has arrived is not known", "unknown", False),
    "gone": (410, "Removed, or beyond retention", False, False),
    "epoch_mismatch": (412, "Another sandbox than the one the request speaks of", False, False),
    "changed": (412, "The file has changed since", False, False),
    "too_large": (413, "The request is too large", False, False),
    "file_too_large": (413, "The file is too large", False, False),
    "range_not_satisfiable": (416, "No such range", False, False),
    "invalid": (422, "The request is not valid", False, False),
    "name_too_long": (422, "The name is too long", False, False),
    "id_conflict": (422, "The id is taken by another request", False, False),
    "epoch_required": (428, "The epoch header is missing", False, False),
    "too_many": (429, "Too many requests", False, True),
    "internal": (500, "The server failed", "unknown", False),
    "commit_failed": (500, "The journal could not be written", "unknown", False),
    "file_agent_failed": (502, "The sandbox did not finish the file request", "unknown", True),
    "capacity": (503, "No room for more work now", False, True),
    "disk_full": (503, "Too little free disk for new work", False, True),
    "stopping": (503, "The server is stopping", False, True),
    "engine_unavailable": (503, "The container engine does not answer", False, True),
    "sandbox_full": (503, "The sandbox has no room for another process", False, True),
    "no_space": (507, "No space is left in the sandbox", False, False),
}

NO_SUCH_ROUTE = "is not part of this server's interface"
"""How the detail ends of a `not_found` or `method_not_allowed` that is about the request's path itself."""


class Problem(BaseModel):
    """Every error of ours: RFC 9457 problem+json. `accepted` says whether the request was taken."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    accepted: bool | Literal["unknown"]
    retryable: bool
    retry_after_s: float | None = None
    id: str | None = None  # the execution's or sandbox's

    @property
    def no_such_route(self) -> bool:
        """Whether the server knows the request's path or method not at all: no sandbox or execution is missing."""
        return self.code in ("not_found", "method_not_allowed") and self.detail.endswith(NO_SUCH_ROUTE)

    @classmethod
    def of(cls, code: str, detail: str, *, retry_after_s: float | None = None, id: str | None = None) -> Problem:
        status, title, accepted, retryable = PROBLEMS[code]
        return cls(
            title=title, status=status, detail=detail, code=code, accepted=accepted, retryable=retryable,
            retry_after_s=retry_after_s, id=id,
        )  # fmt: skip
