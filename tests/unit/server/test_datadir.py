"""The data directory, its lock and its token."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from server.datadir import CannotStart, DataDirLock, read_or_make_token, readable_by_others


def test_data_directory_is_made_private_and_an_open_one_is_closed(tmp_path: Path) -> None:
    fresh, open_one = tmp_path / "a" / "b", tmp_path / "c"
    open_one.mkdir()
    open_one.chmod(0o777)
    for path in (fresh, open_one):
        DataDirLock(path).release()
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_second_holder_is_refused_with_the_first_ones_pid_until_it_lets_go(tmp_path: Path) -> None:
    first = DataDirLock(tmp_path)
    with pytest.raises(CannotStart, match=f"pid {os.getpid()} uses the data directory"):
        DataDirLock(tmp_path)
    first.release()
    DataDirLock(tmp_path).release()


def test_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStart, match=r"file/below.*Not a directory"):
        DataDirLock(tmp_path / "file" / "below")


def test_token_is_made_once_with_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "token"
    token, made = read_or_make_token(path)
    assert made
    assert len(token) >= 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not readable_by_others(path)
    assert read_or_make_token(path) == (token, False)
    assert list(path.parent.iterdir()) == [path]


def test_token_that_was_there_is_used_and_an_open_file_noticed(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("  a-token-of-my-own\n")
    path.chmod(0o644)
    assert read_or_make_token(path) == ("a-token-of-my-own", False)
    assert readable_by_others(path)


@pytest.mark.parametrize("content", ["", "\n", "short", "two words of length", "naïve-naïve-naïve-naïve"])
def test_file_without_a_token_is_refused_rather_than_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(CannotStart, match="holds no token"):
        read_or_make_token(path)
    assert path.read_text() == content
