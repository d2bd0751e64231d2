"""What processes are told, with plain values: a test names only what it is about."""

from dataclasses import replace
from typing import Any

from cluster.node.config import NodeConfig
from schedules.foresight.plan import Budgets
from schedules.objectives import Objectives
from serving.app import FrontendConfig

_OBJECTIVES = Objectives(
    ttft_s=None,
    tpot_s=None,
    min_replicas=0,
    max_replicas=1,
    keep_alive_s=300.0,
    priority=0,
    max_degree=4,
    kv_tokens=16384,
)
_BUDGETS = Budgets(
    dram_share=0.9,
    ssd_share=0.9,
    device_share=0.25,
    link_share=0.5,
    moved_bytes=None,
    least_saved_s=0.0,
    least_saved_device_s=0.0,
)
_FRONTEND = FrontendConfig(
    host="127.0.0.1",
    port=0,
    scheduler_address="tcp://127.0.0.1:1",
    store_url="",
    store_options={},
    store_reader="auto",
    policy="planned",
    objectives=_OBJECTIVES,
    models={},
    default_max_tokens=1024,
    start_timeout_s=120.0,
    request_timeout_s=600.0,
    max_held_requests=1024,
    max_held_per_model=256,
    history_url="",
    history_keep_days=90.0,
    history_keep_minutes_days=180.0,
    allowed_hosts=(),
    tls=None,
    max_choices=128,
    max_body_bytes=8 << 20,
    client_timeout_s=20.0,
    text_timeout_s=10.0,
    generation_config="model",
    cors_origins=(),
    consolidate=False,
    operator_key="",
    links={},
)
_NODE = NodeConfig(
    name="node",
    scheduler_address="tcp://127.0.0.1:1",
    store_url="",
    ssd_dir="",
    ssd_bytes=2 << 30,
    dram_bytes=1 << 30,
    device_bytes=4 << 30,
    device="cpu",
    host="127.0.0.1",
    store_options={},
    store_reader="auto",
    pool_size=1,
    threads=1,
    fetch_threads=8,
    network_bytes_per_s=0,
    dram_ready_bytes=16 << 20,
    report_interval_s=1.0,
    use_peers=True,
    tls=None,
    gpu="",
    sharing=1,
    grace_s=0.0,
)


def objectives_of(**wanted: Any) -> Objectives:
    """Up to four stages, one replica that stays five minutes, no service level; but for what is `wanted`."""
    return replace(_OBJECTIVES, **wanted)


def frontend_config(**told: Any) -> FrontendConfig:
    """A front end on loopback that finds no cluster, in front of the store at `store_url`, and whose pipelines stay what they
    are; but for what it is `told`."""
    return replace(_FRONTEND, **told)


def node_config(**told: Any) -> NodeConfig:
    """A node on loopback that computes on one core; but for what it is `told`."""
    return replace(_NODE, **told)


def budgets_of(**changed: Any) -> Budgets:
    """Of plans of prewarming."""
    return replace(_BUDGETS, **changed)
