"""The JSON Schema of a job, for editors and other programs."""

from __future__ import annotations

from typing import Any

from remote_env.batch.jobs import Job

_TEXT = {"type": "string", "minLength": 1}


def job_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of one line of a job file, with the short forms that the model itself does not show."""
    schema = Job.model_json_schema()
    properties = schema["properties"]
    for name in ("setup", "commands", "artifacts"):
        properties[name]["items"] = {"anyOf": [_TEXT, properties[name]["items"]]}
    files = properties["files"]
    listed = {key: files.pop(key) for key in ("type", "items")}
    files["anyOf"] = [listed, {"type": "object", "additionalProperties": {"type": "string"}, "description": "path: content"}]
    for name in ("memory", "shm"):
        _with_size(schema["$defs"]["JobResources"]["properties"][name])
    _with_size(schema["$defs"]["JobCommand"]["properties"]["output_limit_bytes"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "A job of remote-env batch"}


def _with_size(field: dict[str, Any]) -> None:
    field["anyOf"].insert(1, {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*([bB]|[kKmMgGtT]([iI]?[bB])?)?\s*$"})
