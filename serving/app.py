"""The front end as one application."""

import asyncio
import logging
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from cluster.wire.encryption import Tls
from schedules.objectives import Objectives
from serving.answering.telling import TOLD_HEADERS
from serving.api import Api
from serving.catalog import Catalog
from serving.cold_start import ColdStart, Ledger
from serving.collecting import collect_seldom, keep_what_is_there
from serving.door.bodies import Bodies
from serving.door.connections import MAX_HEADER_BYTES, most_connections, patient_for
from serving.door.handlers import add_handlers
from serving.door.methods import Methods
from serving.door.unexpected import Guard
from serving.embedding.preparing import EmbeddingPreparer
from serving.embedding.routes import Embeddings
from serving.errors import HistoryError
from serving.history.history import History
from serving.history.kept_requests import KeptRequests
from serving.link import ClusterLink
from serving.metrics import Metrics
from serving.moving.moves import KEPT as KEPT_MOVES
from serving.moving.notices import Notices
from serving.moving.operators import Operators
from serving.origins import LOCAL_ORIGINS, LOCAL_PAGE, OwnPagesOnly
from serving.pages.front import FrontPage
from serving.pages.reference import Reference
from serving.prewarming.routes import PlanRoutes
from serving.prompts.processes import TextProcesses
from serving.requests.preparing import Preparer
from serving.requests.schemas import MAX_CHOICES
from serving.router import Router, RouterLimits
from serving.torchless import refuse_torch
from serving.upkeep import Upkeep, warm
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore

_log = logging.getLogger(__name__)
_RECALL_S = 2.0


@dataclass(frozen=True)
class FrontendConfig:
    """What a front end is told at its start. `objectives` are those of models that `models` does not name.

    Without `history_url` cold starts and moves are kept in memory only, and arrivals nowhere; without `operator_key` nobody
    is an operator. `links` are what else a person may look at, by name.
    """

    host: str
    port: int
    scheduler_address: str
    store_url: str
    store_options: Mapping[str, Any]
    store_reader: str
    policy: str
    objectives: Objectives
    models: Mapping[str, Objectives]
    default_max_tokens: int
    start_timeout_s: float
    request_timeout_s: float
    max_held_requests: int
    max_held_per_model: int
    history_url: str
    history_keep_days: float
    history_keep_minutes_days: float
    allowed_hosts: Sequence[str]
    tls: Tls | None
    max_choices: int
    max_body_bytes: int
    client_timeout_s: float
    text_timeout_s: float
    generation_config: str
    cors_origins: Sequence[str]
    consolidate: bool
    operator_key: str = field(repr=False)
    links: Mapping[str, str]


def create_app(config: FrontendConfig, on_warm: Callable[[], None] = lambda: None) -> FastAPI:
    """The application; its connections live from startup to shutdown. `on_warm` is called once all models are opened."""
    link = ClusterLink(config.scheduler_address, config.tls, lambda event: router.hear(event))
    texts = TextProcesses(config.text_timeout_s)
    store = ModelStore(ObjectStore(config.store_url, config.store_options, config.store_reader))
    catalog = Catalog(store, texts, link.holds)
    metrics = Metrics()
    history = _history(config, metrics)
    notices = Notices()

    def on_start(start: ColdStart) -> None:
        notices.tell("cold_start", cold_start=start.as_json())
        if history is not None:
            history.add_start(start)

    ledger = Ledger(on_add=on_start)
    limits = RouterLimits(
        config.policy, config.objectives, config.start_timeout_s, config.max_held_requests,
        config.max_held_per_model, config.models, config.consolidate,
    )  # fmt: skip
    on_move = history.add_move if history is not None else None
    router = Router(lambda: link.client, limits, metrics, ledger, catalog.get, notices, on_move)
    upkeep = Upkeep(catalog, router, config.objectives, config.models)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await texts.start()
        link.start()
        loop = asyncio.get_running_loop()
        behind = {loop.create_task(_warm(catalog, on_warm)), loop.create_task(upkeep.run())}
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
        title="firsttoken", summary="Serverless LLM serving that reaches the first token fast", lifespan=lifespan,
        docs_url=None, redoc_url=None,
    )  # fmt: skip
    on_arrival = history.add_arrival if history is not None else None
    bodies = Bodies(config.max_body_bytes, config.client_timeout_s, {MAX_CHOICES: config.max_choices})
    preparer = Preparer(catalog, router, config.default_max_tokens, config.generation_config == "model")
    api = Api(link, catalog, router, metrics, ledger, preparer, config.request_timeout_s, bodies, on_arrival)
    app.include_router(api.routes)
    app.include_router(FrontPage(link, catalog, router, config.links).routes)
    app.include_router(Reference(app.title, "/openapi.json").routes)
    embedder = EmbeddingPreparer(catalog, router)
    app.include_router(Embeddings(embedder, router, metrics, config.request_timeout_s, bodies, on_arrival).routes)
    app.include_router(KeptRequests(history).routes)
    app.include_router(PlanRoutes(router.plans, bodies, config.operator_key).routes)
    app.include_router(Operators(link, catalog, router, bodies, config.operator_key).routes)
    app.state.before_shutdown = router.let_go
    _add_door(app, config)
    add_handlers(app)
    return app


def _add_door(app: FastAPI, config: FrontendConfig) -> None:
    """What requests pass, the last one first: a page that is refused reads nothing, one that may ask reads also errors."""
    app.add_middleware(Guard)
    app.add_middleware(Methods, routes=app.routes)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[origin for origin in config.cors_origins if origin != LOCAL_ORIGINS],
            allow_origin_regex=LOCAL_PAGE if LOCAL_ORIGINS in config.cors_origins else None,
            allow_methods=["GET", "HEAD", "POST", "OPTIONS"],
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=["Retry-After", *TOLD_HEADERS],
        )
    app.add_middleware(
        OwnPagesOnly,
        host=config.host,
        allowed_hosts=config.allowed_hosts,
        setting="frontend.allowed_hosts or frontend.cors_origins",
        allowed_origins=config.cors_origins,
    )


def _history(config: FrontendConfig, metrics: Metrics) -> History | None:
    if not config.history_url:
        return None
    return History(
        config.history_url,
        config.history_keep_days,
        metrics.history_dropped.inc,
        keep_minutes_days=config.history_keep_minutes_days,
    )


async def _warm(catalog: Catalog, on_warm: Callable[[], None]) -> None:
    await warm(catalog)
    on_warm()


async def _recall(history: History, ledger: Ledger, router: Router) -> None:
    """Fill the ledger with what the history knows, as soon as the database is there, and learn from it."""
    await history.prepared.wait()
    try:
        starts = await history.starts(None, ledger.kept)
        ledger.restore(starts)
        router.recall(starts)
        router.moves.restore(await history.moves(KEPT_MOVES))
    except HistoryError as error:
        _log.warning("earlier cold starts and moves are not shown: %s", error)


async def _check_history(config: FrontendConfig) -> None:
    history = _history(config, Metrics())
    if history is not None:
        try:
            await history.check()
        finally:
            await history.close()


SWITCH_S = 0.001
"""Threads that are at work let the loop go on after so long, a fifth of Python's default: others' tokens wait for it."""


def run_frontend(config: FrontendConfig) -> None:
    """Serve until SIGTERM or SIGINT. HistoryRefused if the history's database is of another version."""
    refuse_torch()
    asyncio.run(_check_history(config))
    sys.setswitchinterval(SWITCH_S)
    collect_seldom()
    app = create_app(config, keep_what_is_there)
    server = uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        log_level="warning",
        ws="none",
        timeout_graceful_shutdown=5,
        http=patient_for(config.client_timeout_s, config.max_body_bytes, most_connections()),
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )
    _Server(server, app.state.before_shutdown).run()


class _Server(uvicorn.Server):
    """Lets go of those who listen without end before it waits for answers to be over."""

    def __init__(self, config: uvicorn.Config, before_shutdown: Callable[[], None]) -> None:
        super().__init__(config)
        self._before_shutdown = before_shutdown

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._before_shutdown()
        await super().shutdown(sockets)
