"""Requests that go on elsewhere in the world, round by round: what serving/ does for a live brain."""

from collections.abc import Sequence
from dataclasses import dataclass

from schedules.actions import Shift
from schedules.events import Event, RequestProgressed, RequestRefused, RequestShifted, RequestStayed
from schedules.moving.rounds import ROUNDS, goes_over, never_near
from schedules.simulation.attempts import Open
from schedules.world.happenings import CaughtUp, OfAttempt, Yielded
from schedules.world.world import World


@dataclass
class _Following:
    """A request on its way; `follower` is the attempt that takes it in, which knows `told` of its tokens since `told_s`.
    `lost` says why there is none any more, after the other was asked to give the request up."""

    asked: Open
    shift: Shift
    follower: str
    told: int
    told_s: float
    rounds: int = 0
    behind_before: int | None = None
    yielding: bool = False
    lost: str | None = None


class Shifts:
    """Those under way."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._of: dict[str, _Following] = {}
        self._by_follower: dict[str, _Following] = {}
        self._forgotten: set[str] = set()

    def begin(self, shift: Shift, asked: Open, now_s: float) -> None:
        """The request runs, and is not on its way already."""
        ask = asked.ask()
        following = _Following(asked, shift, ask.request, asked.tokens, now_s)
        self._of[asked.name] = self._by_follower[ask.request] = following
        self._world.follow(shift.to, ask, asked.attempt if shift.copy else "", now_s)

    def hear_of(self, asked: Open, now_s: float) -> Sequence[Event]:
        """What the request has by now, as far as nobody has heard of it, for the brain to hear."""
        untold = self._world.untold(asked.attempt, now_s)
        asked.tokens += sum(told.tokens for told in untold)
        return [RequestProgressed(asked.name, told.group, told.tokens) for told in untold]

    def forget(self, request: str, now_s: float) -> None:
        """It is over, or broken."""
        if request in self._of:
            follower = self._end(self._of[request]).follower
            self._forgotten.add(follower)
            self._world.cancel(follower, now_s)

    def hear(self, told: OfAttempt, now_s: float) -> Sequence[Event] | None:
        """What follows for the brain, None if this is about nobody on the way."""
        if isinstance(told, Yielded):
            return self._switch(self._of[told.request.rpartition(".")[0]], now_s)
        following = self._by_follower.get(told.request)
        if following is None:
            return () if told.request in self._forgotten else None
        if isinstance(told, CaughtUp):
            return self._go_round(following, now_s)
        reason = told.reason if isinstance(told, RequestRefused) else told.cause
        if following.yielding:
            following.lost = reason
            return ()
        return (self._stay(following, reason),)

    def _go_round(self, following: _Following, now_s: float) -> Sequence[Event]:
        asked = following.asked
        told = self.hear_of(asked, now_s)
        behind, took_s = asked.tokens - following.told, now_s - following.told_s
        following.rounds += 1
        if goes_over(behind, following.behind_before, took_s):
            following.yielding = True
            self._world.yield_up(asked.attempt, now_s)
        elif following.rounds < ROUNDS:
            following.told, following.told_s, following.behind_before = asked.tokens, now_s, behind
            self._world.more(following.follower, behind, now_s)
        else:
            self._world.cancel(following.follower, now_s)
            return (*told, self._stay(following, never_near(behind, took_s)))
        return told

    def _stay(self, following: _Following, reason: str) -> RequestStayed:
        shift = self._end(following).shift
        return RequestStayed(shift.request, shift.group, shift.to, reason)

    def _switch(self, following: _Following, now_s: float) -> Sequence[Event]:
        """The request has its last token from there. If it cannot go over now, it begins there again."""
        shift, asked = following.shift, following.asked
        if following.lost is not None:
            self._world.run(shift.group, asked.begin(), now_s)
            return (self._stay(following, following.lost),)
        self._end(following)
        self._world.go_on(following.follower, asked.tokens - following.told, now_s)
        asked.attempt = following.follower
        return (RequestShifted(shift.request, shift.group, shift.to),)

    def _end(self, following: _Following) -> _Following:
        del self._of[following.asked.name], self._by_follower[following.follower]
        return following
