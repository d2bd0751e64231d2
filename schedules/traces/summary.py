"""What a trace is like, in figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schedules.traces.trace import TOKENS, Trace

PEAK_WINDOW_S = 60.0
PERCENTILES = (50, 90, 99)
KEEP_ALIVES_S = (60.0, 300.0, 600.0)
_FEWEST_GAPS = 2


class Popular(NamedTuple):
    """A model, and how many of all requests are its."""

    model: str
    requests: int
    share: float


class Spread(NamedTuple):
    """Of one kind of lengths, in tokens."""

    mean: float
    p50: float
    p90: float
    p99: float
    largest: int


@dataclass(frozen=True)
class Summary:
    """Rates in requests a second; the peak is the busiest minute's. A coefficient of variation is of the gaps between
    arrivals: of all, and the median of the models that have at least two gaps. `cold_shares` is by keep-alive in seconds: the
    share of requests whose model was not called for so long, or never before."""

    requests: int
    duration_s: float
    rate_per_s: float
    peak_per_s: float
    models: int
    called: int
    popular: tuple[Popular, ...]
    cv: float | None
    model_cv: float | None
    tokens: Mapping[str, Spread]
    cold_shares: Mapping[float, float]
    targets: int


def summarise(trace: Trace, top: int = 10) -> Summary:
    """The figures of a trace, with its `top` models."""
    calls = np.bincount(trace.model, minlength=len(trace.models))
    gaps_s, model = _own_gaps(trace)
    return Summary(
        requests=len(trace),
        duration_s=trace.duration_s,
        rate_per_s=len(trace) / trace.duration_s if trace.duration_s else 0.0,
        peak_per_s=_peak(trace),
        models=len(trace.models),
        called=int(np.count_nonzero(calls)),
        popular=tuple(
            Popular(trace.models[i], int(calls[i]), float(calls[i] / len(trace))) for i in ranked(trace, top)
        ),
        cv=_cv(np.diff(trace.at_s)),
        model_cv=_model_cv(gaps_s, model, len(trace.models)),
        tokens={name: _spread(getattr(trace, name)) for name in TOKENS} if len(trace) else {},
        cold_shares=_cold_shares(len(trace), gaps_s, calls),
        targets=len(trace.targets),
    )


def ranked(trace: Trace, top: int) -> Sequence[int]:
    """The models that are called most, most first."""
    calls = np.bincount(trace.model, minlength=len(trace.models))
    return [int(i) for i in np.argsort(-calls, kind="stable")[:top] if calls[i]]


def over_time(trace: Trace, bins: int, model: int | None = None) -> NDArray[np.int64]:
    """How many requests, of all models or of one, come in each of as many equal parts of the trace."""
    at_s = trace.at_s if model is None else trace.at_s[trace.model == model]
    part_s = trace.duration_s / bins
    places = np.minimum(at_s / part_s, bins - 1).astype(np.int64) if part_s > 0 else np.zeros(len(at_s), np.int64)
    return np.bincount(places, minlength=bins)


def _own_gaps(trace: Trace) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Seconds between two requests of a model, and whose they are."""
    order = np.argsort(trace.model, kind="stable")
    model = trace.model[order]
    same = model[1:] == model[:-1]
    return np.diff(trace.at_s[order])[same], model[1:][same]


def _peak(trace: Trace) -> float:
    if not len(trace):
        return 0.0
    window_s = min(PEAK_WINDOW_S, trace.duration_s)
    if window_s == 0:
        return 0.0
    busiest = np.bincount((trace.at_s / window_s).astype(np.int64)).max()
    return float(busiest / window_s)


def _cv(gaps_s: NDArray[np.float64]) -> float | None:
    if len(gaps_s) < _FEWEST_GAPS or not gaps_s.any():
        return None
    return float(gaps_s.std() / gaps_s.mean())


def _model_cv(gaps_s: NDArray[np.float64], model: NDArray[np.int32], models: int) -> float | None:
    count = np.bincount(model, minlength=models)
    total = np.bincount(model, gaps_s, minlength=models)
    known = (count >= _FEWEST_GAPS) & (total > 0)
    if not known.any():
        return None
    mean = np.divide(total, count, out=np.zeros(models), where=known)
    variance = np.bincount(model, (gaps_s - mean[model]) ** 2, minlength=models)[known] / count[known]
    return float(np.median(np.sqrt(variance) / mean[known]))


def _spread(lengths: NDArray[np.int32]) -> Spread:
    p50, p90, p99 = (float(value) for value in np.percentile(lengths, PERCENTILES))
    return Spread(float(lengths.mean()), p50, p90, p99, int(lengths.max()))


def _cold_shares(requests: int, gaps_s: NDArray[np.float64], calls: NDArray[np.int64]) -> dict[float, float]:
    if not requests:
        return {}
    first = int(np.count_nonzero(calls))
    return {alive: (first + int(np.count_nonzero(gaps_s > alive))) / requests for alive in KEEP_ALIVES_S}
