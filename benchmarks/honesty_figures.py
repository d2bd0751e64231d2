"""How near a replay comes to what was live: distributions, and cold starts one by one."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.honesty_log import Log
from benchmarks.report import Result
from schedules.fitting.seen import matched
from schedules.simulation.comparing import Comparison, compare
from schedules.simulation.outcomes import Outcomes

FEWEST = 8
"""Requests of a kind that are compared as a distribution."""
TTFT_MEDIAN, TTFT_P95, COLD_START = 0.10, 0.20, 0.15
"""What the errors are to stay below."""

Seconds = NDArray[np.float64]
Which = NDArray[np.bool_]


@dataclass(frozen=True)
class Distribution:
    """Seconds of some requests, live and played, and how far apart they are."""

    name: str
    live_s: Seconds
    played_s: Seconds

    @property
    def compared(self) -> Comparison:
        return compare(self.live_s, self.played_s)


@dataclass(frozen=True)
class Single:
    """Cold starts that were played as such too: TTFT of the request that each was for."""

    seen: int
    live_s: Seconds
    played_s: Seconds

    @property
    def pairs(self) -> int:
        return len(self.live_s)

    @property
    def mae(self) -> float:
        """Mean absolute error, as a share of the mean."""
        return float(np.abs(self.played_s - self.live_s).mean() / self.live_s.mean())

    @property
    def errors(self) -> Seconds:
        """Absolute, each as a share of its own start."""
        found: Seconds = np.abs(self.played_s / self.live_s - 1.0)
        return found


@dataclass(frozen=True)
class Judged:
    """Of one part of the run: `ttft` of all, of cold and of warm requests and by model, time per output token, and single
    cold starts."""

    ttft: tuple[Distribution, ...]
    tpot: Distribution
    single: Single

    @property
    def every(self) -> Comparison:
        """TTFT of all requests."""
        return self.ttft[0].compared


def judge(log: Log, played: Outcomes, since_s: float, until_s: float = float("inf")) -> Judged:
    """Of the requests that came from `since_s` to before `until_s`. ValueError if nothing is there to compare."""
    at_s, live_s, model = log.column("at_s"), log.column("ttft_s"), log.column("model")
    within, cold = (at_s >= since_s) & (at_s < until_s), log.cold
    kinds = [("all requests", within, within), ("cold", within & cold, within & played.cold)]
    kinds.append(("warm", within & ~cold, within & ~played.cold))
    kinds += [(each.name, which := within & (model == place), which) for place, each in enumerate(log.models)]
    ttft = tuple(
        Distribution(name, live_s[live], played.ttft_s[also])
        for name, live, also in kinds
        if min(live.sum(), also.sum()) >= FEWEST
    )
    return Judged(ttft, _tpot(log, played, within), _single(log, played, within))


def _tpot(log: Log, played: Outcomes, within: Which) -> Distribution:
    answers = log.column("answer_tokens")
    several = within & (answers > 1)
    live_s = (log.column("last_s") - log.column("ttft_s"))[several] / (answers[several] - 1)
    return Distribution("time per output token", live_s, played.tpot_s[several])


def _single(log: Log, played: Outcomes, within: Which) -> Single:
    happened = log.happened
    places = [place for place in matched(happened.starts, happened.asked).values() if within[place]]
    both = [place for place in places if played.cold[place]]
    return Single(len(places), log.column("ttft_s")[both], played.ttft_s[both])


def results(judged: Judged) -> list[Result]:
    """The figures that are published."""
    every, single = judged.every, judged.single
    return [
        Result("lab_requests", every.seen, "requests", "higher"),
        Result("lab_ttft_median_error", abs(every.median), "fraction", "lower", TTFT_MEDIAN, "goal"),
        Result("lab_ttft_p95_error", abs(every.p95), "fraction", "lower", TTFT_P95, "goal"),
        Result("lab_ttft_mean_error", abs(every.mean), "fraction", "lower"),
        Result("lab_ttft_p90_error", abs(every.p90), "fraction", "lower"),
        Result("lab_ttft_p99_error", abs(every.p99), "fraction", "lower"),
        Result("lab_ttft_ks", every.ks, "distance", "lower"),
        Result("lab_ttft_ks_p", every.ks_p, "probability", "higher"),
        Result("lab_cold_starts", single.pairs, "starts", "higher"),
        Result("lab_cold_start_mae", single.mae, "fraction", "lower", COLD_START, "goal"),
        Result("lab_cold_start_error_mean", float(single.errors.mean()), "fraction", "lower"),
        Result("lab_cold_start_error_median", float(np.median(single.errors)), "fraction", "lower"),
        Result("lab_tpot_median_error", abs(judged.tpot.compared.median), "fraction", "lower"),
    ]
