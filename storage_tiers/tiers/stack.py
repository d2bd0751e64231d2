"""All tiers of a node as one: units come from the fastest tier that has them, checked on their way in.

A load is a set of chunk reads that worker threads take in order of priority, straight into the unit's dram segment, so
chunks of several units are on their way through all tiers at once. However many wait for a unit, it is loaded once.
What came over the network is written to ssd behind the load.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace

from storage_tiers.checkpoint import UnitIndex
from storage_tiers.errors import Corrupt, OutOfSpace, StorageError
from storage_tiers.model_store import ModelStore
from storage_tiers.tiers.behind import WriteBehind
from storage_tiers.tiers.busy import Busy, Timed
from storage_tiers.tiers.dram import DramTier, Segment
from storage_tiers.tiers.jobs import Jobs, Rank
from storage_tiers.tiers.remote import RemoteTier
from storage_tiers.tiers.ssd import SsdTier
from storage_tiers.tiers.tier import Tier
from storage_tiers.tiers.transfer import Loaded, Priority, Transfer, Wanted

__all__ = ["Loaded", "Priority", "TierStack"]
_log = logging.getLogger(__name__)
_TO_END = Rank(Priority.COLD_START)
"""For chunks of a transfer that was given up: they read nothing any more, and others may wait for its end."""
_BEHIND = Rank(Priority.WRITE_BEHIND, behind=True)
Told = list[tuple[Future[Loaded], Loaded | StorageError]]
"""Who is to be told what."""


def _given_up(unit: UnitIndex) -> StorageError:
    return StorageError(f"loading unit {unit.name} was given up")


def _closed() -> StorageError:
    return StorageError("the node is shutting down")


class TierStack:
    """dram over ssd over a load's peers over remote. Thread-safe; `clock` gives seconds, for the ledger only.

    `threads` read; one more writes behind them, so that a slow disk never has the threads that a cold start needs.
    How fast bytes came is measured: over the network (`network`: peers and remote) and from ssd (`from_ssd`).
    """

    def __init__(
        self,
        dram: DramTier,
        ssd: SsdTier,
        models: ModelStore,
        threads: int,
        clock: Callable[[], float],
        remote: Tier | None = None,
        write_behind: bool = True,
    ) -> None:
        self.dram, self.ssd, self.models = dram, ssd, models
        self._remote: Tier = remote if remote is not None else RemoteTier(models)
        self._clock, self._write_behind = clock, write_behind
        self.network, self.from_ssd = Busy(), Busy()
        self._lock = threading.Lock()
        self._transfers: dict[str, Transfer] = {}
        self._for_room: list[Wanted] = []
        self._jobs = Jobs()
        self._part_bytes: int | None = None
        self._closing = threading.Event()
        self._behind = WriteBehind(dram, ssd, lambda job: self._jobs.put(_BEHIND, job), self._on_freed, self._closing)
        self._threads = [threading.Thread(target=self._work, name=f"tier-{i}", daemon=True) for i in range(threads)]
        self._threads.append(threading.Thread(target=self._write, name="tier-behind", daemon=True))
        for thread in self._threads:
            thread.start()

    def load(
        self,
        model: str,
        unit: UnitIndex,
        priority: Priority,
        peers: Sequence[Tier] = (),
        turn: int = 0,
        *,
        peers_last: bool = False,
        until_s: float = 0.0,
        keep: bool = True,
        since: int | None = None,
    ) -> Future[Loaded]:
        """Bring a unit to dram; the result is pinned. Pair with `give_up` (or `release` once it is there).

        It comes from ssd, else from the first of `peers` that has it right, else from remote; with `peers_last` remote is
        asked before them too, once. The future fails with Missing, Corrupt, StoreUnavailable or OutOfSpace; nothing is
        kept then. A unit that is on its way already is waited for, and moves up if this priority is higher; one whose
        transfer has failed, but still has chunks under way, is loaded anew after that. Of one priority those of an earlier
        `turn` have the network to themselves. What came over the network is written to ssd behind, if `keep` says so and
        only what is worth less goes there for it.

        For room all goes that is not in use, however much it is worth; writes to ssd that have not begun and what is on its
        way for prewarming alone are given up, and a write that has begun is waited for. Prewarming itself waits for writes,
        and has the room of what is worth less, and was not used after `since`, which is now if it is not said.

        Until `until_s`, of the monotonic clock, what fails for a reason that passes is tried again, and no thread waits for
        that; later only a few times.
        """
        since = self.dram.uses if since is None else since
        wanted = Wanted(Future(), model, unit, priority, tuple(peers), turn, peers_last, until_s, keep, since)
        wanted.future.set_running_or_notify_cancel()
        with self._lock:
            error = self._begin(wanted)
        if error is not None:
            wanted.future.set_exception(error)
        return wanted.future

    def read_at_once(self, ranges: int | None, part_bytes: int | None) -> None:
        """How many ranges are read over the network at the same time, None is as many as there are threads; and by how
        much what is patient (see Rank) goes on before others get their turn, None is a whole chunk."""
        self._jobs.lanes, self._part_bytes = ranges, part_bytes

    def holds(self, unit: UnitIndex) -> bool:
        """Whether the unit is on the node, in dram or on ssd."""
        return self.dram.holds(unit) or self.ssd.holds(unit)

    def hold_staging(self, until_s: float) -> None:
        """What prewarming brings reads nothing over the network before that time of the monotonic clock, but for the parts
        that are being read."""
        self._jobs.hold(Priority.PREWARM, until_s)

    @property
    def fetching(self) -> bool:
        """Whether a cold start waits for units that come over the network."""
        with self._lock:
            ranks = [transfer.rank for transfer in self._transfers.values() if transfer.error is None]
        return any(rank is not None and rank.wire and rank.priority == Priority.COLD_START for rank in ranks)

    @property
    def loading(self) -> bool:
        """Whether any unit is on its way."""
        with self._lock:
            return bool(self._transfers)

    def transfer(self, unit: UnitIndex) -> Transfer | None:
        """The unit's transfer while it is under way: its watermark tells what may be read already."""
        with self._lock:
            return self._transfers.get(unit.digest)

    def hurry(self, futures: Iterable[Future[Loaded]]) -> None:
        """What is still on its way to these goes as if a first token waited for it."""
        hurried = set(futures)
        with self._lock:
            for transfer in self._transfers.values():
                for wanted in transfer.waiters:
                    if wanted.future in hurried:
                        self._advance(transfer, replace(wanted, priority=Priority.COLD_START))

    def give_up(self, future: Future[Loaded]) -> None:
        """The caller no longer needs what `load` gave, or will give, it: a future that has nothing yet fails. A transfer that
        nobody waits for stops."""
        with self._lock:
            wanted = self._forget(future)
        if wanted is not None:
            future.set_exception(_given_up(wanted.unit))
        else:  # it is there, or has failed, or is about to be told so
            future.add_done_callback(lambda done: None if done.exception() else self.release(done.result().unit))

    def release(self, unit: UnitIndex) -> None:
        """The caller no longer needs the unit that a load handed it."""
        with suppress(KeyError):  # the stack was closed, and its memory with it
            self.dram.release(unit.digest)

    def keep_on_ssd(self, unit: UnitIndex, segment: Segment) -> Future[None]:
        """Write a unit that the caller holds in dram to ssd, behind everything else; nothing but its callers hold it then.

        The future fails with OutOfSpace if it cannot be kept there. Pair with `give_up_keeping` if it may be left alone.
        """
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            closing = self._closing.is_set()
            if not closing:
                self._behind.add(unit, segment, future)
        if closing:
            future.set_exception(_closed())
        return future

    def give_up_keeping(self, future: Future[None]) -> None:
        """The caller no longer needs what `keep_on_ssd` promised: a write that has not begun, and that nobody else wants, is
        none. The future fails, unless it is done."""
        if self._behind.give_up(future):
            self._on_freed()

    def close(self) -> None:
        """Stop the workers after the chunk each is at; what is unfinished fails; dram is freed."""
        with self._lock:
            self._closing.set()
            for transfer in self._transfers.values():
                transfer.stop(_closed())
        self._jobs.close()
        for thread in self._threads:
            thread.join()
        for job in self._jobs.left():  # each sees that the stack is closed and tells whoever waits
            job()
        self.dram.close()

    def _begin(self, wanted: Wanted) -> StorageError | None:
        """Under the lock: let it wait for the unit's transfer, a new one if need be; or why that cannot be."""
        if self._closing.is_set():
            return _closed()
        now, unit = self._clock(), wanted.unit
        segment = self.dram.acquire(unit.digest)
        if segment is not None and segment.size_bytes != unit.size_bytes:
            self.dram.release(unit.digest)
            return Corrupt(
                f"unit {unit.name} of {wanted.model} claims {unit.size_bytes:,} bytes, what its digest names has "
                f"{segment.size_bytes:,}"
            )
        if segment is not None:
            wanted.future.set_result(Loaded(unit, segment, "dram", now, now))
            return None
        transfer = self._transfers.get(unit.digest)
        if transfer is not None and transfer.error is not None:
            transfer.successors.append(wanted)
            return None
        if transfer is None:
            try:
                segment = self._reserve(wanted)
            except OutOfSpace as error:
                return error
            if segment is None:
                return None
            transfer = Transfer(wanted.model, unit, segment, self._sources(wanted), now)
            self._transfers[unit.digest] = transfer
        (transfer.waiters if transfer.serves(wanted) else transfer.successors).append(wanted)
        self._advance(transfer, wanted)
        return None

    def _advance(self, transfer: Transfer, wanted: Wanted) -> None:
        """Under the lock: it goes as early as whoever wants it asks for, if that is earlier than before."""
        if transfer.rank is None or wanted.priority < transfer.rank.priority:
            transfer.rank = self._rank(wanted)
            for chunk in transfer.unclaimed():
                self._put(transfer.rank, transfer, chunk)

    def _forget(self, future: Future[Loaded]) -> Wanted | None:
        """Under the lock: whoever waits with this future, who does no more; None if nobody does."""
        for transfer in self._transfers.values():
            for waiting in (transfer.waiters, transfer.successors):
                for wanted in waiting:
                    if wanted.future is future:
                        waiting.remove(wanted)
                        if not transfer.waiters:
                            self._stop(transfer, _given_up(transfer.unit))
                        return wanted
        for wanted in self._for_room:
            if wanted.future is future:
                self._for_room.remove(wanted)
                return wanted
        return None

    def _stop(self, transfer: Transfer, error: StorageError) -> None:
        """Under the lock: what is not being read of it is not read any more, and that at once."""
        if transfer.stopped:
            return
        transfer.stop(error)
        for chunk in transfer.unclaimed():
            self._put(_TO_END, transfer, chunk)

    def _put(self, rank: Rank, transfer: Transfer, chunk: int) -> None:
        self._jobs.put(rank, lambda: self._fetch(transfer, chunk), transfer.delay_s(chunk))

    def _rank(self, wanted: Wanted) -> Rank:
        patient = wanted.priority in (Priority.AFTER_FIRST_TOKEN, Priority.MOVE, Priority.PREWARM)
        return Rank(wanted.priority, wanted.turn, wire=not self.ssd.holds(wanted.unit), patient=patient)

    def _sources(self, wanted: Wanted) -> list[Tier]:
        """How fast the network is, only what has it to itself tells: what is brought ahead goes unit by unit, and yields."""
        found: list[Tier] = [Timed(self.ssd, self.from_ssd)] if self.ssd.holds(wanted.unit) else []
        others = [*(peer for peer in wanted.peers if peer.holds(wanted.unit)), self._remote]
        if wanted.peers_last and len(others) > 1:
            others.insert(0, self._remote)
        told = wanted.priority < Priority.MOVE
        return [*found, *(Timed(tier, self.network) if told else tier for tier in others)]

    def _reserve(self, wanted: Wanted) -> Segment | None:
        """Under the lock: memory for the unit; None if there will be, once a write to ssd has ended."""
        while True:
            soon = self._behind.frees_memory()  # asked first: what ends from here on is told to _on_freed after us
            humble_since = wanted.since if wanted.priority >= Priority.PREWARM else None
            try:
                return self.dram.reserve(wanted.unit.digest, wanted.unit.size_bytes, humble_since=humble_since)
            except OutOfSpace:
                if humble_since is None and self._behind.give_up_one():
                    continue
                if not soon and (humble_since is not None or not self._cut_short()):
                    raise
                self._for_room.append(wanted)
                return None

    def _cut_short(self) -> bool:
        """Under the lock: give up a transfer that only prewarming waits for; whether one frees its memory when it ends."""
        if any(transfer.error is not None for transfer in self._transfers.values()):
            return True
        for transfer in self._transfers.values():
            if all(one.priority >= Priority.PREWARM for one in transfer.waiters):
                error = OutOfSpace(
                    f"unit {transfer.unit.name} of {transfer.model} made room for what somebody waits for"
                )
                self._stop(transfer, error)
                return True
        return False

    def _on_freed(self) -> None:
        """A write to ssd has ended: those who wait for room try again."""
        with self._lock:
            told = self._try_again()
        _tell(told)

    def _try_again(self) -> Told:
        """Under the lock: those who wait for room look for it; who still finds none, and why."""
        waiting, self._for_room = self._for_room, []
        return [(wanted.future, error) for wanted in waiting if (error := self._begin(wanted)) is not None]

    def _work(self) -> None:
        while self._jobs.run_next():
            pass

    def _write(self) -> None:
        while self._jobs.run_next(behind=True):
            pass

    def _fetch(self, transfer: Transfer, chunk: int) -> None:
        if not transfer.claim(chunk) or self._read_part(transfer, chunk):
            return
        error = transfer.error or transfer.read(chunk)
        if error is not None and transfer.error is None:
            if self._put_off(transfer, chunk, error):
                return
            _log.warning("%s", error)
        last = transfer.settle(chunk, error)
        with self._lock:
            told = self._conclude(transfer, last)
        _tell(told)

    def _put_off(self, transfer: Transfer, chunk: int, error: StorageError) -> bool:
        """Whether the chunk, which has failed, is read again later; no thread waits for that."""
        with self._lock:
            until_s = max((one.until_s for one in transfer.waiters), default=0.0)
            if self._closing.is_set() or not transfer.put_off(chunk, error, until_s - time.monotonic()):
                return False
            self._put(transfer.rank or _TO_END, transfer, chunk)
            return True

    def _read_part(self, transfer: Transfer, chunk: int) -> bool:
        """Whether the chunk goes on later: it is patient, and there is more of it than is read in one go."""
        rank, part_bytes = transfer.rank, self._part_bytes
        if rank is None or not (rank.patient and rank.wire) or part_bytes is None:
            return False
        if transfer.error is not None or self._closing.is_set() or not transfer.read_part(chunk, part_bytes):
            return False
        with self._lock:
            self._put(_TO_END if transfer.error is not None else transfer.rank or rank, transfer, chunk)
        return True

    def _conclude(self, transfer: Transfer, last: bool) -> Told:
        """Under the lock: who is to be told what, after a chunk has come or failed."""
        told: Told = []
        if transfer.error is not None:
            told = [(one.future, transfer.error) for one in transfer.waiters if transfer.fails(one)]
            transfer.successors += [one for one in transfer.waiters if not transfer.fails(one)]
            self._stop(transfer, transfer.error)
            transfer.waiters.clear()
        if not last:
            return told
        digest = transfer.unit.digest
        self._transfers.pop(digest, None)
        if transfer.error is None:
            told = self._commit(transfer)
        else:
            self.dram.abandon(digest)
        for wanted in transfer.successors:
            if (error := self._begin(wanted)) is not None:
                told.append((wanted.future, error))
        return told + self._try_again() if transfer.error is not None else told

    def _commit(self, transfer: Transfer) -> Told:
        digest = transfer.unit.digest
        self.dram.commit(digest)
        ended_s = self._clock()
        told: Told = []
        for one in transfer.waiters:
            self.dram.acquire(digest)
            loaded = Loaded(one.unit, transfer.segment, transfer.source, transfer.started_s, ended_s)
            told.append((one.future, loaded))
        keep = self._write_behind and any(one.keep for one in transfer.waiters)
        if keep and not self.ssd.holds(transfer.unit) and self.ssd.would_keep(transfer.unit):
            self._behind.add(transfer.unit, transfer.segment)
        self.dram.release(digest)
        return told


def _tell(told: Told) -> None:
    for waiter, result in told:
        if isinstance(result, StorageError):
            waiter.set_exception(result)
        else:
            waiter.set_result(result)
