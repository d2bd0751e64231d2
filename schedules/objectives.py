"""What an operator wants of a model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Objectives:
    """A model's service level and habits. Without a `ttft_s` its cold starts are as fast as they can be.

    `ttft_s` (time to first token of a cold start) and `tpot_s` (time per output token) hold at the bad end, not in the
    mean. A replica goes `keep_alive_s` after its last request, unless only `min_replicas` are left. Of two models the one
    of the higher `priority` may make the other's idle replicas go. `max_degree` bounds the stages of a cold start.
    """

    ttft_s: float | None
    tpot_s: float | None
    min_replicas: int
    max_replicas: int
    keep_alive_s: float
    priority: int
    max_degree: int
    kv_tokens: int

    def __post_init__(self) -> None:
        if not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            raise ValueError(f"{self.min_replicas} to {self.max_replicas} replicas")
        if self.max_degree < 1 or self.kv_tokens < 1:
            raise ValueError(f"{self.max_degree} stages with {self.kv_tokens} tokens of KV cache")
