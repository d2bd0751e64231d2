"""The models of the papers: units of their true sizes in 16-bit numbers, by the shapes of their published configurations."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from schedules.facts import Model, Unit

NUMBER_BYTES = 2


@dataclass(frozen=True)
class Shape:
    """Of a decoder: `kv` numbers are kept of a token by each layer for keys, and as many for values. OPT's layers have biases
    and no gate in the feed-forward; Llama's have a gate, Falcon's one norm. `tied`: the output matrix is the embedding."""

    family: str
    layers: int
    hidden: int
    inner: int
    kv: int
    vocabulary: int
    positions: int = 0
    tied: bool = False

    @property
    def layer_numbers(self) -> int:
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * self.kv
        match self.family:
            case "opt":  # four biases of attention, two of the feed-forward, two norms
                return attention + 2 * self.hidden * self.inner + 9 * self.hidden + self.inner
            case "llama":
                return attention + 3 * self.hidden * self.inner + 2 * self.hidden
            case _:
                return attention + 2 * self.hidden * self.inner + 2 * self.hidden


SHAPES: Mapping[str, Shape] = {
    "OPT-2.7B": Shape("opt", 32, 2560, 10240, 2560, 50272, 2050, tied=True),
    "OPT-6.7B": Shape("opt", 32, 4096, 16384, 4096, 50272, 2050, tied=True),
    "OPT-13B": Shape("opt", 40, 5120, 20480, 5120, 50272, 2050, tied=True),
    "Llama-2-7B": Shape("llama", 32, 4096, 11008, 4096, 32000),
    "Llama-2-13B": Shape("llama", 40, 5120, 13824, 5120, 32000),
    "Llama-3-8B": Shape("llama", 32, 4096, 14336, 1024, 128256),
    "Llama-3.1-8B": Shape("llama", 32, 4096, 14336, 1024, 128256),
    "Falcon-7B": Shape("falcon", 32, 4544, 18176, 64, 65024),
    "Qwen3-32B": Shape("llama", 64, 5120, 25600, 1024, 151936),
    "R1-Distill-Qwen-32B": Shape("llama", 64, 5120, 27648, 1024, 152064),
}
"""Qwen3's attention is wider than its hidden state; its layers' numbers are corrected by that below."""
_WIDER = {"Qwen3-32B": 2 * 5120 * (8192 - 5120)}


def model(name: str, called: str = "", kv_bytes_per_token: int | None = None) -> Model:
    """The model, or one of other weights and the same shape that is `called` so."""
    shape, called = SHAPES[name], called or name
    layer_bytes = NUMBER_BYTES * (shape.layer_numbers + _WIDER.get(name, 0))
    embedding_bytes = NUMBER_BYTES * (shape.vocabulary + shape.positions) * shape.hidden
    output = 0 if shape.tied else shape.vocabulary
    sizes = {"embed": embedding_bytes}
    sizes |= {f"layer.{index:04d}": layer_bytes for index in range(shape.layers)}
    sizes |= {"head": NUMBER_BYTES * (output + 1) * shape.hidden}
    units = tuple(Unit(unit, f"{called}/{unit}", size) for unit, size in sizes.items())
    made = Model(called, f"{called}-weights", units, shape.tied, 2 * NUMBER_BYTES * shape.kv * shape.layers)
    return made if kv_bytes_per_token is None else replace(made, kv_bytes_per_token=kv_bytes_per_token)
