"""Every setting, with its default and its meaning, as one frozen value.

docs/settings.md says the same in prose, and a test compares the two.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from firsttoken.settings.types import (
    Auth,
    BytesPerSecond,
    ClusterHost,
    Count,
    Cron,
    Days,
    Device,
    Folder,
    HistoryUrl,
    Horizon,
    Host,
    Interval,
    Key,
    Level,
    Names,
    Options,
    Origins,
    ParseJson,
    Port,
    Priority,
    Seconds,
    SecondsOrZero,
    Share,
    Size,
    SizeOrZero,
    Text,
    Timeout,
    Tokens,
    netloc,
)


class Section(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StoreSettings(Section):
    url: Text = Field(default="", description="fsspec URL of the model store; empty means the folder `store` in `home`")
    options: Options = Field(
        default={},
        repr=False,
        description="options of the store's file system (endpoint, credentials), handed on as they are",
    )
    reader: Literal["auto", "fsspec", "direct"] = Field(
        default="auto",
        description="how nodes read units: `fsspec`, `direct` (faster, S3 only), or `auto` for the faster one there is",
    )


class ClusterSettings(Section):
    nodes: Count = Field(default=4, ge=1, le=64, description="nodes that `firsttoken up` starts on this machine")
    host: ClusterHost = Field(
        default="127.0.0.1", description="address that the scheduler and this machine's nodes listen on"
    )
    scheduler_host: ClusterHost = Field(default="127.0.0.1", description="address at which the scheduler is reached")
    scheduler_port: Port = Field(default=8786, description="the scheduler's port")
    dashboard_port: Port = Field(default=8787, description="port of the Dask dashboard")
    tls_ca: Text = Field(
        default="",
        description="file of the authority whose certificates the parts of a cluster show each other; with it they speak "
        "TLS and let nobody else in",
    )
    tls_cert: Text = Field(default="", description="file of this machine's certificate")
    tls_key: Text = Field(default="", description="file of the key of that certificate, without a password")


class NodeSettings(Section):
    ssd_bytes: Size = Field(default=20 * 10**9, description="how much a node keeps on its SSD")
    dram_bytes: Size = Field(default=2 << 30, description="how much a node keeps in memory for its stages to map")
    device: Device = Field(
        default="auto",
        description="what stages compute on: `cpu`, `cuda` (the first GPU), `cuda:N`, or `auto` for a GPU where there is one",
    )
    device_bytes: SizeOrZero = Field(
        default=0,
        description="memory of that device for stages and, on a GPU, the processes that wait; 0 means all of a GPU, between "
        "the nodes that `firsttoken up` starts, and 4 GiB on a CPU",
    )
    pool_size: Count = Field(default=1, le=64, description="stage processes that wait, ready to take a stage")
    threads: Count = Field(default=0, le=1024, description="threads a stage computes with on a CPU; 0 means all cores")
    fetch_threads: Count = Field(
        default=8,
        ge=1,
        le=256,
        description="threads that fetch units on a node; over a slow network fewer of them read at once",
    )
    network_bytes_per_s: BytesPerSecond = Field(
        default=0,
        description="bytes a second that a node takes in from the store and from other nodes together, held to in software: "
        "for rehearsals and demonstrations; 0 sets no limit",
    )
    dram_ready_bytes: Size = Field(
        default=256 << 20, description="free memory of a node that is made real ahead of its use by a load"
    )
    use_peers: bool = Field(
        default=True, description="whether nodes fetch units from one another before they ask the store"
    )
    report_interval_s: Seconds = Field(default=1.0, ge=0.05, le=60, description="seconds between two reports of a node")
    grace_s: SecondsOrZero = Field(
        default=25.0,
        le=3600,
        description="seconds that a node which SIGTERM asks to end waits for its stages to move elsewhere; 0 ends it at once",
    )


class FrontendSettings(Section):
    host: Host = Field(default="127.0.0.1", description="address that the API listens on")
    port: Port = Field(default=8000, description="the API's port")
    allowed_hosts: Names = Field(
        default=(),
        description="names by which the API may be called beside its address, and sites whose pages may call it; empty means "
        "`localhost` where it listens on loopback, any name elsewhere",
    )
    cors_origins: Origins = Field(
        default=("local",),
        description="origins (`https://app.example`) whose pages may call the API and read its answers; `local` for pages "
        "that programs of the browser's own machine serve, `*` for all pages",
    )
    operator_key: Key = Field(
        default="",
        repr=False,
        description="key that operators and the flow service show the API to move replicas and drain nodes; empty means one "
        "that is made in `<home>/operator.key`",
    )
    policy: Literal["planned", "fixed", "hydraserve", "serverlessllm"] = Field(
        default="planned",
        description="the rule by which cold models are placed: `planned` (ours), `fixed` (always the largest degree that "
        "fits), or that of `hydraserve` or `serverlessllm`, for comparison",
    )
    degree: Count = Field(default=4, ge=1, le=256, description="a cold model is spread over up to that many nodes")
    ttft_slo_s: SecondsOrZero = Field(
        default=0.0,
        description="seconds in which a cold start shall give its first token, nine times of ten: the cheapest way that "
        "does is taken; 0 takes the fastest",
    )
    tpot_slo_s: SecondsOrZero = Field(
        default=0.0, description="seconds that an output token may take, nine times of ten; 0 sets no bound"
    )
    min_replicas: Count = Field(
        default=0, le=1000, description="replicas that are up even if nobody calls (of each model)"
    )
    max_replicas: Count = Field(
        default=1,
        ge=1,
        le=1000,
        description="most replicas of a model; another is started when the others' KV cache is short",
    )
    priority: Priority = Field(
        default=0, description="replicas of models of lower or equal priority make room for a model"
    )
    kv_tokens: Tokens = Field(
        default=16384, ge=16, description="tokens of KV cache that a replica has for all its requests together"
    )
    default_max_tokens: Tokens = Field(
        default=1024, description="tokens that a chat answer may have when the request does not say"
    )
    generation_config: Literal["model", "none"] = Field(
        default="model",
        description="how tokens are drawn where a request does not say: as the model's generation_config.json has it "
        "(`model`), or as OpenAI does (`none`)",
    )
    consolidate: bool = Field(
        default=True,
        description="whether pipelines become whole replicas, and replicas move out of the way, without being asked to",
    )
    keep_alive_s: Seconds = Field(default=300.0, description="seconds a replica stays up after its last request")
    start_timeout_s: Timeout = Field(
        default=120.0, description="seconds a cold start may take before its requests fail"
    )
    request_timeout_s: Timeout = Field(
        default=600.0, description="seconds a request may take from arrival to last token"
    )
    max_held_requests: Count = Field(
        default=1024, ge=1, description="requests that may wait for replicas before more are refused"
    )
    max_held_per_model: Count = Field(default=256, ge=1, description="how many of them may be of one model")
    max_choices: Count = Field(
        default=128, ge=1, le=10_000, description="answers that one request may ask for, its prompts times its `n`"
    )
    max_body_bytes: Size = Field(default=8 << 20, description="how large the body of a request may be")
    client_timeout_s: Timeout = Field(
        default=20.0, description="seconds that a client may take to send a request, its headers and then its body"
    )
    text_timeout_s: Timeout = Field(
        default=10.0,
        description="seconds that making a request's prompts into tokens may take; a chat template gets a fifth of it",
    )


class ModelSettings(Section):
    """What one model has otherwise than `frontend` says for all; None leaves it at that."""

    degree: Count | None = Field(default=None, ge=1, le=256)
    kv_tokens: Tokens | None = Field(default=None, ge=16)
    keep_alive_s: Seconds | None = None
    ttft_slo_s: SecondsOrZero | None = None
    tpot_slo_s: SecondsOrZero | None = None
    min_replicas: Count | None = Field(default=None, le=1000)
    max_replicas: Count | None = Field(default=None, ge=1, le=1000)
    priority: Priority | None = None


Models = Annotated[dict[Text, ModelSettings], ParseJson]


class HistorySettings(Section):
    url: HistoryUrl = Field(
        default="",
        repr=False,
        description="database of arrivals and cold starts, `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/DATABASE`; "
        "empty means SQLite in `<home>/history.db`",
    )
    keep_days: Days = Field(default=90, description="days after which what is kept there is removed")
    keep_minutes_days: Days = Field(
        default=180, description="days after which it is removed how much came for each model in which minute"
    )


class PrefectSettings(Section):
    host: Host = Field(default="127.0.0.1", description="address of the Prefect server")
    port: Port = Field(default=4200, description="the Prefect server's port")
    auth: Auth = Field(
        default="",
        repr=False,
        description="`USER:PASSWORD` that the Prefect server asks for; a server that others reach must have one, and "
        "`firsttoken up` makes one then",
    )
    allowed_hosts: Names = Field(
        default=(), description="names by which the Prefect server may be called, as `frontend.allowed_hosts`"
    )

    @property
    def api_url(self) -> str:
        """Where clients reach the server's API."""
        return f"http://{netloc(self.host, self.port)}/api"


class PrewarmSettings(Section):
    every_s: Interval = Field(
        default=300.0, description="seconds between two runs of the prewarm flow; 0 means only when asked"
    )
    horizon_s: Horizon = Field(
        default=900.0, le=86400, description="seconds that a forecast looks ahead, and a plan with it"
    )
    history_s: Horizon = Field(default=14 * 86400.0, description="seconds of the past that a forecast looks at")
    forecaster: Text = Field(
        default="chosen",
        description="how it is forecast who will be called: a method of docs/forecast.md, or `chosen` for the one that the "
        "past shows to be the best for each model",
    )
    dram_share: Share = Field(default=0.9, description="share of each node's dram that a plan fills")
    ssd_share: Share = Field(default=0.9, description="share of each node's ssd that a plan fills")
    device_share: Share = Field(
        default=0.25, description="share of each node's accelerator that replicas have which nobody has asked for yet"
    )
    link_share: Share = Field(
        default=0.5, description="share of the time of a link that staging takes until what it stages is needed"
    )
    moved_bytes: SizeOrZero = Field(
        default=0, description="how much a plan moves over networks at most; 0 means as much as fits"
    )
    least_saved_s: SecondsOrZero = Field(
        default=0.0,
        description="seconds of cold starts that a GiB of dram must save in an hour, or it is not filled ahead",
    )
    least_saved_device_s: SecondsOrZero = Field(
        default=0.0,
        description="seconds of cold starts that a GiB of an accelerator must save in an hour, or no replica is there ahead",
    )
    models: Names = Field(
        default=(), description="models that every run brings to every node, whatever is forecast for them"
    )
    tier: Literal["ssd", "dram"] = Field(default="ssd", description="tier that those models are brought to")


class ReapSettings(Section):
    every_s: Interval = Field(
        default=3600.0, description="seconds between two runs of the reap flow; 0 means only when asked"
    )


class BacktestSettings(Section):
    cron: Cron = Field(
        default="30 3 * * *",
        description="when the backtest flow runs, in UTC: minute, hour, day, month and weekday as in a line of cron; empty "
        "means only when asked",
    )


class CalibrateSettings(Section):
    every_s: Interval = Field(
        default=86400.0, description="seconds between two runs of the calibrate flow; 0 means only when asked"
    )


class PlanningSettings(Section):
    every_s: Interval = Field(
        default=0.0,
        description="seconds between two runs of the plan_capacity flow, which then plans for what was asked in the last "
        "week; 0 means only when asked",
    )
    node_types: Text = Field(
        default="",
        description="machines that may be had and what an hour of each costs, unless a run says otherwise: "
        "`h100=4.10,cluster=1.50`",
    )


class LoggingSettings(Section):
    level: Level = Field(
        default="info",
        description="least severe messages that are logged; `debug` in the environment also makes commands show tracebacks",
    )


class Settings(Section):
    """All settings. Once loaded `home` is absolute, ``~`` is expanded, `store.url` and `history.url` are not empty."""

    home: Folder = Field(default=Path("~/.firsttoken"), description="folder for everything kept on this machine")
    store: StoreSettings = StoreSettings()
    cluster: ClusterSettings = ClusterSettings()
    node: NodeSettings = NodeSettings()
    frontend: FrontendSettings = FrontendSettings()
    models: Models = Field(
        default={},
        description="by name of a model, what it has otherwise than `frontend` says for all: `degree`, `kv_tokens`, "
        "`keep_alive_s`, `ttft_slo_s`, `tpot_slo_s`, `min_replicas`, `max_replicas`, `priority`",
    )
    history: HistorySettings = HistorySettings()
    prefect: PrefectSettings = PrefectSettings()
    prewarm: PrewarmSettings = PrewarmSettings()
    reap: ReapSettings = ReapSettings()
    backtest: BacktestSettings = BacktestSettings()
    calibrate: CalibrateSettings = CalibrateSettings()
    planning: PlanningSettings = PlanningSettings()
    logging: LoggingSettings = LoggingSettings()

    @property
    def scheduler_address(self) -> str:
        """Where nodes, front end and flows find the scheduler."""
        scheme = "tls" if self.cluster.tls_ca else "tcp"
        return f"{scheme}://{netloc(self.cluster.scheduler_host, self.cluster.scheduler_port)}"

    @property
    def frontend_url(self) -> str:
        """Where the API answers."""
        return f"http://{netloc(self.frontend.host, self.frontend.port)}"

    @property
    def run_dir(self) -> Path:
        """Files that live as long as a running platform."""
        return self.home / "run"

    @property
    def plans_dir(self) -> Path:
        """What capacity plans were made of, and what was written of them."""
        return self.home / "plans"

    @property
    def logs_dir(self) -> Path:
        """One log per component."""
        return self.home / "logs"


def sections() -> dict[str, type[Section]]:
    """The sections of Settings by name."""
    found = {name: field.annotation for name, field in Settings.model_fields.items()}
    return {name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, Section)}


def setting_names() -> Iterator[str]:
    """Every setting as it is written, ``section.key``."""
    for name in Settings.model_fields:
        kind = sections().get(name)
        yield from ([name] if kind is None else [f"{name}.{key}" for key in kind.model_fields])
