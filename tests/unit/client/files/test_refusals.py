"""What the server refuses about a file, as errors."""

from __future__ import annotations

import pytest

from remote_env import (
    DirectoryNotEmpty,
    FileError,
    InvalidSpec,
    NoSpace,
    NotARegularFile,
    RemoteEnvError,
    Sandbox,
    SandboxFileNotFound,
    SandboxGone,
    SandboxIsADirectory,
    SandboxNotADirectory,
    SandboxPermissionError,
)
from remote_env.exchange import ERRORS
from tests.unit.client.fakefiles import FakeFiles
from tests.unit.client.fakeserver import refusal
from tests.unit.client.files.conftest import FILES

BOTH_FACES = True


REFUSALS: list[tuple[str, type[RemoteEnvError], type[BaseException]]] = [
    ("file_not_found", SandboxFileNotFound, FileNotFoundError),
    ("is_directory", SandboxIsADirectory, IsADirectoryError),
    ("not_directory", SandboxNotADirectory, NotADirectoryError),
    ("permission_denied", SandboxPermissionError, PermissionError),
    ("read_only", SandboxPermissionError, PermissionError),
    ("not_regular", NotARegularFile, FileError),
    ("too_many_links", NotARegularFile, FileError),
    ("no_space", NoSpace, FileError),
    ("wrong_state", FileError, FileError),
    ("name_too_long", InvalidSpec, InvalidSpec),
    ("gone", SandboxGone, SandboxGone),
]


@pytest.mark.parametrize(("code", "kind", "builtin"), REFUSALS)
def test_a_refusal_is_an_error_of_its_own_kind(
    sandbox: Sandbox, fake: FakeFiles, code: str, kind: type[RemoteEnvError], builtin: type[BaseException]
) -> None:
    for call in (lambda: sandbox.read_bytes("/f"), lambda: sandbox.write("/f", b"x"), lambda: sandbox.stat("/f")):
        fake.on("GET", FILES, refusal(code))
        fake.on("PUT", FILES, refusal(code))
        with pytest.raises(kind) as raised:
            call()
        assert isinstance(raised.value, builtin)
        if isinstance(raised.value, FileError):
            assert raised.value.path == "/f"
            assert sandbox.gone is None
        if code == "gone":
            assert sandbox.gone is not None
            break


def test_errors_of_the_operating_system_have_its_numbers() -> None:
    for kind in (SandboxFileNotFound, SandboxIsADirectory, SandboxNotADirectory, SandboxPermissionError):
        error = kind("what", path="/f")
        assert isinstance(error, OSError)
        assert error.errno is not None
        assert str(error) == "what"


def test_every_code_of_files_has_an_error() -> None:
    ours = [kind for kind in ERRORS.values() if issubclass(kind, FileError)]
    assert {SandboxFileNotFound, SandboxIsADirectory, SandboxNotADirectory, SandboxPermissionError, DirectoryNotEmpty} <= set(ours)


def test_a_busy_server_is_waited_for(sandbox: Sandbox, fake: FakeFiles) -> None:
    sandbox.write("/f", b"x")
    fake.on("GET", FILES, refusal("sandbox_full"), refusal("stopping"))
    assert sandbox.read_bytes("/f") == b"x"
    fake.on("PUT", FILES, refusal("sandbox_full"), refusal("damaged"))
    sandbox.write("/f", b"y")
    assert (fake.root / "f").read_bytes() == b"y"


@pytest.mark.parametrize(
    ("code", "detail", "words"),
    [
        ("file_not_found", "/f: No such file or directory", "/f: No such file or directory (in the sandbox)"),
        ("permission_denied", "/f: Permission denied", "/f: Permission denied (in the sandbox)"),
        ("not_regular", "/f: Is a device, a FIFO or a socket", "/f: Is a device, a FIFO or a socket (in the sandbox)"),
        ("no_space", "/f: No space left on device", "/f: No space left on device (in the sandbox)"),
        ("wrong_state", "/f: Is there already", "/f: Is there already"),
        ("invalid", "user: 'x' is no user of sandbox s", "user: 'x' is no user of sandbox s"),
        ("too_large", "the directory has more than 100000 entries", "/f: the directory has more than 100000 entries"),
    ],
)
def test_a_refusal_says_each_thing_once(sandbox: Sandbox, fake: FakeFiles, code: str, detail: str, words: str) -> None:
    fake.on("GET", FILES, refusal(code, detail=detail))
    with pytest.raises(RemoteEnvError) as raised:
        sandbox.list("/f")
    assert str(raised.value) == words
