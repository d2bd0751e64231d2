"""Replicas that lack room: whose turn it is to be decided again, and how often."""

from schedules.limits import FAIR_S, PAUSE_S, TRIES
from schedules.placing.decision import Decision, Wait
from schedules.replicas.wanted import Wanted
from schedules.service import Cold, Replica, Service
from schedules.wakes import Wakes
from tests.schedules.driven_brain import model_named, wanting


class _Room:
    """Places replicas whose names are in `roomy`, and keeps what was tried."""

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.roomy: set[str] = set()
        self.until_s: dict[str, float] = {}
        self.wakes = Wakes()
        self.wanted = Wanted(self.wakes, self._place)

    def _place(self, replica: Replica, now_s: float) -> bool:
        self.tried.append(replica.group)
        replica.until_s = self.until_s.get(replica.group, 0.0)
        if replica.group in self.roomy:
            self.wanted.remove(replica)
            return True
        return False

    def add(self, name: str, since_s: float = 0.0, arrived_s: float | None = 0.0, priority: int = 0) -> Replica:
        replica = Replica(
            name, Service(model_named(name), wanting(priority=priority), 0), since_s, Cold(arrived_s, since_s)
        )
        self.wanted.add(replica)
        return replica

    def look(self, now_s: float) -> list[str]:
        """What was tried by it."""
        before = len(self.tried)
        for look in self.wakes.due(now_s):
            look(now_s)
        self.wanted.look(now_s)
        return self.tried[before:]


def test_the_more_important_come_first_then_who_is_asked_for_then_who_has_waited_longest() -> None:
    room = _Room()
    room.add("kept", 0.0, None)
    room.add("late", 2.0)
    room.add("early", 1.0)
    room.add("high", 3.0, priority=1)
    room.wanted.stir()
    assert room.look(3.0) == ["high", "early", "late", "kept"]


def test_nobody_is_decided_again_unless_something_has_changed() -> None:
    room = _Room()
    room.add("a")
    assert room.look(1.0) == []
    room.wanted.stir()
    assert room.look(1.0) == ["a"]
    assert room.look(2.0) == []


def test_a_few_are_tried_at_once_and_the_others_after_a_pause() -> None:
    room = _Room()
    names = [f"r{i:02d}" for i in range(2 * TRIES + 1)]
    for name in names:
        room.add(name)
    room.wanted.stir()
    assert room.look(1.0) == names[:TRIES]
    assert room.look(1.0) == []
    assert room.look(1.0 + 2 * PAUSE_S) == names[TRIES : 2 * TRIES]
    assert room.look(1.0 + 4 * PAUSE_S) == names[2 * TRIES :]


def test_those_who_find_room_cost_no_pause() -> None:
    room = _Room()
    room.roomy = {f"r{i:02d}" for i in range(3 * TRIES)}
    for name in sorted(room.roomy):
        room.add(name)
    room.wanted.stir()
    assert room.look(1.0) == sorted(room.roomy)


def test_who_has_waited_long_for_room_is_not_overtaken() -> None:
    room = _Room()
    long = room.add("long", 0.0)
    late = room.add("late", FAIR_S + 1.0)
    room.roomy = {"late"}
    assert room.wanted.behind(late, FAIR_S + 1.0)
    room.wanted.stir()
    assert room.look(FAIR_S + 1.0) == ["long"]
    room.wanted.remove(long)
    assert not room.wanted.behind(late, FAIR_S + 1.0)


def test_who_has_waited_long_for_links_holds_nobody_up() -> None:
    """It needs no room, but nobody behind it was tried any more: one wire that is taken, and nothing was started anywhere."""
    room = _Room()
    room.add("long", 0.0)
    late = room.add("late", FAIR_S + 1.0)
    room.roomy, room.until_s = {"late"}, {"long": 100.0}
    room.wanted.stir()
    assert room.look(FAIR_S + 2.0) == ["long", "late"]
    assert not room.wanted.behind(late, FAIR_S + 2.0)


def test_who_waits_for_links_is_decided_again_as_soon_as_some_are_free() -> None:
    """A start that failed left its links to nobody until the time at which it would have been done."""
    room = _Room()
    waits = room.add("waits")
    room.until_s = {"waits": 30.0}
    waits.cold.decision = Decision("", Wait(30.0, ""), ())
    room.wanted.stir()
    assert room.look(1.0) == ["waits"]
    room.wanted.stir()
    assert room.look(2.0) == []
    room.wanted.hurry()
    assert room.look(3.0) == ["waits"]


def test_who_comes_while_the_first_is_decided_again_has_its_turn_too() -> None:
    """Only those were tried who had been there when something changed: it waited for the next change, which need not come."""
    room = _Room()
    room.add("first", 0.0)
    room.wanted.stir()
    late = room.add("late", FAIR_S + 1.0)
    assert room.wanted.behind(late, FAIR_S + 1.0)
    room.roomy = {"first", "late"}
    assert room.look(FAIR_S + 1.0) == ["first", "late"]


def test_what_changes_while_one_is_decided_again_is_not_forgotten() -> None:
    room = _Room()
    room.add("first")
    last = room.add("last")
    place = room.wanted._place

    def placing(replica: Replica, now_s: float) -> bool:
        if replica is last and "last" not in room.tried:
            room.roomy.add("first")
            room.wanted.stir()
        return place(replica, now_s)

    room.wanted._place = placing
    room.wanted.stir()
    assert room.look(1.0) == ["first", "last", "first", "last"]


def test_who_is_not_there_any_more_is_not_tried_and_may_be_removed_twice() -> None:
    room = _Room()
    gone = room.add("gone")
    room.add("there")
    room.wanted.stir()
    room.wanted.remove(gone)
    room.wanted.remove(gone)
    assert room.look(1.0) == ["there"]


def test_the_pause_is_as_long_as_decisions_make_it() -> None:
    room = _Room()
    room.wanted = Wanted(room.wakes, room._place, lambda: 1.0)
    names = [f"r{i:02d}" for i in range(TRIES + 1)]
    for name in names:
        room.add(name)
    room.wanted.stir()
    assert room.look(1.0) == names[:TRIES]
    assert room.look(1.5) == []
    assert room.look(2.0) == names[TRIES:]
