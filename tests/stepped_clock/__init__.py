"""A wall clock that tests set, of every Python process that is started with this folder on its path."""

import mmap
import os
import struct
from pathlib import Path

VARIABLE = "STEPPED_CLOCK"


class SteppedClock:
    """The wall clock of processes started with `environment`: the real one and as much as it was set off by."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(struct.pack("d", 0.0))
        file = os.open(path, os.O_RDWR)
        self._off = mmap.mmap(file, 8)
        os.close(file)
        folders = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        self.environment = {VARIABLE: str(path), "PYTHONPATH": os.pathsep.join(filter(None, folders))}

    def set_off(self, off_s: float) -> None:
        """From now on the clock is wrong by so much."""
        struct.pack_into("d", self._off, 0, off_s)
