"""The ssd tier: units as files of the node, by digest.

A file is there whole or not at all when a process dies at any moment. Nothing is forced to the medium: after a power
failure a file may hold other bytes than it should, and the checksums, which every load compares, send it away.
"""

import logging
import os
import re
import threading
import uuid
from pathlib import Path

from storage_tiers.errors import Corrupt, Missing, OutOfSpace, StorageError

_log = logging.getLogger(__name__)
_PARTIAL = ".partial"
_DIGEST = re.compile("[0-9a-f]{64}")


class SsdTier:
    """Units below one folder within a budget in bytes, the least recently read evicted first. Thread-safe.

    Opening it finds what an earlier process left (by name and size, not by reading) and removes unfinished writes;
    files that are not called like a unit are not ours, and stay. A unit is held when it is whole; while it is being
    written it only counts against the budget.
    """

    def __init__(self, folder: str | os.PathLike[str], budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._folder = Path(folder)
        self._lock = threading.Lock()
        self._written = threading.Condition(self._lock)
        self._sizes: dict[str, int] = {}
        self._writing: dict[str, int] = {}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            found = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
            for path in found:
                if path.name.endswith(_PARTIAL):
                    path.unlink()
                elif _DIGEST.fullmatch(path.name) and path.is_file():
                    self._sizes[path.name] = path.stat().st_size
        except OSError as error:
            raise StorageError(
                f"ssd folder {self._folder}: {error.strerror}; set node.ssd_dir to one that works"
            ) from error

    @property
    def used_bytes(self) -> int:
        with self._lock:
            return self._counted()

    def held(self) -> frozenset[str]:
        """Digests of the units that are here."""
        with self._lock:
            return frozenset(self._sizes)

    def holds(self, digest: str, size_bytes: int) -> bool:
        """Whether the unit is here with that length."""
        with self._lock:
            return self._sizes.get(digest) == size_bytes

    def read_into(self, digest: str, offset_bytes: int, view: memoryview) -> None:
        """Fill `view` from the unit's bytes. Missing if it is not here, Corrupt if it is too short."""
        try:
            with open(self._folder / digest, "rb", buffering=0) as file:
                file.seek(offset_bytes)
                got = 0
                while got < len(view) and (count := file.readinto(view[got:])):
                    got += count
        except OSError as error:
            self.drop(digest)
            raise Missing(f"unit {digest} cannot be read from ssd: {error.strerror}") from error
        if got != len(view):
            raise Corrupt(f"unit {digest} on ssd ends {len(view) - got} bytes too early")
        with self._lock:
            if digest in self._sizes:
                self._sizes[digest] = self._sizes.pop(digest)

    def write(self, digest: str, data: memoryview) -> None:
        """Keep a unit, evicting others for it. OutOfSpace if the budget or the disk cannot hold it.

        Returns when it is here, also if it was, or if somebody else is just writing it.
        """
        if not self._claim(digest, len(data)):
            return
        partial = self._folder / f"{digest}.{uuid.uuid4().hex}{_PARTIAL}"
        try:
            with open(partial, "wb", buffering=0) as file:
                done = 0
                while done < len(data):
                    done += file.write(data[done:])
            with self._written:
                os.replace(partial, self._folder / digest)
                self._sizes[digest] = self._writing.pop(digest)
                self._written.notify_all()
        except BaseException as error:
            partial.unlink(missing_ok=True)
            with self._written:
                del self._writing[digest]
                self._written.notify_all()
            if isinstance(error, OSError):
                raise OutOfSpace(f"ssd folder {self._folder}: {error.strerror}") from error
            raise

    def drop(self, digest: str) -> None:
        """Forget the unit and remove its file."""
        with self._lock:
            self._forget(digest)

    def _claim(self, digest: str, size_bytes: int) -> bool:
        """Make room and count the unit in; False if it is already here."""
        with self._written:
            self._written.wait_for(lambda: digest not in self._writing)
            if self._sizes.get(digest) == size_bytes:
                return False
            free = self.budget_bytes - sum(self._writing.values())
            if size_bytes > free:
                raise OutOfSpace(
                    f"ssd: {size_bytes:,} bytes asked, {free:,} are not being written to; "
                    f"node.ssd_bytes is {self.budget_bytes:,}"
                )
            self._forget(digest)
            while self._counted() + size_bytes > self.budget_bytes:
                self._forget(next(iter(self._sizes)))
            self._writing[digest] = size_bytes
            return True

    def _counted(self) -> int:
        return sum(self._sizes.values()) + sum(self._writing.values())

    def _forget(self, digest: str) -> None:
        """Under the lock. A file that cannot be removed (the disk has become read-only, say) is not used again."""
        self._sizes.pop(digest, None)
        try:
            (self._folder / digest).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("unit %s cannot be removed from ssd: %s", digest, error.strerror)
