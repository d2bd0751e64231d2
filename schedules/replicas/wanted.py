"""Replicas that are wanted and lack room or links: in which order, and how often, it is decided again where they start."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from itertools import count

from schedules.limits import FAIR_S, PAUSE_S, TRIES
from schedules.placing.decision import Wait
from schedules.service import Replica
from schedules.wakes import Wakes

_Key = tuple[int, bool, float, int]


class Wanted:
    """The more important first, then those that somebody waits for, then who has waited longest.

    Knows no rule of placing: `place` decides again for a replica, and says whether it waits no more. After some tries in
    vain others have their turn for `pause_s` seconds.
    """

    def __init__(
        self, wakes: Wakes, place: Callable[[Replica, float], bool], pause_s: Callable[[], float] = lambda: PAUSE_S
    ) -> None:
        self._wakes, self._place, self._pause_s = wakes, place, pause_s
        self._order: list[tuple[_Key, Replica]] = []
        self._keys: dict[str, _Key] = {}
        self._numbers = count()
        self._after: _Key | tuple[()] | None = None
        self._not_before_s, self._woken = 0.0, False

    def add(self, replica: Replica) -> None:
        """It waits from now on, and the room there is is not its own to be tried for until `stir`."""
        key = (
            -replica.service.objectives.priority,
            replica.cold.arrived_s is None,
            replica.since_s,
            next(self._numbers),
        )
        self._keys[replica.group] = key
        insort(self._order, (key, replica), key=_key_of)

    def remove(self, replica: Replica) -> None:
        """It waits no more; nothing happens if it does not."""
        key = self._keys.pop(replica.group, None)
        if key is not None:
            del self._order[bisect_left(self._order, key, key=_key_of)]

    def behind(self, replica: Replica, now_s: float) -> bool:
        """Whether one before it has waited so long that nobody may overtake it."""
        first = self._order[0][1] if self._order else replica
        return first is not replica and _long(first, now_s)

    def stir(self) -> None:
        """There may be room now: all are to be decided again, from the first on."""
        if self._order:
            self._after = ()

    def hurry(self) -> None:
        """Links may be free before it was thought: who waits for them is decided again too."""
        for _, replica in self._order:
            decision = replica.cold.decision
            if decision is not None and isinstance(decision.outcome, Wait):
                replica.until_s = 0.0
                self.stir()

    def look(self, now_s: float) -> None:
        """Decide again for some of those that are to be: those that come after the last that was."""
        if self._after is None:
            return
        if now_s < self._not_before_s:
            self._wake(self._not_before_s)
            return
        tries = 0
        while (index := bisect_right(self._order, self._after, key=_key_of)) < len(self._order):
            self._after, replica = self._order[index]
            if replica.until_s > now_s:
                continue
            tries += 1
            if not self._place(replica, now_s):
                self._not_before_s = now_s + self._pause_s()
                if _long(replica, now_s):
                    break
                if tries >= TRIES:
                    self._wake(self._not_before_s)
                    return
        self._after = None

    def _wake(self, at_s: float) -> None:
        if not self._woken:
            self._woken = True
            self._wakes.at(at_s, self._awake)

    def _awake(self, _now_s: float) -> None:
        self._woken = False


def _key_of(entry: tuple[_Key, Replica]) -> _Key:
    return entry[0]


def _long(replica: Replica, now_s: float) -> bool:
    """Whether it lacks room that it will be given, and has for long. Who waits for links needs nobody's room."""
    asked_for = replica.cold.arrived_s is not None and not replica.stuck
    return asked_for and replica.until_s <= now_s and now_s - replica.since_s > FAIR_S
