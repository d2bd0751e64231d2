"""A process that loads and writes behind is killed, again and again: its ssd folder holds whole, right units only."""

import signal
import subprocess
import sys
import threading
from pathlib import Path
from random import Random

import crc32c

from storage_tiers.checkpoint import UnitIndex, UnitLayout, shard_index
from storage_tiers.model_store import ModelStore
from storage_tiers.tiers.ssd import SsdTier
from tests.storage_tiers.handmade import bytes_of, digest_of

_ROOT_FOLDER = Path(__file__).parents[2]
_CHUNK_BYTES, _CHUNKS, _COUNT, _KEPT = 1 << 20, 4, 6, 4
_UNIT_BYTES = _CHUNK_BYTES * _CHUNKS
_DEADLINE_S = 60.0
_LOAD_FOREVER = """
import sys, time
from random import Random
from storage_tiers.tiers import ssd as ssd_module
from storage_tiers.tiers.dram import DramTier
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.tiers.ssd import SsdTier
from storage_tiers.tiers.stack import Priority, TierStack
from tests.storage_tiers.test_ssd_crash import _KEPT, _UNIT_BYTES, make_units

store, folder, seed = ModelStore(ObjectStore(sys.argv[1])), sys.argv[2], int(sys.argv[3])
ssd_module._WRITE_BYTES = 32 << 10  # a kill waits for the write that the kernel is at: of a whole unit there is but one
ssd = SsdTier(folder, _KEPT * _UNIT_BYTES)
stack = TierStack(DramTier(3 * _UNIT_BYTES), ssd, store, 2, time.time)
units, random = make_units(), Random(seed)
print("loading", flush=True)
while True:
    unit, data = random.choice(units)
    loaded = stack.load("model", unit, Priority.COLD_START).result(30)
    if bytes(loaded.segment.view) != data:
        sys.exit("wrong bytes")
    stack.release(unit)
"""


def make_units() -> list[tuple[UnitIndex, bytes]]:
    """Units that take a while to write, each with its bytes; the same ones in every process."""
    found = []
    for seed in range(_COUNT):
        data = bytes_of(seed, _UNIT_BYTES)
        layout = UnitLayout((), _UNIT_BYTES, _CHUNK_BYTES, _CHUNKS)
        checksums = tuple(crc32c.crc32c(data[i : i + _CHUNK_BYTES]) for i in range(0, _UNIT_BYTES, _CHUNK_BYTES))
        found.append((UnitIndex(f"unit{seed}", f"_v/unit{seed}", digest_of(data), layout, checksums), data))
    return found


def test_however_often_it_is_killed_only_whole_and_right_units_are_found(store: ModelStore, tmp_path: Path) -> None:
    random, ssd = Random(11), tmp_path / "ssd"
    units = {unit.digest: data for unit, data in make_units()}
    for unit, data in make_units():
        store.objects.write(store.unit_key("model", unit), data + shard_index(unit.layout))
    found_again = 0
    for seed in range(10):
        command = [sys.executable, "-c", _LOAD_FOREVER, store.objects.url, str(ssd), str(seed)]
        with subprocess.Popen(command, cwd=_ROOT_FOLDER, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            watchdog = threading.Timer(_DEADLINE_S, process.kill)
            watchdog.start()
            assert process.stdout.readline() == b"loading\n"
            threading.Event().wait(random.uniform(0.0, 0.3))
            process.kill()
            assert process.wait(_DEADLINE_S) == -signal.SIGKILL, "it was at work until then"
            watchdog.cancel()
        tier = SsdTier(ssd, _KEPT * _UNIT_BYTES)
        files = {path.name: path.read_bytes() for path in ssd.iterdir()}
        assert files == {digest: units[digest] for digest in tier.held()}
        assert tier.used_bytes == len(files) * _UNIT_BYTES <= tier.budget_bytes
        found_again += len(files)
    assert found_again
