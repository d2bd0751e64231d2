"""The steps of a move, each a task, and the order in which every flow of a move takes them."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import httpx
from prefect import Task, get_client, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import PrefectException
from prefect.states import Cancelled

from flows.artifacts import leave_page
from flows.context import read_context
from flows.errors import FlowError, FrontEndAway, MoveGivenUp, NotInTime, Refused
from flows.front_end import FrontEnd
from flows.moving.moves import Move, Wish
from flows.moving.page import page_of
from schedules.moving.plan import Step

PREPARED_WITHIN_S = 1800.0
SWITCHED_WITHIN_S = 3600.0
_MARGIN_S = 60.0
_ROUND_S = 20.0
"""A step is asked after in rounds, so that a front end that is gone without a word is noticed."""
_GIVE_UP_WITHIN_S = 5.0
_PREFECT_SAYS_WITHIN_S = 2.0
_AGAIN_AFTER_S = [0.2, 0.5, 1.0, 2.0, 5.0, 10.0]


def front_end_was_away(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Only what a front end that is back can still do is tried again."""
    return isinstance(state.data, FrontEndAway)


_ASKS: Mapping[str, Any] = {
    "retries": len(_AGAIN_AFTER_S),
    "retry_delay_seconds": _AGAIN_AFTER_S,
    "retry_condition_fn": front_end_was_away,
    "cache_policy": NO_CACHE,
}
"""Of the tasks that ask the front end."""


@task(**_ASKS, timeout_seconds=_MARGIN_S)
async def plan(front_end: FrontEnd, wish: Wish, move: str) -> Move:
    """The move that was ordered as `move`; without one, what the front end orders as it is wished. Refused says why not."""
    if not move:
        return await front_end.order(wish)
    found = await front_end.move(move)
    if found.kind is not wish.kind:
        raise Refused(f"the move {move} is to {found.kind.value}, not to {wish.kind.value}")
    return found


@task(**_ASKS, timeout_seconds=PREPARED_WITHIN_S + _MARGIN_S)
async def prepare(front_end: FrontEnd, move: Move) -> Move:
    """Have the heirs started, and wait until they are whole or the move is given up."""
    return await _go_on(front_end, move, Step.ORDERED, Step.READY, PREPARED_WITHIN_S)


@task(**_ASKS, timeout_seconds=SWITCHED_WITHIN_S + _MARGIN_S)
async def switch(front_end: FrontEnd, move: Move) -> Move:
    """Have the requests go over, and wait until nothing is left at what makes way or the move is given up."""
    return await _go_on(front_end, move, Step.READY, Step.DONE, SWITCHED_WITHIN_S)


@task(retries=2, retry_delay_seconds=[1, 5], timeout_seconds=_MARGIN_S, cache_policy=NO_CACHE)
async def report(move: Move, recorded: bool) -> None:
    """Leave a page of what was moved, from where to where, in what time and why; `recorded` if that was before this run."""
    subject = " ".join(move.models) or move.node
    page, description = page_of(move, recorded=recorded), f"What became of the move {move.move}"
    await leave_page(move.kind.value, subject, page, description)


async def carry(wish: Wish, move: str) -> State[Any] | None:
    """Take the steps of the move that was ordered as `move`, or of one that follows `wish`, and report.

    MoveGivenUp or Refused says why it came to nothing. A move that is over is only reported. Who is cancelled by a
    person gives the move up: what should have made way serves on.
    """
    front_end = read_context().front_end()
    ordered = await plan(front_end, wish, move)
    try:
        ready = ordered if ordered.over else await prepare(front_end, ordered)
        ended = ready if ready.over else await switch(front_end, ready)
    except asyncio.CancelledError:
        if not await _is_given_up(front_end, ordered, was_wished=not move):
            raise
        return Cancelled(message=f"the move {ordered.move} was given up")
    except (FlowError, TimeoutError) as error:
        await _give_up(front_end, ordered.move, f"its flow run failed: {error}")
        raise
    await report(ended, ordered.over)
    if ended.step is Step.GIVEN_UP:
        raise MoveGivenUp(ended.why or "the front end does not say why")
    return None


def run_name() -> str:
    """What the flow run that begins is called."""
    return name_of(runtime.flow_run.flow_name, runtime.flow_run.parameters)


def name_of(flow: str, asked: Mapping[str, Any]) -> str:
    """What a flow's run with these parameters is called: the flow, what moves, and where to."""
    subject = next((str(asked[name]) for name in ("model", "request", "group") if asked.get(name)), "")
    words = [flow, subject, "->" if subject and asked["node"] else "", asked["node"]]
    return " ".join(word for word in words if word)


async def _go_on(front_end: FrontEnd, move: Move, step: Step, until: Step, within_s: float) -> Move:
    """Say that the move may go on from `step`, and wait for `until` or its end. NotInTime if neither comes."""
    deadline_s = time.monotonic() + within_s
    found = await front_end.go_on(move.move, step, _ROUND_S)
    while not found.reached(until):
        if time.monotonic() > deadline_s:
            raise NotInTime(f"the move {move.move} is not {until.value} after {within_s:.0f} s but {found.step.value}")
        found = await front_end.go_on(move.move, step, _ROUND_S)
    return found


async def _is_given_up(front_end: FrontEnd, move: Move, *, was_wished: bool) -> bool:
    """Give the move up if a person cancelled this run, or nobody else drives its steps; else the front end goes on alone.

    True if a person did.
    """
    cancelled = await _is_cancelled()
    if cancelled or was_wished:
        await _give_up(front_end, move.move, "its flow run was cancelled" if cancelled else "its flow run was ended")
    return cancelled


async def _give_up(front_end: FrontEnd, move: str, reason: str) -> None:
    """Give the move up, if the front end can still be told: one that cannot decides by itself."""
    try:
        async with asyncio.timeout(_GIVE_UP_WITHIN_S):
            await front_end.give_up(move, reason)
    except (FlowError, TimeoutError) as error:
        get_run_logger().warning("the front end was not told to give up the move %s: %s", move, error)


async def _is_cancelled() -> bool:
    """Whether a person had Prefect cancel this run; False as well if Prefect does not say."""
    try:
        async with asyncio.timeout(_PREFECT_SAYS_WITHIN_S), get_client() as client:
            state = (await client.read_flow_run(UUID(str(runtime.flow_run.id)))).state
    except (httpx.HTTPError, PrefectException, TimeoutError):
        return False
    return state is not None and (state.is_cancelling() or state.is_cancelled())
