"""Models that nobody has published here, by the shapes of their configurations: what their weights and KV cache take."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from schedules.capacity.errors import BadQuestion
from schedules.facts import Model, Unit, Widths

NUMBER_BYTES = 2
"""Weights and KV cache are in bfloat16."""


@dataclass(frozen=True)
class Shape:
    """Of a decoder as Llama's: gated feed-forward, two norms a layer. `kv_heads` of `head_dim` numbers each keep keys, and as
    many values; with `biased` attention queries, keys and values have a bias. `tied`: the output matrix is the embedding."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int
    head_dim: int = 128
    biased: bool = False
    tied: bool = False

    @property
    def attention(self) -> int:
        """Numbers of queries, keys and values of a token together."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def layer_numbers(self) -> int:
        """Weights of one layer."""
        attention = self.hidden * (self.attention + self.heads * self.head_dim) + self.biased * self.attention
        return attention + 3 * self.hidden * self.inner + 2 * self.hidden

    def model(self, name: str) -> Model:
        """A model of this shape that shares no weights with others."""
        embedding, head = self.vocabulary * self.hidden, self.hidden * (1 if self.tied else self.vocabulary + 1)
        numbers = {"embed": embedding}
        numbers |= {f"layer.{index:04d}": self.layer_numbers for index in range(self.layers)}
        numbers |= {"head": head}
        units = tuple(Unit(unit, f"{name}/{unit}", NUMBER_BYTES * count) for unit, count in numbers.items())
        kv_bytes = 2 * NUMBER_BYTES * self.layers * self.kv_heads * self.head_dim
        widths = Widths(self.hidden, self.inner, self.attention, self.vocabulary, NUMBER_BYTES)
        return Model(name, f"{name}/weights", units, self.tied, kv_bytes, rows_first=True, widths=widths)


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "llama-3.2-1b": Shape(16, 2048, 8192, 32, 8, 128256, head_dim=64, tied=True),
        "llama-3.2-3b": Shape(28, 3072, 8192, 24, 8, 128256, tied=True),
        "llama-3.1-8b": Shape(32, 4096, 14336, 32, 8, 128256),
        "llama-3.1-70b": Shape(80, 8192, 28672, 64, 8, 128256),
        "llama-3.1-405b": Shape(126, 16384, 53248, 128, 8, 128256),
        "llama-2-7b": Shape(32, 4096, 11008, 32, 32, 32000),
        "llama-2-13b": Shape(40, 5120, 13824, 40, 40, 32000),
        "mistral-7b": Shape(32, 4096, 14336, 32, 8, 32768),
        "qwen2.5-7b": Shape(28, 3584, 18944, 28, 4, 152064, biased=True),
        "qwen2.5-14b": Shape(48, 5120, 13824, 40, 8, 152064, biased=True),
        "qwen2.5-32b": Shape(64, 5120, 27648, 40, 8, 152064, biased=True),
        "qwen2.5-72b": Shape(80, 8192, 29568, 64, 8, 152064, biased=True),
    }
)
"""By the published configurations."""
SIZES: Mapping[str, str] = MappingProxyType(
    {
        "1b": "llama-3.2-1b",
        "3b": "llama-3.2-3b",
        "7b": "llama-2-7b",
        "8b": "llama-3.1-8b",
        "13b": "llama-2-13b",
        "14b": "qwen2.5-14b",
        "32b": "qwen2.5-32b",
        "70b": "llama-3.1-70b",
        "405b": "llama-3.1-405b",
    }
)
"""What a size alone stands for."""


def shape(name: str) -> Shape:
    """By its name or its size, in letters of any case. BadQuestion says which there are."""
    key = name.lower()
    found = SHAPES.get(SIZES.get(key, key))
    if found is None:
        raise BadQuestion(
            f"nobody knows how large {name!r} is: give a published model, {', '.join(SHAPES)}, or {', '.join(SIZES)}"
        )
    return found
