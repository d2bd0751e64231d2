"""A recorded trace for the models of HydraServe's evaluation, as `firsttoken traces import --preset hydraserve` makes it."""

from pathlib import Path

from benchmarks.papers.hydraserve import FIGURE11_CELL
from benchmarks.papers.workload import only_called
from flows.trace_files import take
from schedules.traces.changing import sped, thinned
from schedules.traces.formats import Reading
from schedules.traces.importing import Wishes, made_of
from schedules.traces.lengths import task
from schedules.traces.parsing import Wanting
from schedules.traces.trace import Trace

_SEED = 1


def recorded(file: Path, rate_per_s: float = FIGURE11_CELL.rate_per_s) -> Trace:
    """The models that are called in it. A trace of more requests a second is thinned, one of fewer runs faster."""
    parsed = take(file, Reading(), Wanting("model", task("chat"), 1024, _SEED), lambda _done: None)
    trace = made_of([parsed.trace], Wishes(preset="hydraserve", seed=_SEED), have_models=parsed.has_models)
    has_per_s = len(trace) / trace.duration_s
    if has_per_s > rate_per_s:
        return only_called(thinned(trace, rate_per_s, _SEED))
    return only_called(sped(trace, rate_per_s / has_per_s))
