"""KV cache on its way from the stages of one group to those of another: what is said at the door of every stage, to whoever
comes with a Hello that is for `kv`.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class KvSource:
    """A stage that has layers [first_layer, end_layer) of a request, which it knows as `slot`; it takes questions at
    `host`:`port` from who knows its group's name and the secret of its door."""

    host: str
    port: int
    group: str
    slot: int
    first_layer: int
    end_layer: int
    secret: str = field(repr=False)


@dataclass(frozen=True)
class PullKv:
    """To the stage that shall have it: fetch the first `tokens` tokens' KV cache of your own layers from `sources`, and keep
    it under the name of `request` until that is followed here, or it is dropped."""

    request: str
    tokens: int
    sources: tuple[KvSource, ...]
    timeout_s: float


@dataclass(frozen=True)
class KvPulled:
    """It is there, so many bytes; with a `fault` it is not, and nothing is kept."""

    request: str
    size_bytes: int
    seconds: float
    fault: str = ""


@dataclass(frozen=True)
class DropKv:
    """Nobody will follow the request here: forget what was pulled for it."""

    request: str


@dataclass(frozen=True)
class AskKv:
    """To the stage that has it: the keys and values of the first `tokens` tokens of `slot`, in layers [first_layer,
    end_layer)."""

    slot: int
    tokens: int
    first_layer: int
    end_layer: int


@dataclass(frozen=True)
class KvHead:
    """What follows, as it lies in memory: for each layer in order keys and then values, each a row of tokens of `key_shape`
    or `value_shape` (KV heads, head dim) and `dtype`, `size_bytes` in all; a `fault` is followed by nothing. Whoever asked is
    cut off if the request is over before all was read."""

    size_bytes: int
    key_shape: tuple[int, ...]
    value_shape: tuple[int, ...]
    dtype: str
    fault: str = ""
