"""Files that are written whole, or not at all."""

import errno
from pathlib import Path

import pytest

from storage_tiers.plain_files import whole


def fill_the_disk(path: Path) -> None:
    with whole(path) as file:
        file.write(b"second")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_stays_what_it_was_until_a_new_one_is_whole(tmp_path: Path) -> None:
    """A full disk was told without a word of where."""
    path = tmp_path / "settings.json"
    with whole(path, mode=0o600) as file:
        file.write(b"first")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"first", 0o600)
    with pytest.raises(OSError, match="No space left") as refused:
        fill_the_disk(path)
    assert refused.value.filename == str(path)
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"first", [path])


def test_a_folder_that_is_not_there_is_named_by_the_file_that_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "trace.npz"
    with pytest.raises(FileNotFoundError) as refused, whole(path):
        pass
    assert refused.value.filename == str(path)
