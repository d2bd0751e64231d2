"""What it takes to move requests and replicas."""

from collections.abc import Sequence

from schedules.estimates import Speeds, copy_s, step_s
from schedules.facts import Model, Placement


def copies(model: Model, to: Placement, tokens: int, speeds: Sequence[Speeds | None]) -> bool:
    """Whether a request of so many tokens is sooner at the stages of `to`, which have these speeds, if its KV cache is copied
    than if it is computed anew from its tokens. As long as nothing is known, it is copied."""
    known = [speed for speed in speeds if speed is not None]
    if len(known) < len(to.stages):
        return True
    copied_s, computed_s = _ways_s(model, to, tokens, known)
    return copied_s <= computed_s


def shift_s(model: Model, to: Placement, tokens: int, speeds: Sequence[Speeds]) -> float:
    """Until a request of so many tokens is taken in there, the faster of both ways."""
    return min(_ways_s(model, to, tokens, speeds))


def _ways_s(model: Model, to: Placement, tokens: int, speeds: Sequence[Speeds]) -> tuple[float, float]:
    """Copied, all stages at once; computed anew, one stage after the other."""
    copied_s, computed_s = 0.0, 0.0
    for stage, speed in zip(to.stages, speeds, strict=True):
        share = (stage.end_layer - stage.first_layer) / model.layers
        copied_s = max(copied_s, copy_s(share * model.kv_bytes_per_token * tokens, speed))
        computed_s += step_s(stage.weight_bytes, tokens, speed)
    return copied_s, computed_s
