"""The flow service's ear at the front end: orders become runs at once, all that is told becomes Prefect's events.

It lives in a thread with an event loop of its own: in the main thread a run would take signals over, and nothing that
Prefect's runner does there may hold a move up.
"""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Never

from prefect.context import AsyncClientContext
from prefect.settings import PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED, temporary_settings

from flows import events
from flows.carrying import Carrier
from flows.errors import FlowError, Unintelligible
from flows.front_end import FrontEnd
from flows.moving.moves import Move, read_move

_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.2, 5.0
_ORDERS_REMEMBERED = 1024
_ENDS_WITHIN_S = 4.0

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def listening(front_end: FrontEnd) -> Iterator[threading.Thread]:
    """Listen until the block ends, with Prefect or without. Moves that are under way then are left to the front end."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(_listen(front_end))
    thread = threading.Thread(target=_run, args=(loop, task), name="moves", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        with contextlib.suppress(RuntimeError):  # it has ended
            loop.call_soon_threadsafe(task.cancel)
        thread.join(_ENDS_WITHIN_S)


def _run(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[None]") -> None:
    asyncio.set_event_loop(loop)
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()


async def _listen(front_end: FrontEnd) -> None:
    """All that the thread does. What goes wrong unforeseen is logged, and it begins anew."""
    while True:
        try:
            with temporary_settings({PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False}):  # the server may be away
                async with AsyncClientContext() as prefect:
                    await _serve(front_end, Carrier(prefect.client), events.Outbox(prefect.client))
        except Exception:
            _log.exception("what listens to the front end begins anew")
            await asyncio.sleep(_LONGEST_BACKOFF_S)


async def _serve(front_end: FrontEnd, carrier: Carrier, outbox: events.Outbox) -> None:
    ear = Ear(carrier, outbox)
    try:
        async with asyncio.TaskGroup() as tasks:
            for work in (ear.listen(front_end), carrier.watch(), carrier.record(), outbox.deliver()):
                tasks.create_task(work)
    finally:
        await carrier.close()


class Ear:
    """Hears what the front end tells, and hands it on."""

    def __init__(self, carrier: Carrier, outbox: events.Outbox) -> None:
        self._carrier = carrier
        self._outbox = outbox
        self._ordered: deque[str] = deque(maxlen=_ORDERS_REMEMBERED)
        """Moves whose order has been told to Prefect."""

    async def listen(self, front_end: FrontEnd) -> Never:
        """Keep a stream of notices open, again and again."""
        backoff_s, complaint = _FIRST_BACKOFF_S, ""
        while True:
            try:
                async for told in front_end.notices():
                    backoff_s, complaint = _FIRST_BACKOFF_S, ""
                    self.hear(told)
            except FlowError as error:
                if str(error) != complaint:
                    complaint = str(error)
                    _log.warning("no word from the front end: %s", complaint)
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)

    def hear(self, told: Mapping[str, Any]) -> None:
        """Act on one notice. Those that are not understood are logged and passed over."""
        try:
            match told.get("notice"):
                case "order":
                    self._on_order(read_move(told.get("move")))
                case "move":
                    self._on_end(read_move(told.get("move")))
                case "cold_start":
                    self._outbox.add([events.of_cold_start(told.get("cold_start") or {})])
                case "node":
                    self._outbox.add([events.of_node(told, datetime.now(UTC))])
        except Unintelligible as error:
            _log.warning("%s", error)

    def _on_order(self, move: Move) -> None:
        self._carrier.carry(move)
        self._tell_order(move)

    def _on_end(self, move: Move) -> None:
        self._tell_order(move)
        self._outbox.add([events.of_end(move)])
        self._carrier.close_record(move)

    def _tell_order(self, move: Move) -> None:
        """Once: a move that nobody else carried out is told of at its end alone."""
        if move.move not in self._ordered:
            self._ordered.append(move.move)
            self._outbox.add([events.of_order(move)])
