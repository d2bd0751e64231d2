"""The dram tier: what is reserved, committed and pinned, within a budget."""

import gc
import mmap
import os
import subprocess
import sys
import threading
import time
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from storage_tiers.errors import OutOfSpace
from storage_tiers.tiers import shared_memory
from storage_tiers.tiers.dram import DramTier
from storage_tiers.tiers.tier import Ranking
from tests.storage_tiers.handmade import open_descriptors

_UNIT = 4096


def _worth(**worth: float) -> Ranking:
    return lambda digest, last_used: (worth.get(digest, 0.0), last_used)


def _fill(tier: DramTier, digest: str, size_bytes: int = _UNIT) -> None:
    """A unit that is there and not in use."""
    tier.reserve(digest, size_bytes)
    tier.commit(digest)
    tier.release(digest)


def test_a_unit_is_handed_out_when_it_is_committed_and_not_before() -> None:
    tier = DramTier(_UNIT)
    written = tier.reserve("a", _UNIT)
    assert (tier.acquire("a"), tier.held(), tier.used_bytes) == (None, frozenset(), _UNIT)
    tier.commit("a")
    assert tier.acquire("a") is written
    assert tier.held() == {"a"}


def test_what_was_written_is_what_another_process_maps() -> None:
    tier = DramTier(3 * _UNIT)
    _fill(tier, "before")
    segment = tier.reserve("a", 2 * _UNIT)
    segment.views(_UNIT - 2, 5)[0][:] = b"hello"
    tier.commit("a")
    code = (
        "import sys; from storage_tiers.tiers.shared_memory import Run, map_runs; "
        "runs = [Run(*map(int, pair.split(':'))) for pair in sys.argv[2:]]; "
        "memory = memoryview(map_runs(int(sys.argv[1]), runs)); "
        f"print(bytes(memory[{_UNIT - 2}:{_UNIT + 3}]).decode())"
    )
    pairs = [f"{run.offset_bytes}:{run.size_bytes}" for run in segment.runs]
    command = [sys.executable, "-c", code, str(segment.fd), *pairs]
    found = subprocess.run(command, pass_fds=[segment.fd], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "hello"


def test_what_others_get_cannot_be_written_through() -> None:
    segment = DramTier(_UNIT).reserve("a", _UNIT)
    with pytest.raises(PermissionError):
        mmap.mmap(segment.fd, _UNIT)
    with pytest.raises(TypeError):
        segment.view[0] = 1


def test_a_descriptor_is_not_inherited_by_programs_that_are_started() -> None:
    assert not os.get_inheritable(DramTier(_UNIT).reserve("a", _UNIT).fd)


def test_a_unit_may_lie_in_pieces_and_still_reads_in_a_row() -> None:
    tier = DramTier(4 * _UNIT)
    for digest in "abcd":
        _fill(tier, digest)
    assert tier.drop("a")
    assert tier.drop("c")
    segment = tier.reserve("pieces", 2 * _UNIT)
    assert len(segment.runs) == 2
    for number, view in enumerate(segment.views()):
        view[:] = bytes([number + 1]) * _UNIT
    assert bytes(segment.view) == b"\1" * _UNIT + b"\2" * _UNIT


def test_memory_is_made_real_ahead_of_its_use() -> None:
    tier = DramTier(128 << 20, ready_bytes=8 << 20)
    try:
        deadline_s = time.monotonic() + 60
        while tier.ready_bytes < 8 << 20 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert tier.ready_bytes >= 8 << 20
    finally:
        tier.close()


def test_a_block_that_is_being_made_real_is_free_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was in neither list of free blocks: who asked for all there is was told that there is no room."""
    making, go_on, madvise = threading.Event(), threading.Event(), shared_memory._libc.madvise

    def slow(*arguments: int) -> int:
        making.set()
        assert go_on.wait(30)
        return int(madvise(*arguments))

    monkeypatch.setattr(shared_memory._libc, "madvise", slow)
    tier = DramTier(4 * _UNIT, ready_bytes=_UNIT)
    try:
        assert making.wait(30)
        segments: list[object] = []
        asking = threading.Thread(target=lambda: segments.append(tier.reserve("all", 4 * _UNIT)))
        asking.start()
        asking.join(0.05)
        go_on.set()
        asking.join(30)
        assert len(segments) == 1
        with pytest.raises(OutOfSpace):
            tier.reserve("more", _UNIT)
    finally:
        go_on.set()
        tier.close()


def test_a_unit_cannot_be_reserved_twice() -> None:
    tier = DramTier(2 * _UNIT)
    tier.reserve("a", _UNIT)
    with pytest.raises(ValueError, match="already in dram"):
        tier.reserve("a", _UNIT)
    assert tier.used_bytes == _UNIT


def test_an_abandoned_unit_is_gone_and_can_come_again() -> None:
    tier = DramTier(_UNIT)
    tier.reserve("a", _UNIT)
    tier.abandon("a")
    assert tier.used_bytes == 0
    _fill(tier, "a")
    assert tier.held() == {"a"}


def test_the_least_recently_used_unit_is_evicted_first() -> None:
    tier = DramTier(3 * _UNIT)
    for digest in "abc":
        _fill(tier, digest)
    assert tier.acquire("a") is not None
    tier.release("a")
    _fill(tier, "d")
    assert tier.held() == {"a", "c", "d"}


def test_the_rank_decides_who_is_evicted() -> None:
    """What comes is worth nothing, and gets the room of what is worth least all the same."""
    tier = DramTier(3 * _UNIT)
    tier.retain(_worth(a=3.0, b=2.0, c=1.0))
    for digest in "abc":
        _fill(tier, digest)
    _fill(tier, "d", 2 * _UNIT)
    assert tier.held() == {"a", "d"}


def test_of_what_is_worth_the_same_the_least_recently_used_unit_goes_first() -> None:
    tier = DramTier(3 * _UNIT)
    tier.retain(_worth(a=1.0, b=1.0, c=1.0))
    for digest in "abc":
        _fill(tier, digest)
    assert tier.acquire("a") is not None
    tier.release("a")
    _fill(tier, "d")
    assert tier.held() == {"a", "c", "d"}


def test_who_is_humble_gets_the_room_of_what_is_worth_less_and_of_nothing_else() -> None:
    tier = DramTier(3 * _UNIT)
    tier.retain(_worth(a=3.0, b=1.0, c=2.0, new=2.0))
    for digest in "abc":
        _fill(tier, digest)
    with pytest.raises(OutOfSpace, match="12,288 bytes asked, what could go for them is worth more there"):
        tier.reserve("new", 3 * _UNIT, humble_since=tier.uses)
    assert tier.held() == {"a", "b", "c"}
    tier.reserve("new", 2 * _UNIT, humble_since=tier.uses)
    assert tier.held() == {"a"}


def test_who_is_humble_gets_no_room_of_what_was_used_later() -> None:
    tier = DramTier(3 * _UNIT)
    for digest in "ab":
        _fill(tier, digest)
    since = tier.uses
    _fill(tier, "c")
    tier.touch("a")
    with pytest.raises(OutOfSpace, match="used meanwhile"):
        tier.reserve("new", 2 * _UNIT, humble_since=since)
    tier.reserve("new", _UNIT, humble_since=since)
    assert tier.held() == {"a", "c"}


def test_no_more_is_evicted_than_is_needed() -> None:
    tier = DramTier(4 * _UNIT)
    for digest in "abc":
        _fill(tier, digest)
    _fill(tier, "d")
    assert tier.held() == {"a", "b", "c", "d"}
    _fill(tier, "e")
    assert tier.held() == {"b", "c", "d", "e"}


def test_a_pinned_unit_is_never_evicted() -> None:
    tier = DramTier(2 * _UNIT)
    for digest in "ab":
        _fill(tier, digest)
    assert tier.acquire("a") is not None
    assert tier.acquire("a") is not None
    tier.release("a")
    _fill(tier, "c")
    assert tier.held() == {"a", "c"}


def test_a_unit_that_is_being_written_is_never_evicted() -> None:
    tier = DramTier(_UNIT)
    tier.reserve("a", _UNIT)
    with pytest.raises(OutOfSpace):
        tier.reserve("b", _UNIT)
    tier.commit("a")
    assert tier.held() == {"a"}


def test_when_all_is_in_use_it_says_what_to_raise_and_evicts_nothing() -> None:
    tier = DramTier(3 * _UNIT)
    _fill(tier, "idle")
    tier.reserve("busy", 2 * _UNIT)
    with pytest.raises(OutOfSpace, match=r"8,192 bytes asked, 8,192 of 12,288 are in use; raise node\.dram_bytes"):
        tier.reserve("c", 2 * _UNIT)
    assert tier.held() == {"idle"}


def test_a_unit_larger_than_the_budget_is_refused() -> None:
    with pytest.raises(OutOfSpace):
        DramTier(_UNIT).reserve("a", _UNIT + 1)


def test_only_a_whole_and_idle_unit_can_be_dropped() -> None:
    tier = DramTier(_UNIT)
    assert not tier.drop("a")
    tier.reserve("a", _UNIT)
    assert not tier.drop("a")
    tier.commit("a")
    assert not tier.drop("a")
    tier.release("a")
    assert tier.drop("a")
    assert (tier.held(), tier.used_bytes) == (frozenset(), 0)


def test_a_pin_cannot_be_undone_twice() -> None:
    tier = DramTier(_UNIT)
    _fill(tier, "a")
    with pytest.raises(ValueError, match="not pinned"):
        tier.release("a")


def test_descriptors_and_threads_end_with_the_tier() -> None:
    gc.collect()
    descriptors, threads = open_descriptors(), threading.active_count()
    for _ in range(20):
        tier = DramTier(4 * _UNIT, ready_bytes=_UNIT)
        _fill(tier, "a")
        tier.reserve("pinned", _UNIT)
        tier.close()
        assert tier.used_bytes == 0
    del tier
    gc.collect()
    assert open_descriptors() <= descriptors
    assert threading.active_count() <= threads


class _Life(RuleBasedStateMachine):
    """Any order of calls, against a plain account of what must be there."""

    BUDGET = 8 * _UNIT
    digests = st.sampled_from("abcdef")

    def __init__(self) -> None:
        super().__init__()
        self.tier = DramTier(self.BUDGET)
        self.sizes: dict[str, int] = {}
        self.pins: dict[str, int] = {}
        self.whole: set[str] = set()

    def _forget_evicted(self) -> None:
        for digest in self.whole - self.tier.held():
            assert self.pins[digest] == 0, "a pinned unit was evicted"
            self.whole.remove(digest)
            del self.sizes[digest], self.pins[digest]

    @rule(digest=digests, size=st.integers(1, 5).map(lambda units: units * _UNIT))
    def reserve(self, digest: str, size: int) -> None:
        if digest in self.sizes:
            return
        in_use = sum(held for other, held in self.sizes.items() if self.pins[other] or other not in self.whole)
        if in_use + size > self.BUDGET:
            with pytest.raises(OutOfSpace):
                self.tier.reserve(digest, size)
            return
        assert self.tier.reserve(digest, size).size_bytes == size
        self._forget_evicted()
        self.sizes[digest], self.pins[digest] = size, 1

    @precondition(lambda self: set(self.sizes) - self.whole)
    @rule(data=st.data(), fine=st.booleans())
    def finish(self, data: st.DataObject, fine: bool) -> None:
        digest = data.draw(st.sampled_from(sorted(set(self.sizes) - self.whole)))
        if fine:
            self.tier.commit(digest)
            self.whole.add(digest)
        else:
            self.tier.abandon(digest)
            del self.sizes[digest], self.pins[digest]

    @rule(digest=digests)
    def acquire(self, digest: str) -> None:
        assert (self.tier.acquire(digest) is not None) == (digest in self.whole)
        if digest in self.whole:
            self.pins[digest] += 1

    @rule(digest=digests)
    def release(self, digest: str) -> None:
        if digest in self.whole and self.pins[digest]:
            self.tier.release(digest)
            self.pins[digest] -= 1

    @rule(digest=digests)
    def drop(self, digest: str) -> None:
        free = digest in self.whole and not self.pins[digest]
        assert self.tier.drop(digest) == free
        self._forget_evicted()

    @invariant()
    def the_account_is_right_and_within_the_budget(self) -> None:
        assert self.tier.used_bytes == sum(self.sizes.values()) <= self.BUDGET
        assert self.tier.held() == self.whole

    def teardown(self) -> None:
        self.tier.close()


_Life.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestAnyOrderOfCalls = _Life.TestCase


def test_threads_keep_within_the_budget_and_never_see_each_others_bytes() -> None:
    tier = DramTier(5 * _UNIT)
    wrong: list[str] = []

    def use(seed: int) -> None:
        random = Random(seed)
        for _ in range(200):
            digest = random.choice("abcdefgh")
            segment = tier.acquire(digest)
            if segment is None:
                try:
                    segment = tier.reserve(digest, _UNIT)
                except (OutOfSpace, ValueError):
                    continue
                segment.views()[0][:] = digest.encode() * _UNIT
                tier.commit(digest)
            if bytes(segment.view) != digest.encode() * _UNIT or tier.used_bytes > tier.budget_bytes:
                wrong.append(digest)
            tier.release(digest)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert tier.used_bytes == len(tier.held()) * _UNIT <= tier.budget_bytes
    tier.close()
