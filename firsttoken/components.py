"""Each component alone, in this process, until SIGTERM or SIGINT: what the supervisor, Slurm and Kubernetes start.

Heavy imports stay inside the functions: a process pays only for the component that it is.
"""

import asyncio
import logging
import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from cluster.importing import uncollected
from firsttoken.errors import SettingsError
from firsttoken.home import FLOWS_READY_FILE, urls
from firsttoken.operator_key import operator_key
from firsttoken.ports import check_ports
from firsttoken.prefect_database import begin_with, template
from firsttoken.settings import Settings, environment_name
from firsttoken.settings.types import netloc

if TYPE_CHECKING:
    from cluster.wire.encryption import Tls
    from flows.prewarming.foresight import Foresight
    from schedules.foresight.plan import Budgets
    from schedules.objectives import Objectives

FLOW_CONTEXT_FILE = "flow-context.json"


def prefect_environment(settings: Settings) -> dict[str, str]:
    """What Prefect's server and clients read from the environment, to be set before Prefect is imported."""
    prefect = settings.prefect
    names = dict.fromkeys((prefect.host, "localhost", "127.0.0.1"))
    origins = [f"http://{netloc(name, prefect.port)}" for name in names]
    origins += [f"{scheme}://{name}" for name in prefect.allowed_hosts for scheme in ("http", "https")]
    environment = {
        "PREFECT_HOME": str(settings.home / "prefect"),
        "PREFECT_PROFILE": "ephemeral",
        "PREFECT_API_URL": prefect.api_url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
        "DO_NOT_TRACK": "1",
    }
    if prefect.auth:
        environment |= {"PREFECT_API_AUTH_STRING": prefect.auth, "PREFECT_SERVER_API_AUTH_STRING": prefect.auth}
    return environment


def run_prefect(settings: Settings) -> None:
    """A Prefect server that keeps its data in the home. SettingsError if others reach it and it would ask for no password,
    PortInUse if it cannot listen where it should."""
    from serving.origins import is_loopback

    prefect, environment = settings.prefect, os.environ | prefect_environment(settings)
    if not is_loopback(prefect.host) and not environment.get("PREFECT_SERVER_API_AUTH_STRING"):
        raise SettingsError(
            f"prefect.host is {prefect.host}, which others reach, and whoever reaches Prefect can run commands: set "
            f"prefect.auth ({environment_name('prefect.auth')}) to USER:PASSWORD, the same for all components"
        )
    check_ports(settings, "prefect")
    os.environ |= environment
    folder = settings.home / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    begin_with(template(), folder)
    with uncollected():
        from firsttoken.prefect_server import serve_prefect

    serve_prefect(prefect.host, prefect.port, prefect.allowed_hosts)


def tls_of(settings: Settings) -> "Tls | None":
    """How the parts of the cluster encrypt what they say, if they do. BadCertificate if the files will not do."""
    from cluster.wire.encryption import Tls

    if not settings.cluster.tls_ca:
        return None
    tls = Tls(settings.cluster.tls_ca, settings.cluster.tls_cert, settings.cluster.tls_key)
    tls.check()
    return tls


def run_scheduler(settings: Settings) -> None:
    """The Dask scheduler. PortInUse if it cannot listen where it should."""
    check_ports(settings, "cluster")
    from cluster import scheduler

    _log_to_stderr(settings)
    cluster = settings.cluster
    scheduler.run_scheduler(cluster.host, cluster.scheduler_port, cluster.dashboard_port, tls_of(settings))


def preload_nodes(settings: Settings) -> None:
    """Import what nodes need, for those that are forked from this process. NoDevice if the machine does not have what they
    shall compute on."""
    from cluster.node.main import preload

    _log_to_stderr(settings)
    preload(settings.node.device)


def run_node(settings: Settings, name: str, sharing: int = 1) -> None:
    """A node called `name`: its agent, its tiers and its stage processes. `sharing` nodes have the machine's GPU."""
    from cluster.node import main as node

    _log_to_stderr(settings)
    ssd_dir = settings.home / "nodes" / name / "ssd"
    ssd_dir.mkdir(parents=True, exist_ok=True)
    node.run_node(
        node.NodeConfig(
            name=name,
            scheduler_address=settings.scheduler_address,
            host=settings.cluster.host,
            store_url=settings.store.url,
            store_options=settings.store.options,
            store_reader=settings.store.reader,
            ssd_dir=str(ssd_dir),
            ssd_bytes=settings.node.ssd_bytes,
            dram_bytes=settings.node.dram_bytes,
            device=settings.node.device,
            device_bytes=settings.node.device_bytes,
            pool_size=settings.node.pool_size,
            threads=settings.node.threads or os.cpu_count() or 1,
            fetch_threads=settings.node.fetch_threads,
            network_bytes_per_s=settings.node.network_bytes_per_s,
            dram_ready_bytes=settings.node.dram_ready_bytes,
            use_peers=settings.node.use_peers,
            report_interval_s=settings.node.report_interval_s,
            tls=tls_of(settings),
            gpu="",  # found out where it runs
            sharing=sharing,
            grace_s=settings.node.grace_s,
        )
    )


def objectives_of(settings: Settings, model: str | None) -> "Objectives":
    """What is wanted of a model by its settings; None for models without any of their own.

    SettingsError if they contradict one another.
    """
    from schedules.objectives import Objectives

    wanted = settings.frontend.model_dump()
    if model is not None:
        wanted |= settings.models[model].model_dump(exclude_none=True)
    try:
        return Objectives(
            ttft_s=wanted["ttft_slo_s"] or None,
            tpot_s=wanted["tpot_slo_s"] or None,
            min_replicas=wanted["min_replicas"],
            max_replicas=wanted["max_replicas"],
            keep_alive_s=wanted["keep_alive_s"],
            priority=wanted["priority"],
            max_degree=wanted["degree"],
            kv_tokens=wanted["kv_tokens"],
        )
    except ValueError as error:
        where = "frontend" if model is None else f"models.{model}"
        raise SettingsError(f"{where}: {error}: max_replicas must be at least min_replicas") from error


def run_frontend(settings: Settings) -> None:
    """The HTTP front end. PortInUse if it cannot listen where it should."""
    check_ports(settings, "frontend")
    with uncollected():
        from serving import app

    _log_to_stderr(settings)
    frontend, where = settings.frontend, urls(settings)
    app.run_frontend(
        app.FrontendConfig(
            host=frontend.host,
            port=frontend.port,
            scheduler_address=settings.scheduler_address,
            store_url=settings.store.url,
            store_options=settings.store.options,
            store_reader=settings.store.reader,
            policy=frontend.policy,
            objectives=objectives_of(settings, None),
            models={name: objectives_of(settings, name) for name in settings.models},
            default_max_tokens=frontend.default_max_tokens,
            start_timeout_s=frontend.start_timeout_s,
            request_timeout_s=frontend.request_timeout_s,
            max_held_requests=frontend.max_held_requests,
            max_held_per_model=frontend.max_held_per_model,
            history_url=settings.history.url,
            history_keep_days=settings.history.keep_days,
            history_keep_minutes_days=settings.history.keep_minutes_days,
            allowed_hosts=frontend.allowed_hosts,
            tls=tls_of(settings),
            max_choices=frontend.max_choices,
            max_body_bytes=frontend.max_body_bytes,
            client_timeout_s=frontend.client_timeout_s,
            text_timeout_s=frontend.text_timeout_s,
            generation_config=frontend.generation_config,
            cors_origins=frontend.cors_origins,
            consolidate=frontend.consolidate,
            operator_key=operator_key(settings),
            links={"Prefect UI": where["prefect"], "Dask dashboard": where["dask"]},
        )
    )


def budgets_of(settings: Settings) -> "Budgets":
    """What a plan of prewarming may use."""
    from schedules.foresight.plan import Budgets

    told = settings.prewarm.model_dump()
    return Budgets(
        **{each.name: told[each.name] for each in fields(Budgets)} | {"moved_bytes": told["moved_bytes"] or None}
    )


def foresight_of(settings: Settings) -> "Foresight":
    """How the platform looks ahead. SettingsError if objectives contradict one another."""
    from flows.prewarming.foresight import ALL, Foresight

    prewarm = settings.prewarm
    return Foresight(
        every_s=prewarm.every_s,
        horizon_s=prewarm.horizon_s,
        history_s=prewarm.history_s,
        forecaster=prewarm.forecaster,
        budgets=budgets_of(settings),
        models=prewarm.models,
        objectives={ALL: objectives_of(settings, None)}
        | {name: objectives_of(settings, name) for name in settings.models},
    )


def prepare_flows(settings: Settings) -> None:
    """Let flows in this process find Prefect, the cluster, the store and the front end; call it before they are imported."""
    os.environ |= prefect_environment(settings)
    from flows.context import CONTEXT_VARIABLE, FlowContext, write_context

    context_path = settings.run_dir / FLOW_CONTEXT_FILE
    store = settings.store
    context = FlowContext(
        scheduler_address=settings.scheduler_address,
        store_url=store.url,
        store_options=store.options,
        store_reader=store.reader,
        tls=tls_of(settings),
        front_end_url=settings.frontend_url,
        operator_key=operator_key(settings),
        plans_dir=str(settings.plans_dir),
        foresight=foresight_of(settings),
    )
    write_context(context, context_path)
    os.environ[CONTEXT_VARIABLE] = str(context_path)


def run_flows(settings: Settings) -> None:
    """The flow service. It writes a file into the run folder once its flows are registered with Prefect."""
    prepare_flows(settings)
    with uncollected():
        from flows.context import read_context
        from flows.service import ServiceConfig, run_service
    from schedules.foresight.cadence import BACKTEST, CALIBRATE, PLAN, PREWARM, REAP, cadences

    _log_to_stderr(settings)
    prewarm = settings.prewarm
    when: dict[str, float | str] = {
        PREWARM: prewarm.every_s,
        REAP: settings.reap.every_s,
        BACKTEST: settings.backtest.cron,
        CALIBRATE: settings.calibrate.every_s,
        PLAN: settings.planning.every_s,
    }
    config = ServiceConfig(
        front_end=read_context().front_end(),
        cadences=cadences({flow: told for flow, told in when.items() if told}),
        parameters={PREWARM: {"models": list(prewarm.models), "tier": prewarm.tier}, PLAN: _plan_parameters(settings)},
    )
    ready = settings.run_dir / FLOWS_READY_FILE
    ready.unlink(missing_ok=True)
    asyncio.run(run_service(config, on_ready=ready.touch))


def _plan_parameters(settings: Settings) -> dict[str, Any]:
    """Models are planned for as they are served; and for what was asked of late, unless somebody says otherwise."""
    frontend, planning = settings.frontend, settings.planning
    served = {"keep_alive": f"{frontend.keep_alive_s:g}s", "degree": frontend.degree, "kv_tokens": frontend.kv_tokens}
    return {**served, **({"trace": "history"} if planning.every_s else {}), "node_types": planning.node_types}


def _log_to_stderr(settings: Settings) -> None:
    logging.basicConfig(
        level=settings.logging.level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
