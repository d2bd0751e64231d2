"""The front end as one application."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from cluster.encryption import Tls
from schedules.objectives import Objectives
from serving.answers import error_body
from serving.api import Api
from serving.catalog import Catalog
from serving.cold_start import Ledger
from serving.door.bodies import Bodies
from serving.door.connections import MAX_HEADER_BYTES, most_connections, patient_for
from serving.door.guard import Guard
from serving.errors import BadRequest, HistoryError, RequestError, Unavailable
from serving.history import History
from serving.link import ClusterLink
from serving.metrics import Metrics
from serving.origins import OwnPagesOnly
from serving.prompts.processes import TextProcesses
from serving.router import Router, RouterLimits
from serving.schemas import MAX_CHOICES
from storage_tiers.remote import ModelStore, ObjectStore

_log = logging.getLogger(__name__)
_RECALL_S = 2.0
_SHOWN_LETTERS = 200
KEEP_UP_EVERY_S = 5.0


@dataclass(frozen=True)
class FrontendConfig:
    """What a front end is told at its start. `objectives` are those of models that `models` does not name.

    Without `history_url` cold starts are kept in memory only, and arrivals nowhere.
    """

    host: str
    port: int
    scheduler_address: str
    store_url: str
    store_options: Mapping[str, Any] = field(default_factory=dict)
    store_reader: str = "auto"
    policy: str = "planned"
    objectives: Objectives = field(default_factory=Objectives)
    models: Mapping[str, Objectives] = field(default_factory=dict)
    default_max_tokens: int = 1024
    start_timeout_s: float = 120.0
    request_timeout_s: float = 600.0
    max_held_requests: int = 256
    history_url: str = ""
    history_keep_days: float = 90.0
    allowed_hosts: Sequence[str] = ()
    tls: Tls | None = None
    max_choices: int = 128
    max_body_bytes: int = 8 << 20
    client_timeout_s: float = 20.0
    text_timeout_s: float = 10.0


def create_app(config: FrontendConfig) -> FastAPI:
    """The application; its connections live from startup to shutdown."""
    link = ClusterLink(config.scheduler_address, config.tls)
    texts = TextProcesses(config.text_timeout_s)
    store = ModelStore(ObjectStore(config.store_url, config.store_options, config.store_reader))
    catalog = Catalog(store, texts, link.holds)
    metrics = Metrics()
    history = _history(config, metrics)
    ledger = Ledger(on_add=history.add_start if history is not None else None)
    limits = RouterLimits(
        config.policy, config.objectives, config.start_timeout_s, config.max_held_requests, config.models
    )
    router = Router(lambda: link.client, limits, metrics, ledger)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await texts.start()
        link.start()
        loop = asyncio.get_running_loop()
        behind = {loop.create_task(_warm(catalog)), loop.create_task(_keep_up(config, catalog, router))}
        try:
            if history is not None:
                history.start()
                behind.add(recalling := loop.create_task(_recall(history, ledger, router)))
                await asyncio.wait({recalling}, timeout=_RECALL_S)
            yield
        finally:
            for task in behind:
                task.cancel()
            await asyncio.gather(*behind, return_exceptions=True)
            await texts.close()
            await router.close()
            await link.stop()
            if history is not None:
                await history.close()

    app = FastAPI(
        title="firsttoken", summary="Serverless LLM serving that reaches the first token fast", lifespan=lifespan
    )
    on_arrival = history.add_arrival if history is not None else None
    bodies = Bodies(config.max_body_bytes, config.client_timeout_s, {MAX_CHOICES: config.max_choices})
    api = Api(
        link, catalog, router, metrics, ledger, config.default_max_tokens, config.request_timeout_s, bodies, on_arrival
    )
    app.include_router(api.routes)
    app.add_middleware(
        OwnPagesOnly, host=config.host, allowed_hosts=config.allowed_hosts, setting="frontend.allowed_hosts"
    )
    app.add_middleware(Guard)
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    return app


def _history(config: FrontendConfig, metrics: Metrics) -> History | None:
    if not config.history_url:
        return None
    return History(config.history_url, config.history_keep_days, metrics.history_dropped.inc)


async def _recall(history: History, ledger: Ledger, router: Router) -> None:
    """Fill the ledger with what the history knows, as soon as the database is there, and learn from it."""
    await history.prepared.wait()
    try:
        starts = await history.starts(None, ledger.kept)
        ledger.restore(starts)
        router.recall(starts)
    except HistoryError as error:
        _log.warning("earlier cold starts are not shown: %s", error)


async def _check_history(config: FrontendConfig) -> None:
    history = _history(config, Metrics())
    if history is not None:
        try:
            await history.check()
        finally:
            await history.close()


async def _keep_up(config: FrontendConfig, catalog: Catalog, router: Router) -> None:
    """Models that shall always have replicas get them, and get them again when they are lost; why one has none is told
    once."""
    told: dict[str, str] = {}
    while any(wanted.min_replicas for wanted in (config.objectives, *config.models.values())):
        for name in await _kept_up(config, catalog):
            try:
                router.keep_up(await catalog.get(name))
                told.pop(name, None)
            except RequestError as error:
                if told.get(name) != str(error):
                    _log.warning("%s has no replica: %s", name, error)
                told[name] = str(error)
        await asyncio.sleep(KEEP_UP_EVERY_S)


async def _kept_up(config: FrontendConfig, catalog: Catalog) -> list[str]:
    named = [name for name, objectives in config.models.items() if objectives.min_replicas]
    if not config.objectives.min_replicas:
        return named
    try:
        return named + [name for name in await catalog.names() if name not in config.models]
    except Unavailable as error:
        _log.warning("which models shall have replicas is not known: %s", error)
        return named


async def _warm(catalog: Catalog) -> None:
    with suppress(Unavailable):  # told to whoever asks
        await catalog.warm()


async def _on_request_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s is not None else {}
    if error.closes:
        headers["Connection"] = "close"
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    field_name = ".".join(place)[:_SHOWN_LETTERS] or None
    said = str(first["msg"]).removeprefix("Value error, ")
    message = f"{field_name}: {said}" if field_name else said
    return await _on_request_error(request, BadRequest(message, field_name))


async def _on_http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    body = {"message": str(error.detail), "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": body}, status_code=error.status_code, headers=error.headers)


SWITCH_S = 0.001
"""Threads that are at work let the loop go on after so long, a fifth of Python's default: others' tokens wait for it."""


def run_frontend(config: FrontendConfig) -> None:
    """Serve until SIGTERM or SIGINT. HistoryRefused if the history's database is of another version."""
    asyncio.run(_check_history(config))
    sys.setswitchinterval(SWITCH_S)
    server = uvicorn.Config(
        create_app(config),
        host=config.host,
        port=config.port,
        log_level="warning",
        ws="none",
        timeout_graceful_shutdown=5,
        http=patient_for(config.client_timeout_s, config.max_body_bytes, most_connections()),
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )
    uvicorn.Server(server).run()
