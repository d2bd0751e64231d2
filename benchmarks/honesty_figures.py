"""How near a replay comes to what was live: distributions, and cold starts one by one."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.honesty_log import Log
from benchmarks.report import Result
from schedules.fitting.seen import Began, matched
from schedules.placing.decision import NETWORK
from schedules.simulation.comparing import Comparison, compare
from schedules.simulation.outcomes import Outcomes

FEWEST = 8
"""Requests of a kind that are compared as a distribution."""
TTFT_MEDIAN, TTFT_P95, COLD_START = 0.10, 0.20, 0.15
"""What the errors are to stay below."""

Seconds = NDArray[np.float64]


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
    """Cold starts that were played as such too: TTFT of the request that each was for. Of those, the `alike` had as many
    stages both times, and waited for bytes over the network both times or neither time: what is left is how long that took,
    and not what was decided."""

    seen: int
    live_s: Seconds
    played_s: Seconds
    alike_live_s: Seconds
    alike_played_s: Seconds

    @property
    def pairs(self) -> int:
        return len(self.live_s)

    @property
    def mae(self) -> float:
        """Mean absolute error of the alike, as a share of their mean."""
        return _mae(self.alike_live_s, self.alike_played_s)

    @property
    def mae_of_all(self) -> float:
        """The same of all that were cold both times."""
        return _mae(self.live_s, self.played_s)

    @property
    def errors(self) -> Seconds:
        """Of the alike, absolute, each as a share of its own start."""
        found: Seconds = np.abs(self.alike_played_s / self.alike_live_s - 1.0)
        return found


def _mae(live_s: Seconds, played_s: Seconds) -> float:
    return float(np.abs(played_s - live_s).mean() / live_s.mean())


@dataclass(frozen=True)
class Judged:
    """`ttft` of all, of cold and of warm requests and by model, time per output token, and single
    cold starts."""

    ttft: tuple[Distribution, ...]
    tpot: Distribution
    single: Single

    @property
    def every(self) -> Comparison:
        """TTFT of all requests."""
        return self.ttft[0].compared


def judge(log: Log, played: Outcomes) -> Judged:
    """ValueError if nothing is there to compare."""
    live_s, model = log.column("ttft_s"), log.column("model")
    cold = np.array([bool(each.cold) for each in log.replayed.asked])
    every = np.ones(len(live_s), np.bool_)
    kinds = [("all requests", every, every), ("cold", cold, played.cold), ("warm", ~cold, ~played.cold)]
    kinds += [(each.name, which := model == place, which) for place, each in enumerate(log.models)]
    ttft = tuple(
        Distribution(name, live_s[live], played.ttft_s[also])
        for name, live, also in kinds
        if min(live.sum(), also.sum()) >= FEWEST
    )
    return Judged(ttft, _tpot(log, played), _single(log, played))


def _tpot(log: Log, played: Outcomes) -> Distribution:
    answers = log.column("answer_tokens")
    several = answers > 1
    live_s = (log.column("last_s") - log.column("ttft_s"))[several] / (answers[several] - 1)
    return Distribution("time per output token", live_s, played.tpot_s[several])


def _single(log: Log, played: Outcomes) -> Single:
    happened, live_s = log.replayed, log.column("ttft_s")
    places = matched(happened.starts, happened.asked)
    both = {start: place for start, place in places.items() if played.cold[place]}
    alike = [
        place for start, place in both.items() if _kind(happened.starts[start]) == _played_kind(log, played, place)
    ]
    cold = list(both.values())
    return Single(len(places), live_s[cold], played.ttft_s[cold], live_s[alike], played.ttft_s[alike])


def _kind(start: Began) -> tuple[int, bool]:
    """Of how many stages it is, and whether its first token waited for bytes over the network."""
    waited = [fetch for fetch in start.fetches if fetch.size_bytes and fetch.ended_s - start.arrived_s <= start.ttft_s]
    return start.degree, any(fetch.source in ("remote", "peer") for fetch in waited)


def _played_kind(log: Log, played: Outcomes, place: int) -> tuple[int, bool] | None:
    sent = log.trace[place]
    of_model = [each for each in played.starts if each.model == sent.model and each.arrived_s is not None]
    nearest = min(of_model, key=lambda each: abs((each.arrived_s or 0.0) - sent.at_s), default=None)
    return None if nearest is None else (nearest.degree, nearest.whence == NETWORK)


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
        Result("lab_cold_starts", single.seen, "starts", "higher"),
        Result("lab_cold_starts_alike", len(single.alike_live_s), "starts", "higher"),
        Result("lab_cold_start_mae", single.mae, "fraction", "lower", COLD_START, "goal"),
        Result("lab_cold_start_mae_of_all", single.mae_of_all, "fraction", "lower"),
        Result("lab_cold_start_error_mean", float(single.errors.mean()), "fraction", "lower"),
        Result("lab_cold_start_error_median", float(np.median(single.errors)), "fraction", "lower"),
        Result("lab_tpot_median_error", abs(judged.tpot.compared.median), "fraction", "lower"),
    ]
