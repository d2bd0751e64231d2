"""The flow service: registers every flow as a deployment with Prefect and runs what is due, each run a process; moves that
the front end orders are runs in this one.

It knows the server may be away: it keeps trying, and nothing that serves requests depends on it.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException
from prefect.runner import Runner

from flows.backtest import backtest
from flows.bring import bring
from flows.calibrate import calibrate
from flows.carrying import MOVES
from flows.front_end import FrontEnd
from flows.listening import listening
from flows.plan_capacity import plan_capacity
from flows.prewarm import prewarm
from flows.publish import publish
from flows.reap import reap
from flows.registering import DEPLOYMENT, register
from schedules.foresight.cadence import Cadence

FLOWS: Mapping[str, Flow[..., Any]] = {
    "publish": publish,
    "bring": bring,
    "prewarm": prewarm,
    "reap": reap,
    "backtest": backtest,
    "calibrate": calibrate,
    "plan_capacity": plan_capacity,
    **{kind.value: flow for kind, flow in MOVES.items()},
}
_LONGEST_BACKOFF_S = 30.0
_COMES_UP_WITHIN_S, _ASK_EVERY_S = 30.0, 0.1
_STOP_WITHIN_S = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServiceConfig:
    """Whose moves are carried out, when flows run, the parameters of their scheduled runs by flow, and how often due runs are
    looked for."""

    front_end: FrontEnd
    cadences: Sequence[Cadence]
    parameters: Mapping[str, Mapping[str, Any]]
    query_interval_s: float = 2.0
    concurrent_runs: int = 4


async def run_service(config: ServiceConfig, on_ready: Callable[[], None] = lambda: None) -> None:
    """Serve the flows until SIGTERM or SIGINT, calling `on_ready` once they are registered.

    While Prefect's server is away, tries again with a growing pause. The flows' processes inherit this one's
    environment, which must name Prefect's API and the flow context.
    """
    with listening(config.front_end):
        await _serve(config, asyncio.Event(), on_ready)


async def _serve(config: ServiceConfig, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
    _on_signals(stop)
    await _come_up(stop)
    backoff_s = 1.0
    while not stop.is_set():
        try:
            await _serve_once(config, stop, on_ready)
            backoff_s = 1.0
        except (httpx.HTTPError, PrefectException, RuntimeError, OSError) as error:
            _log.warning("no use of Prefect (%s: %s), again in %.0f s", type(error).__name__, error, backoff_s)
            _on_signals(stop)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff_s):
                    await stop.wait()
            backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)


async def _come_up(stop: asyncio.Event) -> None:
    """Until Prefect's server answers, which as a rule comes up beside this service; not for long."""
    async with get_client() as client:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_COMES_UP_WITHIN_S):
                while not stop.is_set() and await client.api_healthcheck() is not None:  # noqa: ASYNC110 it is elsewhere
                    await asyncio.sleep(_ASK_EVERY_S)


async def _serve_once(config: ServiceConfig, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
    _on_signals(stop)
    runner = Runner(
        name=DEPLOYMENT, query_seconds=config.query_interval_s, limit=config.concurrent_runs, pause_on_shutdown=False
    )
    async with get_client() as client:
        for cadence in config.cadences:
            flow, parameters = FLOWS[cadence.flow], config.parameters.get(cadence.flow, {})
            await register(runner, client, flow, cadence, parameters)
    serving = asyncio.create_task(runner.start())
    await asyncio.sleep(0)  # the runner has now set a SIGTERM handler of its own, which is replaced
    _on_signals(stop)
    on_ready()
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            await _stop(runner)
            await _end(serving)
        else:
            with contextlib.suppress(asyncio.CancelledError):
                await serving
    finally:
        stopping.cancel()


async def _stop(runner: Runner) -> None:
    """Cancel what runs and say so to Prefect, as far as its server answers in time."""
    try:
        async with asyncio.timeout(_STOP_WITHIN_S):
            await runner.astop()
    except (TimeoutError, RuntimeError, httpx.HTTPError) as error:
        _log.warning("Prefect does not know of the runs that end with this service: %s", repr(error))


async def _end(serving: "asyncio.Task[None]") -> None:
    """The runner may take one cancellation for its own, and then wait for a server that is gone."""
    for _ in range(int(_STOP_WITHIN_S)):
        serving.cancel()
        if (await asyncio.wait({serving}, timeout=1.0))[0]:
            break
    if serving.done() and not serving.cancelled() and (error := serving.exception()) is not None:
        _log.warning("the runner of Prefect ended with %s", repr(error))


def _on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
