"""What Prometheus can ask us."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_TTFT_BUCKETS_S = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

_PAUSE_BUCKETS_S = (0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)
_ERROR_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0)


class Metrics:
    """All metrics of one front end."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "firsttoken_requests", "Requests answered, by outcome.", ["model", "outcome"], registry=self.registry
        )
        self.prompt_tokens = Counter(
            "firsttoken_prompt_tokens", "Tokens of prompts taken.", ["model"], registry=self.registry
        )
        self.generated_tokens = Counter(
            "firsttoken_generated_tokens", "Tokens generated.", ["model"], registry=self.registry
        )
        self.ttft = Histogram(
            "firsttoken_ttft_seconds",
            "From a request's arrival to its first token, by whether the model was cold.",
            ["model", "start"],
            buckets=_TTFT_BUCKETS_S,
            registry=self.registry,
        )
        self.cold_starts = Counter(
            "firsttoken_cold_starts", "Groups started for a cold model, by outcome.", ["model", "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self.decisions = Counter(
            "firsttoken_decisions", "Decisions where a cold model starts, by policy and outcome.", ["policy", "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self.prediction_error = Histogram(
            "firsttoken_ttft_prediction_error",
            "How far the predicted time to first token of a cold start was off, as a share of it.",
            buckets=_ERROR_BUCKETS,
            registry=self.registry,
        )
        self.replays = Counter(
            "firsttoken_replays", "Requests continued elsewhere after their group was lost.", ["model"],
            registry=self.registry,
        )  # fmt: skip
        self.moves = Counter(
            "firsttoken_moves", "Moves of replicas and requests, by kind and outcome.", ["kind", "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self.shifts = Counter(
            "firsttoken_shifts", "Requests that were to go on at another group, by outcome.", ["model", "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self.shift_copied_bytes = Counter(
            "firsttoken_shift_copied_bytes", "KV cache that went with requests to other groups.", ["model"],
            registry=self.registry,
        )  # fmt: skip
        self.move_pause = Histogram(
            "firsttoken_move_pause_seconds",
            "From a request's last token at one group to its first at another, by how its KV cache came there.",
            ["model", "kv"],
            buckets=_PAUSE_BUCKETS_S,
            registry=self.registry,
        )
        self.history_dropped = Counter(
            "firsttoken_history_dropped", "Rows of history that were given up.", registry=self.registry
        )
        self.held = Gauge("firsttoken_held_requests", "Requests that wait for a cold model.", registry=self.registry)
        self.running = Gauge("firsttoken_running_requests", "Requests being generated.", registry=self.registry)
        self.nodes = Gauge("firsttoken_nodes", "Nodes connected.", registry=self.registry)
        self.replicas = Gauge("firsttoken_replicas", "Replicas by state.", ["state"], registry=self.registry)

        self.plan_age = Gauge(
            "firsttoken_prewarm_plan_age_seconds", "Since the plan of prewarming that is in force was made; NaN if none is.",
            registry=self.registry,
        )  # fmt: skip
        self.kept_replicas = Gauge(
            "firsttoken_prewarm_kept_replicas", "Replicas that the plan of prewarming has there at least.",
            registry=self.registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
