"""The moves of a front end: where each stands, who takes its next step, and what is left of it when it is over.

The brain orders them and says where they stand. At two steps it waits for whoever carries the move out: the flow service,
which listens for that, or whoever asked for it. Who keeps silent is not waited for: the front end goes on by itself.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from itertools import count
from math import inf
from typing import Any

from cluster.wire.phases import unix_s
from schedules import events
from schedules.actions import MoveAt, Refuse, Shift
from schedules.moving.plan import Kind, Step
from serving.errors import MoveRefused, Unavailable
from serving.metrics import Metrics
from serving.moving.notices import Listener, Notices
from serving.moving.report import ENDS, Carrier, Move
from serving.moving.shifting import Account

_log = logging.getLogger(__name__)
KEPT = 256
ANSWERED_WITHIN_S = 5.0
PATIENCE_S: Mapping[tuple[Carrier, Step], float] = {
    (Carrier.FLOW, Step.ORDERED): 0.5,
    (Carrier.FLOW, Step.READY): 2.0,
    (Carrier.CALLER, Step.ORDERED): inf,
    (Carrier.CALLER, Step.READY): inf,
}
"""So long is waited for MoveGoOn of others. Whoever asked may take the time that the brain has for it."""


class Moves:
    """See the module. `tell` takes what happens, `on_end` each move that is over, as JSON. Use from one event loop."""

    def __init__(
        self,
        tell: Callable[[events.Event], None],
        metrics: Metrics,
        notices: Notices,
        on_end: Callable[[Mapping[str, Any]], object] | None = None,
    ) -> None:
        self._tell, self._metrics, self._notices, self._on_end = tell, metrics, notices, on_end
        self._under_way: dict[str, Move] = {}
        self._ended: deque[Mapping[str, Any]] = deque(maxlen=KEPT)
        self._wishes: dict[str, tuple[Carrier | None, asyncio.Future[Move]]] = {}
        self._listeners: dict[str, Listener] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._drained: set[str] = set()
        self._let_go = False
        self._changed = asyncio.Event()
        self._numbers = count(1)
        notices.on_left(self._listener_left)

    # ---- what the brain says

    def stands(self, action: MoveAt) -> None:
        """The move has come to this step."""
        plan = action.plan
        known = self._under_way.get(plan.move)
        move = known or Move(plan, Carrier.FRONT_END)
        move.step, move.why, now_s = action.step, action.reason, unix_s(asyncio.get_running_loop().time())
        move.at_s[action.step] = now_s
        move.at_s.setdefault(Step.ORDERED, now_s)
        self._stop_waiting(move)
        if known is None:
            self._begin(move)
        if action.step in (Step.ORDERED, Step.READY):
            self._await(move)
        if action.step in ENDS:
            self._metrics.moves.labels(str(plan.kind), str(action.step)).inc()
        self._settle(move)
        self._wake()

    def refused(self, action: Refuse) -> None:
        """A wish is not followed."""
        wished = self._wishes.get(action.wish)
        if wished is not None and not wished[1].done():
            wished[1].set_exception(MoveRefused(action.sentence))

    def account(self, action: Shift, model: str) -> Account:
        """Who counts what becomes of the shift."""
        found = (move for move in self._under_way.values() if move.concerns(action.request, action.group))
        return _ShiftAccount(self._metrics, model, next(found, None), self._settle)

    # ---- what operators ask

    async def wish(self, wanted: Callable[[str], events.Event], carrier: Carrier | None = None) -> Mapping[str, Any]:
        """Wish for a move; `wanted` says for which, by the wish's name. MoveRefused if the brain does not follow it."""
        name = f"w{next(self._numbers)}"
        answer: asyncio.Future[Move] = asyncio.get_running_loop().create_future()
        self._wishes[name] = carrier, answer
        try:
            self._tell(wanted(name))
            async with asyncio.timeout(ANSWERED_WITHIN_S):
                return (await answer).as_json()
        except TimeoutError:
            raise Unavailable(
                "nothing was decided in time; see the moves before asking again", retry_after_s=5
            ) from None
        finally:
            del self._wishes[name]

    async def go_on(self, name: str, step: Step, timeout_s: float) -> Mapping[str, Any] | None:
        """Whoever carries the move out is ready for what comes after `step`. The move once it has come to what it is to be
        told of next, or as it stands when the time is over; None if there is no such move."""
        move = self._under_way.get(name)
        if move is not None and move.step is step:
            self._tell(events.MoveGoOn(name))
        waits = (Step.ORDERED, Step.PREPARING) if step is Step.ORDERED else tuple(set(Step) - set(ENDS))
        try:
            async with asyncio.timeout(timeout_s):
                while not self._let_go and self._waits(name, waits):
                    await self._changed.wait()
        except TimeoutError:
            pass
        return self.find(name)

    def give_up(self, name: str, reason: str) -> Mapping[str, Any] | None:
        """Nobody wants the move any more; None if there is no such move."""
        if name in self._under_way:
            self._tell(events.MoveGivenUp(name, reason))
        return self.find(name)

    def find(self, name: str) -> Mapping[str, Any] | None:
        """The move as JSON, None if it is not known."""
        if name in self._under_way:
            return self._under_way[name].as_json()
        return next((each for each in self._ended if each["move"] == name), None)

    def latest(self, limit: int) -> Sequence[Mapping[str, Any]]:
        """Up to `limit` moves, the latest first."""
        return [*self.under_way(), *self._ended][:limit]

    def under_way(self) -> list[Mapping[str, Any]]:
        """Those that are not over, the latest first."""
        return [move.as_json() for move in reversed(self._under_way.values())]

    def is_drained(self, node: str) -> bool:
        """Whether an operator has it drained."""
        return node in self._drained

    def drained(self, node: str) -> None:
        """An operator's wish was followed: nothing new goes to the node."""
        self._drained.add(node)

    def undrained(self, node: str) -> None:
        """It is a node like others again."""
        if node in self._drained:
            self._drained.remove(node)
            self.note_node(node, "undrained")

    def note_node(self, node: str, what: str) -> None:
        """This became of the node: whoever listens is told."""
        self._notices.tell("node", node=node, what=what, at=unix_s(asyncio.get_running_loop().time()))

    def restore(self, moves: Iterable[Mapping[str, Any]]) -> None:
        """Put moves of before, the latest first, behind those that are here."""
        here = {each["move"] for each in self._ended}
        self._ended.extend([each for each in moves if each["move"] not in here][: KEPT - len(self._ended)])

    def let_go(self) -> None:
        """Whoever waits for a step is told how it stands, and nobody waits any more."""
        self._let_go = True
        self._wake()

    def close(self) -> None:
        """Nobody is waited for any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    # ---- from step to step

    def _begin(self, move: Move) -> None:
        """It is new: somebody is to carry it out."""
        plan = move.plan
        self._under_way[plan.move] = move
        carrier, answer = self._wishes.get(plan.wish, (None, None))
        listener = self._notices.first()
        if carrier is not None:
            move.carrier = carrier
        elif listener is not None and move.step is Step.ORDERED:
            move.carrier, self._listeners[plan.move] = Carrier.FLOW, listener
            listener.tell("order", move=move.as_json())
        _log.info("move %s is ordered, and the %s carries it out: %s", plan.move, move.carrier, plan.reason)
        if answer is not None and not answer.done():
            answer.set_result(move)

    def _await(self, move: Move) -> None:
        """Somebody says MoveGoOn."""
        patience_s = PATIENCE_S.get((move.carrier, move.step))
        if patience_s is None:
            self._tell(events.MoveGoOn(move.name))
            return
        loop = asyncio.get_running_loop()
        self._timers[move.name] = loop.call_later(
            patience_s, self._take_over, move, f"said nothing for {patience_s:g} s"
        )

    def _stop_waiting(self, move: Move) -> None:
        timer = self._timers.pop(move.name, None)
        if timer is not None:
            timer.cancel()

    def _take_over(self, move: Move, why: str) -> None:
        """Whoever carried the move out does not: the front end does."""
        _log.warning("move %s: the %s %s; it is carried out without", move.name, move.carrier, why)
        self._stop_waiting(move)
        self._listeners.pop(move.name, None)
        move.carrier = Carrier.FRONT_END
        if move.step in (Step.ORDERED, Step.READY):
            self._await(move)

    def _listener_left(self, listener: Listener) -> None:
        for name in [name for name, each in self._listeners.items() if each is listener]:
            self._take_over(self._under_way[name], "went away")

    def _waits(self, name: str, steps: Container[Step]) -> bool:
        """Whether it is at one of these steps; or at its end, but for what is still to be told of its requests."""
        move = self._under_way.get(name)
        return move is not None and (move.step in steps or move.step in ENDS)

    def _settle(self, move: Move) -> None:
        """If the move is over, it is kept as it is."""
        if not move.over or move.name not in self._under_way:
            return
        del self._under_way[move.name]
        self._listeners.pop(move.name, None)
        told = move.as_json()
        self._ended.appendleft(told)
        _log.info("%s", _sentence(move))
        self._notices.tell("move", move=told)
        if move.plan.kind is Kind.DRAIN and move.step is Step.DONE:
            self.note_node(move.plan.node, "drained")
        if self._on_end is not None:
            self._on_end(told)
        self._wake()

    def _wake(self) -> None:
        """Those who wait for a move look again."""
        self._changed.set()
        self._changed = asyncio.Event()


class _ShiftAccount:
    """See serving.moving.shifting.Account: counts for the metrics, and for the move that the shift is a part of."""

    def __init__(self, metrics: Metrics, model: str, move: Move | None, settle: Callable[[Move], None]) -> None:
        self._metrics, self._model, self._move, self._settle = metrics, model, move, settle
        self._kv = ""
        if move is not None:
            move.under_way += 1

    def shifted(self, copied_tokens: int, copied_bytes: int) -> None:
        self._kv = "copied" if copied_tokens else "recomputed"
        self._metrics.shifts.labels(self._model, "shifted").inc()
        self._metrics.shift_copied_bytes.labels(self._model).inc(copied_bytes)
        if self._move is not None:
            self._move.shifted += 1
            self._move.copied += bool(copied_tokens)
            self._move.recomputed += not copied_tokens
            self._move.copied_bytes += copied_bytes

    def paused(self, pause_s: float) -> None:
        self._metrics.move_pause.labels(self._model, self._kv).observe(pause_s)
        if self._move is not None:
            self._move.pauses_s.append(pause_s)
        self._done()

    def stayed(self, reason: str) -> None:
        _log.info("a request of %s stays where it is: %s", self._model, reason)
        self._metrics.shifts.labels(self._model, "stayed").inc()
        if self._move is not None:
            self._move.stayed += 1
        self._done()

    def over(self) -> None:
        if not self._kv:
            self._metrics.shifts.labels(self._model, "over").inc()
        self._done()

    def _done(self) -> None:
        if self._move is not None:
            self._move.under_way -= 1
            self._settle(self._move)


def _sentence(move: Move) -> str:
    """What came of it, for the log."""
    took_s = max(move.at_s.values()) - min(move.at_s.values())
    if move.step is Step.GIVEN_UP:
        return f"move {move.name} ({move.plan.kind}) was given up after {took_s:.1f} s: {move.why}"
    paused = f", the longest pause {max(move.pauses_s):.3f} s" if move.pauses_s else ""
    return (
        f"move {move.name} ({move.plan.kind}) is done after {took_s:.1f} s: {move.shifted} requests shifted, "
        f"{move.copied} with their KV cache ({move.copied_bytes} bytes){paused}"
    )
