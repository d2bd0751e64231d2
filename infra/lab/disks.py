"""Disks of a set rate for the hosts of a lab, which share one: a limit of block I/O (cgroup v1, blkio) for each host.

What is read past the page cache counts, as a node reads its ssd. Writes are not limited.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.lab.network import LabError

ROOT = Path("/sys/fs/cgroup/blkio")
PREFIX = "firsttoken-lab-"
_EMPTY_WITHIN_S = 5.0
_numbers = itertools.count()


@dataclass(frozen=True)
class Disks:
    """The groups that hosts' processes belong to."""

    groups: dict[str, Path]

    def prefix(self, host: str) -> list[str]:
        """What to put before a command so that it runs behind the host's disk; nothing for a host that has none of its own.

        It goes before `ip netns exec`, which shows another /sys to what it runs.
        """
        if host not in self.groups:
            return []
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.groups[host] / "cgroup.procs")]


@contextlib.contextmanager
def limit_disks(folder: Path, hosts: Sequence[str], bytes_per_s: float | None) -> Iterator[Disks]:
    """A disk of that rate for each host, as far as it lies where `folder` does; None limits nobody.

    Whatever runs behind it must have ended when the block does. LabError if this machine cannot limit.
    """
    made: dict[str, Path] = {}
    try:
        if bytes_per_s is not None:
            _limit(made, folder, hosts, bytes_per_s)
        yield Disks(made)
    finally:
        for group in made.values():
            _remove(group)


def _limit(made: dict[str, Path], folder: Path, hosts: Sequence[str], bytes_per_s: float) -> None:
    try:
        _remove_dead()
        device = _device(folder)
        for host in hosts:
            group = ROOT / f"{PREFIX}{os.getpid()}x{next(_numbers)}"
            group.mkdir()
            made[host] = group
            (group / "blkio.throttle.read_bps_device").write_text(f"{device} {int(bytes_per_s)}")
    except OSError as error:
        raise LabError(f"disks cannot be limited here (cgroup v1, blkio): {error}") from error


def _device(folder: Path) -> str:
    """The disk that holds the folder, as major:minor; limits are of whole disks."""
    number = os.stat(folder).st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    block = Path("/sys/dev/block", name).resolve()
    return (block.parent / "dev").read_text().strip() if (block / "partition").exists() else name


def _remove(group: Path) -> None:
    until_s = time.monotonic() + _EMPTY_WITHIN_S
    while group.exists():
        try:
            group.rmdir()
        except OSError:
            if time.monotonic() > until_s:
                return
            time.sleep(0.05)


def _remove_dead() -> None:
    """Remove what labs left whose maker is dead."""
    for group in ROOT.glob(f"{PREFIX}*"):
        pid = int(group.name.removeprefix(PREFIX).split("x")[0])
        if not Path("/proc", str(pid)).exists():
            _remove(group)
