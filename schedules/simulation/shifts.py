"""Requests that go on elsewhere in the world, round by round: what serving/ does for a live brain."""

from collections.abc import Sequence
from dataclasses import dataclass

from schedules.actions import Shift
from schedules.events import Event, RequestBroke, RequestRefused, RequestShifted, RequestStayed
from schedules.moving.rounds import goes_over
from schedules.simulation.attempts import Open
from schedules.simulation.happenings import CaughtUp, OfAttempt, Yielded
from schedules.simulation.world import World


@dataclass
class _Following:
    """A request on its way; `follower` is the attempt that takes it in, which knows `told` of its tokens. `lost` says why
    there is none any more, after the other was asked to give it up."""

    asked: Open
    shift: Shift
    follower: str
    told: int
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
        following = _Following(asked, shift, ask.request, asked.tokens)
        self._of[asked.name] = self._by_follower[ask.request] = following
        self._world.follow(shift.to, ask, asked.attempt if shift.copy else "", now_s)

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
            self._go_round(following, now_s)
            return ()
        reason = told.reason if isinstance(told, RequestRefused) else told.cause
        if following.yielding:
            following.lost = reason
            return ()
        shift = self._end(following).shift
        return (RequestStayed(shift.request, shift.group, shift.to, reason),)

    def _go_round(self, following: _Following, now_s: float) -> None:
        behind = following.asked.tokens - following.told
        if goes_over(behind, following.behind_before):
            following.yielding = True
            self._world.yield_up(following.asked.attempt, now_s)
        else:
            following.told, following.behind_before = following.asked.tokens, behind
            self._world.more(following.follower, behind, now_s)

    def _switch(self, following: _Following, now_s: float) -> Sequence[Event]:
        """The request has its last token from there."""
        shift, asked = self._end(following).shift, following.asked
        if following.lost is not None:
            return (RequestBroke(shift.request, shift.group, following.lost),)
        self._world.go_on(following.follower, asked.tokens - following.told, now_s)
        asked.attempt = following.follower
        return (RequestShifted(shift.request, shift.group, shift.to),)

    def _end(self, following: _Following) -> _Following:
        del self._of[following.asked.name], self._by_follower[following.follower]
        return following
