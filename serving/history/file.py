"""The file of a history in SQLite: whether it is still the one that was opened, and what becomes of a damaged one.

SQLite goes on writing into a file that was removed or replaced, and never says so. Everything here may wait for a disk, and
raise what a disk raises.
"""

import os
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

_SIBLINGS = ("-wal", "-shm")
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@dataclass(frozen=True)
class _Seen:
    """What stands for the database by its path: device and inode of the file and of its log, None for what is not there."""

    file: tuple[int, int] | None
    log: tuple[int, int] | None


class HistoryFile:
    """Use from one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: _Seen | None = None

    def note(self) -> None:
        """The database is open: this is its file."""
        self._seen = self._look()

    def replaced(self) -> bool:
        """Whether what was noted has been removed, emptied or replaced since: the file, or the log that belongs to it."""
        if self._seen is None:
            return False
        now = self._look()
        return (
            now.file is None
            or now.file != self._seen.file
            or (self._seen.log is not None and now.log != self._seen.log)
        )

    def set_aside(self) -> Path | None:
        """Give a damaged file another name, its log too; its new path, or None if SQLite can read it after all."""
        if not self._is_damaged():
            return None
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}")
        for sibling in ("", *_SIBLINGS):
            if Path(f"{self.path}{sibling}").exists():
                os.replace(f"{self.path}{sibling}", f"{aside}{sibling}")
        return aside

    def forget(self) -> None:
        """The database is closed. Whatever is there from now on is its file; a log without one would be read into it."""
        self._seen = None
        if self._look().file is None:
            for sibling in _SIBLINGS:
                Path(f"{self.path}{sibling}").unlink(missing_ok=True)

    def _look(self) -> _Seen:
        return _Seen(_identity(self.path, empty_is_none=True), _identity(Path(f"{self.path}{_SIBLINGS[0]}")))

    def _is_damaged(self) -> bool:
        try:
            with closing(sqlite3.connect(f"file:{self.path}?mode=rw", uri=True)) as connection:
                return connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",)
        except sqlite3.DatabaseError as error:
            return is_damage(error)


def is_damage(error: BaseException | None) -> bool:
    """Whether SQLite says that the file is no database or a broken one, which no further try will mend."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGED


def _identity(path: Path, empty_is_none: bool = False) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if empty_is_none and not found.st_size else (found.st_dev, found.st_ino)
