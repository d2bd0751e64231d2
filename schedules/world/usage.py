"""How much of what a cluster is made of is used, minute by minute."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MINUTE_S = 60.0
Amounts = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ByMinute:
    """What it was of all nodes together in each minute from the trace's begin, the last one as far as it went: accelerator
    memory reserved and dram that held units, times how long; bytes that came over network cards, and from the store.

    A transfer's bytes count evenly from its order to its end, and one that was given up does not count.
    """

    device_reserved_byte_s: Amounts
    dram_byte_s: Amounts
    card_bytes: Amounts
    store_bytes: Amounts


class Minutes:
    """An amount for each minute after `begin_s`; what was before does not count."""

    def __init__(self, begin_s: float) -> None:
        self._begin_s = begin_s
        self._amounts: list[float] = []

    def spread(self, amount: float, from_s: float, until_s: float) -> None:
        """It came evenly in that time."""
        at_s, over_s = max(0.0, from_s - self._begin_s), until_s - self._begin_s
        if over_s < at_s or over_s <= 0.0:
            return
        last = int(over_s // MINUTE_S)
        self._amounts.extend([0.0] * (last + 1 - len(self._amounts)))
        while (minute := int(at_s // MINUTE_S)) < last:
            end_s = (minute + 1) * MINUTE_S
            self._amounts[minute] += amount * (end_s - at_s) / (until_s - from_s)
            at_s = end_s
        self._amounts[last] += amount * (over_s - at_s) / (until_s - from_s) if until_s > from_s else amount

    def amounts(self, count: int) -> Amounts:
        """Of so many minutes."""
        found = np.zeros(count)
        known = self._amounts[:count]
        found[: len(known)] = known
        return found


class Level:
    """What is there, in bytes; its minutes have that times seconds."""

    def __init__(self, begin_s: float) -> None:
        self._minutes, self._since_s, self._bytes = Minutes(begin_s), begin_s, 0

    def change(self, more_bytes: int, now_s: float) -> None:
        """So much more is there from now on. Time does not run back."""
        if now_s > self._since_s:
            self._minutes.spread(self._bytes * (now_s - self._since_s), self._since_s, now_s)
            self._since_s = now_s
        self._bytes += more_bytes

    def amounts(self, count: int, now_s: float) -> Amounts:
        """Of so many minutes, until now."""
        self.change(0, now_s)
        return self._minutes.amounts(count)


class Usage:
    """Of a world's nodes, counted from `begin_s`."""

    def __init__(self, begin_s: float) -> None:
        self._begin_s = begin_s
        self._reserved, self._dram = Level(begin_s), Level(begin_s)
        self._of: dict[str, tuple[int, int]] = {}
        self.card, self.store = Minutes(begin_s), Minutes(begin_s)

    def stands(self, node: str, reserved_bytes: int, dram_bytes: int, now_s: float) -> None:
        """That is reserved of the node's accelerator, and in its dram, from now on."""
        reserved_before, dram_before = self._of.get(node, (0, 0))
        if reserved_bytes != reserved_before:
            self._reserved.change(reserved_bytes - reserved_before, now_s)
        if dram_bytes != dram_before:
            self._dram.change(dram_bytes - dram_before, now_s)
        self._of[node] = reserved_bytes, dram_bytes

    def came(self, size_bytes: int, ordered_s: float, now_s: float, *, from_store: bool) -> None:
        """Over a network card."""
        self.card.spread(size_bytes, ordered_s, now_s)
        if from_store:
            self.store.spread(size_bytes, ordered_s, now_s)

    def by_minute(self, now_s: float) -> ByMinute:
        """Until now."""
        count = max(1, int(np.ceil((now_s - self._begin_s) / MINUTE_S)))
        return ByMinute(
            self._reserved.amounts(count, now_s),
            self._dram.amounts(count, now_s),
            self.card.amounts(count),
            self.store.amounts(count),
        )
