"""A trace as what a simulated brain is fed with."""

from collections.abc import Iterator, Mapping

from schedules.facts import ModelKey
from schedules.simulation.simulate import Arrival
from schedules.traces.errors import BadWish
from schedules.traces.trace import COLUMNS, Trace

_AT_ONCE = 10_000


def arrivals(
    trace: Trace, keys: Mapping[str, ModelKey], start_s: float = 0.0, patience_s: float = float("inf")
) -> Iterator[Arrival]:
    """Each request when its time comes, the trace beginning at `start_s`; they are named by their places, and are held no
    longer than `patience_s`. BadWish at once for a model that has no key."""
    for name in trace.models:
        if name not in keys:
            raise BadWish(f"no published model stands for {name!r} of the trace")
    return _arrivals(trace, [keys[name] for name in trace.models], start_s, patience_s)


def _arrivals(trace: Trace, keys: list[ModelKey], start_s: float, patience_s: float) -> Iterator[Arrival]:
    for begin in range(0, len(trace), _AT_ONCE):
        columns = (getattr(trace, name)[begin : begin + _AT_ONCE].tolist() for name in COLUMNS)
        for i, (at_s, model, prompt, answer, most) in enumerate(zip(*columns, strict=True), begin):
            yield Arrival(start_s + at_s, f"r{i}", keys[model], prompt, most, answer, start_s + at_s + patience_s)
