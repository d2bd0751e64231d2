"""Ordered moves as flow runs in the flow service's own process, so that they begin at once; and the record of those that the
front end carried out alone."""

import asyncio
import copy
import logging
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Never
from uuid import UUID

import httpx
import prefect.task_engine  # noqa: F401  # else the first run's first step waits for it
from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import PrefectException
from prefect.flow_engine import run_flow_async
from prefect.states import Crashed

from flows.errors import FlowError, PrefectAway
from flows.moving.consolidate import consolidate
from flows.moving.drain import drain
from flows.moving.migrate import migrate
from flows.moving.moves import Move
from flows.moving.steps import name_of
from schedules.moving.plan import Kind

MOVES: Mapping[Kind, Flow[..., Any]] = MappingProxyType(
    {Kind.CONSOLIDATE: consolidate, Kind.MIGRATE: migrate, Kind.DRAIN: drain}
)
ORDERED, RECORDED = "ordered", "recorded"
"""Tags of runs: the front end ordered it, or had carried it out before."""
CALLER = "caller"
MOST_AT_ONCE = 16
BEGINS_WITHIN_S = 10.0
"""So long Prefect may take to know of a run. The front end waits for half a second only, and a run may follow it."""
_WATCH_EVERY_S = 1.0
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 1.0, 30.0
_AWAY = (httpx.HTTPError, PrefectException, OSError, RuntimeError)

_log = logging.getLogger(__name__)


class Carrier:
    """The runs of one flow service. Used in the event loop that `client` was opened in, where its tasks run."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._carried: dict[str, asyncio.Task[None]] = {}
        self._runs: dict[UUID, asyncio.Task[None]] = {}
        self._over: asyncio.Queue[Move] = asyncio.Queue()

    def carry(self, move: Move) -> None:
        """Begin to carry out what was ordered. Who cannot says nothing: the front end goes on alone soon."""
        if len(self._carried) >= MOST_AT_ONCE or move.move in self._carried:
            _log.warning("the front end carries out the move %s alone: %d are under way", move.move, len(self._carried))
            return
        task = asyncio.create_task(self._carry(move), name=f"move {move.move}")
        self._carried[move.move] = task
        task.add_done_callback(lambda _: self._carried.pop(move.move))

    def close_record(self, move: Move) -> None:
        """The move is over: see to it that Prefect knows what became of it, unless whoever asked for it drove its steps."""
        if move.carrier != CALLER:
            self._over.put_nowait(move)

    async def watch(self) -> Never:
        """End the runs that a person cancels in Prefect."""
        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            if not self._runs:
                continue
            wanted = {"id": {"any_": list(self._runs)}, "state": {"type": {"any_": ["CANCELLING", "CANCELLED"]}}}
            try:
                cancelled = await self._client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted))
            except _AWAY as error:
                _log.debug("Prefect does not say which runs are cancelled: %r", error)
                continue
            for run in cancelled:
                if run.id in self._runs:
                    self._runs.pop(run.id).cancel()

    async def record(self) -> Never:
        """Record what is over, one after the other, each until Prefect has taken it."""
        while True:
            move = await self._over.get()
            if move.move in self._carried:
                await asyncio.wait({self._carried[move.move]})
            backoff_s = _FIRST_BACKOFF_S
            while not await self._is_recorded(move):
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)

    async def close(self) -> None:
        """End all runs; the front end goes on alone with what they carried."""
        tasks = list(self._carried.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry(self, move: Move) -> None:
        try:
            await self._run(move, ORDERED)
        except PrefectAway as error:
            _log.warning("the front end carries out the move %s alone: %s", move.move, error)
        except FlowError as error:
            _log.info("the move %s: %s", move.move, error)
        except _AWAY as error:
            _log.warning("Prefect was away when the move %s went on: %r", move.move, error)

    async def _is_recorded(self, move: Move) -> bool:
        """Record the move unless Prefect knows what became of it. False if Prefect is away."""
        try:
            known = await self._known(move)
            if not any(run.state is not None and run.state.is_final() and not run.state.is_crashed() for run in known):
                await self._end(known)
                await self._run(move, RECORDED)
        except FlowError as error:
            if isinstance(error, PrefectAway):
                return False
            _log.info("the move %s: %s", move.move, error)
        except _AWAY as error:
            _log.debug("the move %s is not recorded yet: %r", move.move, error)
            return False
        return True

    async def _run(self, move: Move, tag: str) -> None:
        """A run of the move's flow in this process. PrefectAway if it does not begin in time."""
        flow, parameters = _BY_GIVEN_NAME[move.kind], _parameters(move)
        name = name_of(flow.name, parameters)
        try:
            async with asyncio.timeout(BEGINS_WITHIN_S):
                run = await self._client.create_flow_run(flow, name, parameters, tags=[tag, _tag(move)])
        except _AWAY as error:
            raise PrefectAway(f"Prefect does not answer ({error!r})") from error
        task = asyncio.current_task()
        assert task is not None
        self._runs[run.id] = task
        try:
            await run_flow_async(flow, flow_run=run, parameters=parameters)
        finally:
            self._runs.pop(run.id, None)

    async def _known(self, move: Move) -> list[FlowRun]:
        wanted = FlowRunFilter.model_validate({"tags": {"all_": [_tag(move)]}})
        return await self._client.read_flow_runs(flow_run_filter=wanted)

    async def _end(self, runs: Iterable[FlowRun]) -> None:
        """Runs whose flow service ended, or that Prefect did not see the end of."""
        for run in runs:
            if run.state is None or not run.state.is_final():
                state: State[Any] = Crashed(
                    message="the end of this run was not seen: another one records what became of the move"
                )
                await self._client.set_flow_run_state(run.id, state, force=True)


def _by_given_name(flow: Flow[..., Any]) -> Flow[..., Any]:
    """The flow, whose runs are not given their name only when they begin: that is one request less until the first step."""
    named = copy.copy(flow)
    named.flow_run_name = None
    return named


_BY_GIVEN_NAME = {kind: _by_given_name(flow) for kind, flow in MOVES.items()}


def _tag(move: Move) -> str:
    return f"move {move.move}"


def _parameters(move: Move) -> dict[str, Any]:
    """What a person would have typed for it, and its name."""
    model, nodes = " ".join(move.models), ", ".join(move.goes_to)
    match move.kind:
        case Kind.CONSOLIDATE:
            return {"model": model, "node": nodes, "move": move.move}
        case Kind.MIGRATE:
            return {"model": model, "node": nodes, "request": move.request, "group": "", "move": move.move}
        case Kind.DRAIN:
            return {"node": move.node, "move": move.move}
