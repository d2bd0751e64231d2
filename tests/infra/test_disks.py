"""Disks of a set rate: real limits of block I/O, gone afterwards."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.lab import disks
from infra.lab.disks import PREFIX, Disks, limit_disks
from infra.lab.network import LabError

BYTES_PER_S = 10e6
READ_BYTES = 10 << 20
DEADLINE_S = 60.0


def groups() -> set[str]:
    return {path.name for path in disks.ROOT.glob(f"{PREFIX}*")}


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Disks]:
    before = groups()
    if os.geteuid() or not disks.ROOT.exists():
        pytest.skip("limits of block I/O need root and cgroup v1")
    try:
        with limit_disks(tmp_path, ["a", "b"], BYTES_PER_S) as made:
            yield made
    except LabError as error:
        pytest.skip(str(error))
    assert groups() == before


def test_a_host_reads_no_faster_than_its_disk_and_one_without_a_disk_as_ever(limited: Disks, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(READ_BYTES))
    os.sync()

    def seconds(host: str) -> float:
        began_s = time.monotonic()
        read = ["dd", f"if={path}", "of=/dev/null", "iflag=direct", "bs=1M", "status=none"]
        subprocess.run([*limited.prefix(host), *read], check=True, timeout=DEADLINE_S)
        return time.monotonic() - began_s

    assert limited.prefix("elsewhere") == []
    assert seconds("a") > 0.7 * READ_BYTES / BYTES_PER_S > seconds("elsewhere")


def test_each_host_has_a_group_of_its_own_and_its_processes_are_in_it(limited: Disks) -> None:
    show = [sys.executable, "-c", "print(open('/proc/self/cgroup').read())"]
    for host, group in limited.groups.items():
        shown = subprocess.run([*limited.prefix(host), *show], check=True, capture_output=True, text=True).stdout
        assert f"blkio:/{group.name}\n" in shown
    assert len(set(limited.groups.values())) == 2


def test_what_a_killed_lab_left_is_removed_by_the_next(limited: Disks, tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = disks.ROOT / f"{PREFIX}{ended.pid}x0"
    left.mkdir()
    with limit_disks(tmp_path, ["a"], BYTES_PER_S):
        assert not left.exists()


def test_where_nothing_can_be_limited_that_is_said_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disks, "ROOT", tmp_path / "absent" / "blkio")
    with pytest.raises(LabError, match="disks cannot be limited here"), limit_disks(tmp_path, ["a"], 1e6):
        pytest.fail("it said that it had")


def test_without_a_rate_nobody_is_limited(tmp_path: Path) -> None:
    with limit_disks(tmp_path, ["a"], None) as made:
        assert made.prefix("a") == []
