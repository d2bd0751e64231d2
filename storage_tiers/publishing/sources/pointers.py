"""Git-LFS pointers: a few lines of text that lie where a clone without LFS should have a large file."""

from storage_tiers.errors import SourceError
from storage_tiers.publishing.sources.folders import Folder

_START = b"version https://git-lfs"
_LARGEST_BYTES = 1024


def check_pointer(data: bytes, where: str) -> None:
    """SourceError if what was read at `where` is a pointer."""
    if data.startswith(_START):
        raise SourceError(f"{where} is a Git LFS pointer, not the file itself: run `git lfs pull` where it was cloned")


def check_pointer_file(folder: Folder, name: str) -> None:
    """SourceError if the file is a pointer; costs nothing for a file that is too large to be one, or absent."""
    fact = folder.files().get(name)
    if fact is not None and fact.size_bytes <= _LARGEST_BYTES:
        check_pointer(folder.read(name), f"{folder.where}/{name}")
