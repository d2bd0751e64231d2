"""Checkpoints that describe models whose bytes are nowhere: what a cluster in memory needs of one."""

from blake3 import blake3

from schedules.facts import Model, Unit
from storage_tiers.checkpoint import Checkpoint, TensorSpec, UnitIndex, lay_out, unit_names

VOCABULARY = 256


def described(name: str, layers: int = 4, unit_bytes: int = 10 << 20) -> Checkpoint:
    """Of units that no other model has."""
    layout = lay_out([TensorSpec("weight", "float32", (unit_bytes // 4,))])
    units = tuple(
        UnitIndex(unit, f"_1/{unit}", _digest(f"{name} {unit}"), layout, (0,) * layout.chunks)
        for unit in unit_names(layers)
    )
    return Checkpoint(name, "_1", _digest(name), {"vocab_size": VOCABULARY}, {}, "float32", False, units, ())


def facts(checkpoint: Checkpoint) -> Model:
    """The model as placement sees it."""
    units = tuple(Unit(unit.name, unit.digest, unit.size_bytes) for unit in checkpoint.units)
    return Model(checkpoint.name, checkpoint.digest, units, checkpoint.tied_embeddings, 1000)


def _digest(text: str) -> str:
    return blake3(text.encode()).hexdigest()
