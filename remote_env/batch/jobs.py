"""What a job is: one line of a job file. Durations are seconds, sizes bytes or `512m`, `2g`."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from remote_env.batch.results import Phase
from remote_env.fields import AbsolutePath, Duration, Env, Image, Text
from remote_env.protocol import COMMAND_TIMEOUT_S, Bind
from remote_env.quantities import parse_size

JOB_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._+@=-]{0,127}$"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _size(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) else value


def _mode(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError('permission bits are octal digits in a string, such as "0755"')
    try:
        bits = int(value, 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o777:
        raise ValueError('permission bits are octal digits in a string, such as "0755"')
    return value


def _file_name(value: str) -> str:
    if value in ("", ".", "..") or "/" in value or "\\" in value or "\0" in value or len(value.encode("utf-8", "replace")) > 200:
        raise ValueError("not the name of a file: at most 200 bytes, without slashes")
    return value


def _command(value: Any) -> Any:
    return {"command": value} if isinstance(value, str) else value


def _some(value: tuple[JobCommand, ...]) -> tuple[JobCommand, ...]:
    if not value:
        raise ValueError("a job has at least one command")
    return value


def _artifact(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


def _files(value: Any) -> Any:
    if isinstance(value, dict):
        return [{"path": path, "content": content} for path, content in value.items()]
    return value


Size = Annotated[int, BeforeValidator(_size)]
FilePath = Annotated[Text, Field(min_length=1, max_length=4096)]


class JobFileEntry(Part):
    """A file, or a local tree, that is put into the sandbox before anything runs. Exactly one of `content`, `content_base64` and
    `source`. Directories that it is in are made."""

    path: FilePath = Field(description="In the sandbox; relative to the workdir.")
    content: str | None = Field(None, description="Text; written as UTF-8.")
    content_base64: str | None = None
    source: str | None = Field(None, min_length=1, description="A local file or directory; relative to the job file.")
    mode: Annotated[str, BeforeValidator(_mode)] | None = Field(
        None, description='Permission bits, such as "0755". Default: "0644", or those of the source.'
    )

    @model_validator(mode="after")
    def _one_content(self) -> JobFileEntry:
        if sum(form is not None for form in (self.content, self.content_base64, self.source)) != 1:
            raise ValueError("give exactly one of content, content_base64 and source")
        self.data()
        return self

    def data(self) -> bytes | None:
        """The content that is in the job itself; None where it is a local file's."""
        if self.content is not None:
            return self.content.encode("utf-8", "surrogateescape")
        if self.content_base64 is None:
            return None
        try:
            return base64.b64decode(self.content_base64, validate=True)
        except binascii.Error as error:
            raise ValueError(f"content_base64 is not base64: {error}") from None

    @property
    def bits(self) -> int | None:
        return None if self.mode is None else int(self.mode, 8)


class JobCommand(Part):
    """A command. Exactly one of `command`, for a shell, and `argv`, which is run as it is."""

    command: Annotated[Text, Field(min_length=1)] | None = None
    argv: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    name: str | None = Field(None, description="What reports call it.", max_length=200)
    timeout_s: Duration = Field(COMMAND_TIMEOUT_S, description="Seconds, then everything that it started is ended.")
    workdir: AbsolutePath | None = Field(None, description="Default: the job's.")
    env: Env = Field(default_factory=dict, description="Beside the job's.")
    user: Text | None = None
    stdin: str | None = Field(None, description="Default: empty.")
    shell: Text | None = Field(None, description="Default: bash where the image has it, else sh.")
    login: bool = False
    split: bool = Field(False, description="Keep stdout and stderr apart. Default: one output in the order written.")
    output_limit_bytes: Annotated[Size, Field(ge=2, le=64 << 30)] | None = Field(
        None, description="Output that is kept, half head, half tail. Default: 64 MiB."
    )
    continue_on_failure: bool = Field(False, description="Go on with the next command where this one fails; the job has failed then, too.")

    @model_validator(mode="after")
    def _one_of_each(self) -> JobCommand:
        if (self.command is None) == (self.argv is None):
            raise ValueError("give either command (a string for a shell) or argv (a list)")
        if self.argv is not None and (self.shell is not None or self.login):
            raise ValueError("shell and login go with command; argv is run without a shell")
        return self

    @property
    def what(self) -> str | list[str]:
        return list(self.argv) if self.argv is not None else self.command or ""


class JobArtifact(Part):
    """A file or tree that is fetched from the sandbox once its commands have ended, however they did."""

    path: FilePath = Field(description="In the sandbox; relative to the workdir.")
    required: bool = Field(False, description="A job that passed and does not have it is an error.")
    name: Annotated[str, AfterValidator(_file_name)] | None = Field(
        None, description="What it is called in the results. Default: the path's last part."
    )

    @property
    def local_name(self) -> str:
        return self.name or PurePosixPath(self.path).name


class JobResources(Part):
    """Limits of the sandbox. Default: the server's."""

    cpus: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    memory: Annotated[Size, Field(ge=6 << 20)] | None = None
    pids: Annotated[int, Field(ge=16)] | None = None
    shm: Annotated[Size, Field(ge=4096)] | None = None


class Job(Part):
    """One job: a sandbox of its own, what is put into it, what runs in it, what is fetched from it."""

    id: Annotated[str, Field(pattern=JOB_ID_PATTERN, description="Names the job and its directory; unique in the file.")]
    image: Image
    workdir: AbsolutePath | None = Field(None, description="Default: the image's own, else /.")
    env: Env = Field(default_factory=dict)
    user: Text | None = Field(None, description="Default: the image's own, else root.")
    network: Literal["bridge", "none"] = "bridge"
    binds: tuple[Bind, ...] = Field((), description="Directories of the server's machine, where it allows that.")
    labels: dict[str, str] = Field(default_factory=dict, description="Of the sandbox.")
    resources: JobResources = JobResources()
    files: Annotated[tuple[JobFileEntry, ...], BeforeValidator(_files)] = ()
    setup: tuple[Annotated[JobCommand, BeforeValidator(_command)], ...] = Field(
        (), description="Commands that prepare it. One that fails makes the job an error: the candidate was never judged."
    )
    commands: Annotated[tuple[Annotated[JobCommand, BeforeValidator(_command)], ...], AfterValidator(_some)] = Field(
        description="One after another. The job passes where each exits with 0.", json_schema_extra={"minItems": 1}
    )
    artifacts: tuple[Annotated[JobArtifact, BeforeValidator(_artifact)], ...] = ()
    timeout_s: Duration | None = Field(None, description="Seconds that setup and commands may run, all together. Default: no limit.")
    metadata: dict[str, Any] = Field(default_factory=dict, description="Copied into the result.")

    @model_validator(mode="after")
    def _artifacts_apart(self) -> Job:
        names: set[str] = set()
        for artifact in self.artifacts:
            name = artifact.local_name
            if name in ("", ".", ".."):
                raise ValueError(f"artifacts: {artifact.path!r} has no last part: give it a name")
            if name in names:
                raise ValueError(f"artifacts: two are called {name!r}: give them names")
            names.add(name)
        return self

    @property
    def steps(self) -> list[tuple[Phase, int, JobCommand]]:
        """All that runs, in order: phase, index in it, command."""
        setup: list[tuple[Phase, int, JobCommand]] = [("setup", index, command) for index, command in enumerate(self.setup)]
        return setup + [("command", index, command) for index, command in enumerate(self.commands)]

    @property
    def digest(self) -> str:
        """Of everything that decides what runs: two jobs with the same are the same job."""
        fields = self.model_dump(mode="json", exclude={"metadata"}, exclude_defaults=True)
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:32]
