"""Several threads, several publishers: the same model, within the same memory, and nothing half-visible."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage_tiers.errors import SourceError
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.progress import UnitProgress
from storage_tiers.publishing.publish import publish
from storage_tiers.publishing.verify import verify
from storage_tiers.threads import Stopped, check, run_all
from tests.storage_tiers.test_publish import _make_large
from tests.tiny import make_tiny

_ROOT_FOLDER = Path(__file__).parents[2]


@pytest.mark.parametrize("workers", [1, 2, 16])
def test_any_number_of_workers_publishes_the_same_model(workers: int, tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    seen: list[UnitProgress] = []
    checkpoint = publish(str(source), "model", store, workers=workers, progress=seen.append)
    assert checkpoint.digest == publish(str(source), "other", store, workers=1).digest
    assert [unit.name for unit in checkpoint.units][::5] == ["embed", "head"]
    assert [p.bytes_done for p in seen] == sorted(p.bytes_done for p in seen)
    assert [p.units_done for p in seen] == sorted(p.units_done for p in seen)
    assert (seen[-1].units_done, seen[-1].bytes_done) == (6, checkpoint.size_bytes)


def test_units_are_written_at_the_same_time(tmp_path: Path, store: ModelStore) -> None:
    """Each of three workers has begun before any ends."""
    together = threading.Barrier(3, timeout=30)
    source = make_tiny("llama", tmp_path / "source")
    met: set[str] = set()

    class Meeting(ObjectStore):
        def writer(self, key: str):  # type: ignore[no-untyped-def]
            if key.endswith("c/0") and len(met) < 3:
                met.add(key)
                together.wait()
            return super().writer(key)

    publish(str(source), "model", ModelStore(Meeting(store.objects.url)), workers=3)
    assert len(met) == 3


_PUBLISH = """
import sys
from storage_tiers.publishing.publish import publish
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore

def tell(progress):
    print(progress.bytes_done, flush=True)

publish(sys.argv[1], "model", ModelStore(ObjectStore(sys.argv[2])), workers=4, progress=tell)
"""


def test_ctrl_c_ends_all_workers_and_leaves_nothing_half_written(tmp_path: Path, store: ModelStore) -> None:
    source = _make_large(tmp_path / "source")
    command = [sys.executable, "-c", _PUBLISH, str(source), store.objects.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=_ROOT_FOLDER)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode != 0
    assert error.rstrip().endswith(b"KeyboardInterrupt")
    assert store.list() == []
    assert not list(Path(store.objects.path("model")).rglob("*.partial"))
    checkpoint = publish(str(source), "model", store)
    assert verify(store, "model").checkpoint == checkpoint


def test_one_failing_unit_stops_the_others(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")

    def spoil(progress: UnitProgress) -> None:
        os.truncate(source / "model.safetensors", 5000)

    with pytest.raises(SourceError, match="ended early"):
        publish(str(source), "model", store, progress=spoil)
    assert store.list() == []
    assert not list(Path(store.objects.path("model")).rglob("*.partial"))


@pytest.mark.parametrize("publishers", [2, 4])
def test_publishers_of_one_source_at_once_all_end_well(publishers: int, tmp_path: Path, objects: ObjectStore) -> None:
    source = make_tiny("llama", tmp_path / "source", shards=2)
    together = threading.Barrier(publishers, timeout=30)

    def run(_number: int) -> str:
        store = ModelStore(ObjectStore(objects.url, objects.options))
        together.wait()
        return publish(str(source), "model", store, workers=2).digest

    with ThreadPoolExecutor(publishers) as pool:
        digests = set(pool.map(run, range(publishers)))
    store = ModelStore(objects)
    assert digests == {store.open("model").digest}
    assert verify(store, "model").damages == ()
    assert objects.abandoned("") == []


def test_publishers_in_different_processes_end_well(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    command = [sys.executable, "-c", _PUBLISH, str(source), store.objects.url]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=_ROOT_FOLDER) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert verify(store, "model").damages == ()


_LIMITED = """
import resource, sys
from pathlib import Path
from storage_tiers.publishing.publish import publish
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore

store = ModelStore(ObjectStore(sys.argv[3]))
publish(sys.argv[1], "small", store, dtype="float16")
lines = Path("/proc/self/status").read_text().splitlines()
in_use = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (in_use + int(sys.argv[4]), in_use + int(sys.argv[4])))
try:
    bytearray(300_000_000)
    print("no limit holds")
except MemoryError:
    publish(sys.argv[2], "large", store, dtype=sys.argv[5] if len(sys.argv) > 5 else None, in_place=len(sys.argv) == 5)
    print("done")
"""


@pytest.mark.parametrize("dtype", ["float16", None], ids=["converted", "in-place"])
def test_a_model_larger_than_the_memory_it_is_allowed_is_published(dtype: str | None, tmp_path: Path) -> None:
    """600 MB go through 150 MB that the kernel refuses to exceed, four workers' pieces and stacks included."""
    small, large = make_tiny("llama", tmp_path / "small"), _make_large(tmp_path / "large")
    command = [sys.executable, "-c", _LIMITED, str(small), str(large), str(tmp_path / "store"), str(150_000_000)]
    result = subprocess.run([*command, *([dtype] if dtype else [])], capture_output=True, cwd=_ROOT_FOLDER, timeout=100)
    assert result.stdout == b"done\n", result.stderr[-2000:]


def test_results_come_in_order_and_the_first_error_stops_the_rest() -> None:
    assert run_all([lambda _stop, n=n: n for n in range(10)], 3) == list(range(10))  # type: ignore[misc]
    begun = threading.Event()
    ended: list[str] = []

    def wait(stop: threading.Event) -> None:
        begun.set()
        assert stop.wait(30)
        with pytest.raises(Stopped):
            check(stop)
        ended.append("waiter")

    def fail(_stop: threading.Event) -> None:
        begun.wait(30)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        run_all([wait, fail, lambda _stop: ended.append("never begun")], 2)
    assert "waiter" in ended
