"""What fuzzing has found worth keeping is played again, through the sanitizers (scripts/fuzz-init looks for more)."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.init.fuzz.seeds import seeds

FUZZ = Path(__file__).parent / "fuzz"


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fuzz target with a main() of its own, so that any C compiler will do."""
    program = tmp_path_factory.mktemp("fuzz") / "replay"
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler with sanitizers here")
    flags = ["-std=c11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DINIT_SANITIZED", "-DREPLAY"]
    subprocess.run([compiler, *flags, "-o", str(program), str(FUZZ / "link_fuzz.c")], check=True)
    return program


def play(replay: Path, inputs: list[Path]) -> None:
    done = subprocess.run([str(replay), *map(str, inputs)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == f"{len(inputs)} inputs played\n"


def test_kept_inputs_break_no_rule_of_the_init(replay: Path, tmp_path: Path) -> None:
    with tarfile.open(FUZZ / "corpus.tar.xz") as kept:
        kept.extractall(tmp_path)
    inputs = sorted(path for path in tmp_path.iterdir() if path.is_file())
    assert len(inputs) > 100
    play(replay, inputs)


@pytest.mark.parametrize("name", seeds())
def test_well_formed_messages_torn_at_every_byte_break_no_rule(name: str, replay: Path, tmp_path: Path) -> None:
    content = seeds()[name]
    inputs = []
    for cut in range(len(content) + 1):
        inputs.append(tmp_path / f"{cut}")
        inputs[-1].write_bytes(content[:cut])
    play(replay, inputs)
