"""The ssd tier: a unit is there whole or not at all, also after a crash, within a budget."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_tiers.errors import Corrupt, Faltering, Missing, OutOfSpace, StorageError
from storage_tiers.tiers.ssd import SsdTier
from tests.storage_tiers.handmade import CHUNK_BYTES, aligned, bytes_of, unit_of

_UNIT = 2 * CHUNK_BYTES
_ROOT_FOLDER = Path(__file__).parents[2]
_DATA = [bytes_of(seed, _UNIT) for seed in range(8)]
_UNITS = [unit_of(f"unit{number}", data) for number, data in enumerate(_DATA)]
_DIGESTS = [unit.digest for unit in _UNITS]


def _write(tier: SsdTier, *numbers: int) -> None:
    for number in numbers:
        tier.write(_DIGESTS[number], [aligned(_UNIT, _DATA[number])])


def _read(tier: SsdTier, number: int) -> bytes:
    view = aligned(_UNIT)
    tier.read("model", _UNITS[number], 0, [view])
    return bytes(view)


def _held(tier: SsdTier) -> set[int]:
    return {_DIGESTS.index(digest) for digest in tier.held()}


def _files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    tier = SsdTier(tmp_path, _UNIT)
    _write(tier, 0)
    assert _read(tier, 0) == _DATA[0]
    assert tier.holds(_UNITS[0])
    assert tier.path(_DIGESTS[0]) == tmp_path / _DIGESTS[0]
    assert tier.used_bytes == _UNIT


def test_what_is_written_and_read_may_lie_in_pieces(tmp_path: Path) -> None:
    tier = SsdTier(tmp_path, _UNIT)
    tier.write(
        _DIGESTS[0], [aligned(CHUNK_BYTES, _DATA[0][:CHUNK_BYTES]), aligned(CHUNK_BYTES, _DATA[0][CHUNK_BYTES:])]
    )
    assert _read(tier, 0) == _DATA[0]
    second = aligned(CHUNK_BYTES)
    tier.read("model", _UNITS[0], CHUNK_BYTES, [second])
    assert second == _DATA[0][CHUNK_BYTES:]


def test_a_file_of_another_length_is_not_the_unit(tmp_path: Path) -> None:
    (tmp_path / _DIGESTS[0]).write_bytes(_DATA[0][:CHUNK_BYTES])
    assert not SsdTier(tmp_path, _UNIT).holds(_UNITS[0])


def test_writing_it_again_changes_nothing(tmp_path: Path) -> None:
    tier = SsdTier(tmp_path, _UNIT)
    _write(tier, 0)
    before = (tmp_path / _DIGESTS[0]).stat().st_ino
    _write(tier, 0)
    assert (tmp_path / _DIGESTS[0]).stat().st_ino == before
    assert tier.used_bytes == _UNIT


def test_a_unit_of_another_length_is_replaced(tmp_path: Path) -> None:
    (tmp_path / _DIGESTS[0]).write_bytes(b"short")
    tier = SsdTier(tmp_path, _UNIT)
    _write(tier, 0)
    assert _read(tier, 0) == _DATA[0]
    assert tier.used_bytes == _UNIT


def test_a_new_tier_finds_what_an_earlier_one_wrote(tmp_path: Path) -> None:
    _write(SsdTier(tmp_path, 3 * _UNIT), 0, 1, 2)
    tier = SsdTier(tmp_path, 3 * _UNIT)
    assert _held(tier) == {0, 1, 2}
    assert tier.used_bytes == 3 * _UNIT
    assert _read(tier, 1) == _DATA[1]


def test_a_new_tier_evicts_the_oldest_first(tmp_path: Path) -> None:
    _write(SsdTier(tmp_path, 3 * _UNIT), 0, 1, 2)
    for age_s, number in enumerate([1, 2, 0]):
        os.utime(tmp_path / _DIGESTS[number], (1e9 + age_s, 1e9 + age_s))
    tier = SsdTier(tmp_path, 3 * _UNIT)
    _write(tier, 3)
    assert _held(tier) == {0, 2, 3}


def test_a_smaller_budget_than_before_is_kept_from_the_next_write_on(tmp_path: Path) -> None:
    _write(SsdTier(tmp_path, 4 * _UNIT), 0, 1, 2, 3)
    tier = SsdTier(tmp_path, 2 * _UNIT)
    _write(tier, 4)
    assert tier.used_bytes == 2 * _UNIT
    assert len(_files(tmp_path)) == 2


def test_unfinished_writes_of_an_earlier_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / f"{_DIGESTS[0]}.0123.partial").write_bytes(b"half")
    tier = SsdTier(tmp_path, _UNIT)
    assert (tier.held(), tier.used_bytes, _files(tmp_path)) == (frozenset(), 0, {})


def test_what_is_not_a_unit_is_neither_counted_nor_ever_removed(tmp_path: Path) -> None:
    """A folder that held other things lost them to eviction; lost+found at a disk's root broke it."""
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "thesis.tex").write_bytes(bytes(_UNIT))
    tier = SsdTier(tmp_path, _UNIT)
    assert tier.used_bytes == 0
    _write(tier, 0, 1)
    assert set(_files(tmp_path)) == {"lost+found", "thesis.tex", _DIGESTS[1]}


def test_the_least_recently_read_unit_is_evicted_first(tmp_path: Path) -> None:
    tier = SsdTier(tmp_path, 3 * _UNIT)
    _write(tier, 0, 1, 2)
    _read(tier, 0)
    _write(tier, 3)
    assert _held(tier) == {0, 2, 3}
    assert set(_files(tmp_path)) == {_DIGESTS[number] for number in (0, 2, 3)}


def _retain(tier: SsdTier, *worth: float) -> None:
    """By number of unit; others are worth nothing."""
    known = dict(zip(_DIGESTS, worth, strict=False))
    tier.retain(lambda digest, last_used: (known.get(digest, 0.0), last_used))


def test_what_is_worth_least_is_evicted_first(tmp_path: Path) -> None:
    tier = SsdTier(tmp_path, 3 * _UNIT)
    _retain(tier, 2.0, 1.0, 3.0, 4.0)
    _write(tier, 0, 1, 2, 3)
    assert _held(tier) == {0, 2, 3}


def test_nothing_is_evicted_for_what_is_worth_less(tmp_path: Path) -> None:
    tier = SsdTier(tmp_path, 2 * _UNIT)
    _retain(tier, 2.0, 1.0, 1.0, 0.5)
    _write(tier, 0, 1, 2)
    assert _held(tier) == {0, 2}, "of equals the one that came first went"
    with pytest.raises(OutOfSpace, match="worth more"):
        _write(tier, 3)
    assert _held(tier) == {0, 2}


def test_whether_a_unit_would_be_kept_is_known_before_it_is_written(tmp_path: Path) -> None:
    tier = SsdTier(tmp_path, 2 * _UNIT)
    _retain(tier, 2.0, 2.0, 1.0, 3.0)
    assert tier.would_keep(_UNITS[2])
    _write(tier, 0, 1)
    assert [tier.would_keep(unit) for unit in _UNITS[2:4]] == [False, True]
    assert _held(tier) == {0, 1}


def test_a_unit_larger_than_the_budget_is_refused_and_nothing_evicted(tmp_path: Path) -> None:
    tier = SsdTier(tmp_path, _UNIT)
    _write(tier, 0)
    with pytest.raises(OutOfSpace, match=r"node\.ssd_bytes"):
        tier.write(_DIGESTS[1], [aligned(2 * _UNIT)])
    assert _held(tier) == {0}


def test_a_dropped_unit_and_its_file_are_gone(tmp_path: Path) -> None:
    tier = SsdTier(tmp_path, _UNIT)
    _write(tier, 0)
    tier.drop(_DIGESTS[0])
    tier.drop(_DIGESTS[0])
    assert (_held(tier), tier.used_bytes, _files(tmp_path)) == (set(), 0, {})


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Missing):
        _read(SsdTier(tmp_path, _UNIT), 0)


def test_a_unit_whose_file_was_removed_is_missing_and_no_longer_counted(tmp_path: Path) -> None:
    tier = SsdTier(tmp_path, _UNIT)
    _write(tier, 0)
    (tmp_path / _DIGESTS[0]).unlink()
    with pytest.raises(Missing):
        _read(tier, 0)
    assert tier.used_bytes == 0


def test_a_unit_that_ends_early_is_corrupt(tmp_path: Path) -> None:
    tier = SsdTier(tmp_path, _UNIT)
    _write(tier, 0)
    os.truncate(tmp_path / _DIGESTS[0], CHUNK_BYTES)
    with pytest.raises(Corrupt, match="4096 bytes too early"):
        _read(tier, 0)


def test_a_unit_that_cannot_be_removed_is_not_used_again(tmp_path: Path) -> None:
    """On a disk that had become read-only, dropping a bad unit raised in a worker of the stack and ended it."""
    tier = SsdTier(tmp_path, _UNIT)
    _write(tier, 0)
    (tmp_path / _DIGESTS[0]).unlink()
    (tmp_path / _DIGESTS[0]).mkdir()
    with pytest.raises(Missing):
        _read(tier, 0)
    assert (tier.held(), tier.used_bytes) == (frozenset(), 0)


def test_a_folder_that_cannot_be_used_names_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"set node\.ssd_dir"):
        SsdTier(tmp_path / "file", _UNIT)


def _refuse(number: int) -> Callable[..., int]:
    def refuse(*_arguments: object, **_options: object) -> int:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("at", ["open", "preadv"])
@pytest.mark.parametrize(
    ("number", "raised"),
    [
        (errno.EMFILE, Faltering), (errno.ENFILE, Faltering), (errno.ENOMEM, Faltering), (errno.EINTR, Faltering),
        (errno.EAGAIN, Faltering), (errno.EACCES, Missing), (errno.EPERM, Missing), (errno.ESTALE, Missing),
        (errno.EINVAL, Missing),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)  # fmt: skip
def test_a_failure_that_says_nothing_of_the_bytes_leaves_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, number: int, raised: type[StorageError]
) -> None:
    """A node that was out of descriptors deleted every unit that it tried to read."""
    tier = SsdTier(tmp_path, _UNIT)
    _write(tier, 0)
    with monkeypatch.context() as patched:
        patched.setattr(os, at, _refuse(number))
        with pytest.raises(raised, match=os.strerror(number)) as failed:
            _read(tier, 0)
    assert type(failed.value) is raised
    assert _held(tier) == {0}
    assert _read(tier, 0) == _DATA[0]


@pytest.mark.parametrize("number", [errno.EIO, errno.EUCLEAN, errno.EBADMSG])
def test_a_file_that_the_medium_has_lost_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    tier = SsdTier(tmp_path, _UNIT)
    _write(tier, 0)
    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", _refuse(number))
        with pytest.raises(Missing):
            _read(tier, 0)
    assert (_held(tier), _files(tmp_path)) == (set(), {})


def test_nothing_is_evicted_for_a_file_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that was out of descriptors could write nothing, and evicted what it had for each unit that it tried."""
    tier = SsdTier(tmp_path, _UNIT)
    _write(tier, 0)
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", _refuse(errno.EMFILE))
        with pytest.raises(OutOfSpace, match="Too many open files"):
            _write(tier, 1)
    assert (_held(tier), set(_files(tmp_path))) == ({0}, {_DIGESTS[0]})
    _write(tier, 1)
    assert _held(tier) == {1}


@contextlib.contextmanager
def _half_way(happens: Callable[[], None]) -> Iterator[None]:
    """Within, `happens` is called whenever half of what should be written is."""

    write = os.pwritev

    def write_half(fd: int, views: Sequence[memoryview], offset_bytes: int) -> int:
        written = write(fd, [views[0][:CHUNK_BYTES]], offset_bytes)
        happens()
        return written

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "pwritev", write_half)
        yield


def _fail() -> None:
    raise OSError(28, "No space left on device")


def _interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("happens", "raised"), [(_fail, OutOfSpace), (_interrupt, KeyboardInterrupt)])
def test_a_write_that_fails_leaves_nothing(
    happens: Callable[[], None], raised: type[BaseException], tmp_path: Path
) -> None:
    tier = SsdTier(tmp_path, _UNIT)
    with _half_way(happens), pytest.raises(raised):
        _write(tier, 0)
    assert (_held(tier), tier.used_bytes, _files(tmp_path)) == (set(), 0, {})
    _write(tier, 0)
    assert _read(tier, 0) == _DATA[0]


def test_a_disk_that_becomes_read_only_is_an_error_each_time_and_never_a_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was half written could not be removed; the unit counted as being written for ever, and the next waited."""

    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(30, "Read-only file system")

    tier = SsdTier(tmp_path, _UNIT)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", refuse)
        patched.setattr(Path, "unlink", refuse)
        for _ in range(2):
            with pytest.raises(OutOfSpace, match="Read-only"):
                _write(tier, 0)
        assert (tier.held(), tier.used_bytes) == (frozenset(), 0)
        SsdTier(tmp_path, _UNIT)
    assert len(_files(tmp_path)) == 2
    _write(SsdTier(tmp_path, _UNIT), 0)
    assert set(_files(tmp_path)) == {_DIGESTS[0]}


def _run(tmp_path: Path, program: str) -> int:
    """Run `program` in a process of its own, with an empty tier and a unit's digest and data at hand."""
    given_first = (
        "import mmap, os, resource, signal, sys\n"
        "from storage_tiers.tiers.ssd import SsdTier\n"
        "tier, digest, views = SsdTier(sys.argv[1], 1 << 20), sys.argv[2], [memoryview(mmap.mmap(-1, 1 << 20))]\n"
    )
    command = [sys.executable, "-c", given_first + program, str(tmp_path), _DIGESTS[0]]
    return subprocess.run(command, cwd=_ROOT_FOLDER, check=False, timeout=60).returncode


_KILL_HALF_WAY = """
write = os.pwritev
def deadly(fd, views, offset_bytes):
    write(fd, [views[0][:4096]], offset_bytes)
    os.kill(os.getpid(), signal.SIGKILL)
os.pwritev = deadly
tier.write(digest, views)
"""
_KILL_BEFORE_IT_APPEARS = """
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
tier.write(digest, views)
"""


@pytest.mark.parametrize(("program", "left_bytes"), [(_KILL_HALF_WAY, 4096), (_KILL_BEFORE_IT_APPEARS, 1 << 20)])
def test_a_process_killed_while_it_writes_leaves_nothing_that_is_found(
    program: str, left_bytes: int, tmp_path: Path
) -> None:
    assert _run(tmp_path, program) == -signal.SIGKILL
    assert list(_files(tmp_path).values()) == [left_bytes]
    tier = SsdTier(tmp_path, 1 << 20)
    assert (tier.held(), tier.used_bytes, _files(tmp_path)) == (frozenset(), 0, {})


def test_a_disk_that_is_full_half_way_leaves_nothing(tmp_path: Path) -> None:
    full = (
        "from storage_tiers.errors import OutOfSpace\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "try:\n    tier.write(digest, views)\n"
        "except OutOfSpace:\n    sys.exit(0 if not os.listdir(sys.argv[1]) and not tier.used_bytes else 1)\n"
        "sys.exit(2)\n"
    )
    assert _run(tmp_path, full) == 0


_CALLS = st.lists(st.tuples(st.sampled_from(["write", "read", "drop", "reopen"]), st.integers(0, 7)), max_size=40)


@settings(max_examples=40, deadline=None)
@given(_CALLS)
def test_whatever_is_called_files_and_account_agree_within_the_budget(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("ssd")
    tier = SsdTier(folder, 3 * _UNIT)
    for call, number in calls:
        match call:
            case "write":
                _write(tier, number)
                assert number in _held(tier)
            case "read" if number in _held(tier):
                assert _read(tier, number) == _DATA[number]
            case "drop":
                tier.drop(_DIGESTS[number])
            case "reopen":
                tier = SsdTier(folder, 3 * _UNIT)
        assert tier.used_bytes == sum(_files(folder).values()) <= tier.budget_bytes
        assert tier.held() == set(_files(folder))


class _Gate:
    """Says when a write is half done, and lets it go on."""

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.go_on.wait(30)


@pytest.fixture
def gate() -> Iterator[_Gate]:
    found = _Gate()
    with _half_way(found):
        yield found


def test_a_unit_that_is_being_written_is_counted_but_not_held(tmp_path: Path, gate: _Gate) -> None:
    """It was held from the first byte on; whoever read it then found nothing and forgot it, and its file stayed."""
    tier = SsdTier(tmp_path, _UNIT)
    writing = threading.Thread(target=_write, args=(tier, 0))
    writing.start()
    assert gate.reached.wait(30)
    assert (tier.held(), tier.holds(_UNITS[0]), tier.used_bytes) == (frozenset(), False, _UNIT)
    gate.go_on.set()
    writing.join()
    assert _held(tier) == {0}


def test_a_unit_that_is_being_written_is_not_evicted(tmp_path: Path, gate: _Gate) -> None:
    """It once was; its file came afterwards, was counted by nobody, and the folder outgrew its budget."""
    tier = SsdTier(tmp_path, _UNIT)
    writing = threading.Thread(target=_write, args=(tier, 0))
    writing.start()
    assert gate.reached.wait(30)
    with pytest.raises(OutOfSpace):
        _write(tier, 1)
    gate.go_on.set()
    writing.join()
    assert (_held(tier), set(_files(tmp_path))) == ({0}, {_DIGESTS[0]})


def test_the_second_to_write_a_unit_returns_when_it_is_there(tmp_path: Path, gate: _Gate) -> None:
    tier = SsdTier(tmp_path, _UNIT)
    seen: list[set[int]] = []
    first = threading.Thread(target=_write, args=(tier, 0))
    second = threading.Thread(target=lambda: (_write(tier, 0), seen.append(_held(tier))))
    first.start()
    assert gate.reached.wait(30)
    second.start()
    gate.go_on.set()
    first.join()
    second.join()
    assert seen == [{0}]


class _Between:
    """A condition that has something happen between its first use and the next."""

    def __init__(self, condition: threading.Condition, happens: Callable[[], object]) -> None:
        self._condition, self._happens = condition, happens

    def __enter__(self) -> None:
        self._condition.__enter__()

    def __exit__(self, *error: object) -> None:
        self._condition.__exit__(*error)  # type: ignore[arg-type]
        happens, self._happens = self._happens, lambda: None
        happens()

    def notify_all(self) -> None:
        self._condition.notify_all()


def test_whoever_has_written_a_unit_leaves_the_next_writer_of_it_alone(tmp_path: Path) -> None:
    """Between its last two looks at the books the unit was evicted, and another began to write it: whose claim was gone."""
    tier, digest = SsdTier(tmp_path, _UNIT), _DIGESTS[0]
    condition = tier._written

    def evicted_and_claimed_anew() -> None:
        tier._written = condition
        tier.drop(digest)
        assert tier._claim(digest, _UNIT)

    partial = tmp_path / f"{digest}.partial"
    partial.touch()
    assert tier._claim(digest, _UNIT)
    tier._written = _Between(condition, evicted_and_claimed_anew)  # type: ignore[assignment]
    tier._write_claimed(digest, partial, [aligned(_UNIT, _DATA[0])])
    assert tier._writing == {digest: _UNIT}


def test_threads_keep_within_the_budget(tmp_path: Path) -> None:
    tier = SsdTier(tmp_path, 3 * _UNIT)
    wrong: list[object] = []

    def use(seed: int) -> None:
        random = Random(seed)
        for _ in range(40):
            number = random.randrange(8)
            try:
                _write(tier, number)
                if _read(tier, number) != _DATA[number]:
                    wrong.append(number)
            except (OutOfSpace, Missing):
                pass  # everything was just being written, or another thread has evicted it
            if tier.used_bytes > tier.budget_bytes:
                wrong.append("over budget")

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert tier.used_bytes == sum(_files(tmp_path).values()) <= tier.budget_bytes
    assert tier.held() == set(_files(tmp_path))


@pytest.mark.parametrize("digest", ["../x", "/tmp/x", "", "A" * 64, "0" * 63])
def test_what_is_no_digest_is_no_file(digest: str, tmp_path: Path) -> None:
    """It is joined to the folder's path: an order to drop ``../x`` removed a file of somebody else."""
    outside, tier = tmp_path / "x", SsdTier(tmp_path / "ssd", _UNIT)
    outside.write_bytes(b"not ours")
    for attempt in (tier.drop, lambda digest: tier.write(digest, [memoryview(bytes(4096))])):
        with pytest.raises(ValueError, match="not the digest of a unit"):
            attempt(digest)
    assert outside.read_bytes() == b"not ours"
    assert tier.path(digest) is None
