"""What shells really do with commands that are recognised as reads: they change no file, and see the words that the recogniser saw."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remote_env._reads.shell import simple_commands
from remote_env._reads.words import NotARead
from remote_env.idempotency import ReadCommands

CASES = Path(__file__).parent / "idempotency"
TABLE = ReadCommands.default()
SHELLS = [shell for shell in ("bash", "sh") if shutil.which(shell)]


def commands(name: str) -> list[str]:
    """The commands of one case file, one a line; `##` begins a remark."""
    lines = (("  " + line).partition("  ##")[0].strip(" ") for line in (CASES / name).read_text("utf-8").splitlines())
    return [line for line in lines if line]


READS = [*commands("reads.txt"), "\n  ls -la\n", "\tls\t-la", "cat 'café ☕.txt'"]
WRITES = commands("writes.txt")


# -- what really happens when they are run -------------------------------------------------------------------------------

Snapshot = dict[str, tuple[int, int, int, str]]


def snapshot(workspace: Path) -> Snapshot:
    """Name → mode, size, time of last change, hash of content; without git's index, whose cached file times a read may refresh."""
    found: Snapshot = {}
    for directory, _, files in os.walk(workspace):
        for path in (Path(directory), *(Path(directory, name) for name in files)):
            name = str(path.relative_to(workspace))
            if name in (".git", ".git/index"):  # the directory's own time changes with the index
                continue
            status = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found[name] = (status.st_mode, status.st_size if content else 0, status.st_mtime_ns, hashlib.sha256(content).hexdigest())
    return found


def run(command: str, workspace: Path, shell: str) -> subprocess.CompletedProcess[bytes]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(workspace),
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",  # would ask an index, and note in a cache when it did
        "DOCKER_HOST": f"unix://{workspace}/no-engine.sock",
    }
    # A session of its own, and no terminal: what a command leaves behind in the background holds neither of ours.
    return subprocess.run(
        [shell, "-c", command],
        cwd=workspace,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        start_new_session=True,
    )


SET_UP = r"""
set -e
mkdir src odd
printf '# Title\n\na foo line with bar\n-x\n' > README.md
cp README.md 'notes with spaces.txt'
cp README.md 'café ☕.txt'
printf 'import os\n\n\ndef run(x):\n    return x\n' > src/app.py
printf 'def foo():\n    return 1  # todo\n' > src/util.py
printf 'name,n\nb,2\na,1\na,1\nx,10\n' > data.csv
printf '{"name": "n", "items": [{"id": 1}]}' > data.json
printf 'one\ntwo\n' > names
ln -s README.md link
cd odd
printf 'x\n' > ./plain.txt
for name in --output=pwned -n; do printf 'x\n' > "./$name"; done
cd ..
git init -q -b main .
git config user.name Tester
git config user.email tester@example.invalid
git remote add origin https://example.invalid/x.git
printf '*.pyc\n' > .gitignore
git add . && git commit -q -m 'first'
printf '\ndef more():\n    return 2\n' >> src/app.py
git commit -q -a -m 'fix: second'
git tag v1 && git branch feature
printf 'y\n' >> README.md && git stash -q
printf 'changed\n' >> README.md
git update-index -q --refresh || true
"""


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project under git, with odd file names. Not to be changed; copy it."""
    workspace = tmp_path_factory.mktemp("pristine")
    done = run(SET_UP, workspace, "sh")
    assert done.returncode == 0, done.stderr
    return workspace


@pytest.fixture
def workspace(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "workspace", symlinks=True))


@pytest.fixture(scope="module")
def shared_workspace(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One workspace for all commands that must leave it as it is."""
    return Path(shutil.copytree(pristine, tmp_path_factory.mktemp("shared") / "workspace", symlinks=True))


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("command", READS)
def test_read_leaves_every_file_as_it_was(command: str, shell: str, shared_workspace: Path) -> None:
    before = snapshot(shared_workspace)
    run(command, shared_workspace, shell)
    assert snapshot(shared_workspace) == before


@pytest.mark.parametrize("command", WRITES)
def test_refused_command_would_have_changed_something(command: str, workspace: Path) -> None:
    """The proof that the test above can see a change, and that these attacks are real ones."""
    program = command.split()[0]
    if program in {"xxd", "awk"} and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    before = snapshot(workspace)
    run(command, workspace, "bash")
    assert snapshot(workspace) != before


# -- any text ------------------------------------------------------------------------------------------------------------

FRAGMENTS = st.sampled_from(
    [
        *(
            "'",
            '"',
            "\\",
            "\\'",
            '\\"',
            "\\\\",
            "''",
            '""',
            " ",
            "  ",
            "\t",
            ";",
            "|",
            "&&",
            "||",
            "&",
            "\n",
            "#",
            "!",
            "{",
            "}",
            ",",
            "[",
            "]",
            "*",
        ),
        *(
            "?",
            "$",
            "`",
            "$(",
            ")",
            "(",
            "<",
            ">",
            "2>&1",
            ">/dev/null",
            "<names",
            "touch pwned",
            "`touch pwned`",
            "$(touch pwned)",
            "> pwned",
            "a",
        ),
        *(
            "b c",
            "-n",
            "--",
            "=",
            "..",
            "{a,b}",
            "{Z..a}",
            "%s",
            "é",
            "^",
            "~",
            "/",
            "\\$(touch pwned)",
            "'$(touch pwned)'",
            "\\`touch pwned\\`",
        ),
    ]
)


@given(
    program=st.sampled_from(["echo ", "cat ", "printf %s ", "ls ", "sort -- ", "[ a = ", "grep -- a "]),
    fragments=st.lists(FRAGMENTS, max_size=9),
)
@settings(derandomize=True, deadline=None, database=None, max_examples=1500, suppress_health_check=list(HealthCheck))
def test_no_accepted_text_makes_a_shell_write(program: str, fragments: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    command = program + "".join(fragments)
    if not TABLE.is_read(command):
        return
    workspace = tmp_path_factory.getbasetemp() / "canary"
    workspace.mkdir(exist_ok=True)
    (workspace / "names").write_text("a\n")
    for shell in SHELLS:
        run(command, workspace, shell)
        assert os.listdir(workspace) == ["names"], command


# `~` is left out: it is the one character that stands for something else than itself.
LITERALS = st.lists(
    st.sampled_from(
        [
            "'a b'",
            "'$x'",
            "'\\'",
            '"a b"',
            '"\\$x"',
            '"\\\\"',
            '"\\x"',
            '"x$"',
            "\\ ",
            "\\;",
            "\\'",
            "\\*",
            "a",
            "=",
            "^",
            "#",
            ",",
            "'*'",
            '"[?]"',
            "é",
        ]
    ),
    min_size=1,
    max_size=5,
).map("".join)


@given(st.lists(LITERALS, min_size=1, max_size=4))
@settings(derandomize=True, deadline=None, database=None, max_examples=150)
def test_words_are_those_that_the_shells_see(literals: list[str]) -> None:
    script = "printf '%s\\n' x" + " ".join(literals)
    try:
        (words,) = simple_commands(script)
    except NotARead:
        return
    expected = "".join(word.text + "\n" for word in words[2:])
    for shell in SHELLS:
        assert run(script, Path("/"), shell).stdout.decode() == expected
