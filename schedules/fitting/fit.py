"""A world fitted to what happened: rates from what was seen of each, what no formula has from playing it again.

Rates are fitted first. Then the history is played with them; what the requests that waited for nothing still took longer than
played, in the median, passes on the way to the brain and back, and what starts took beyond that is their tail.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

import numpy as np

from schedules.estimates import speeds_of
from schedules.fitting.errors import TooLittle
from schedules.fitting.fitted import HOP, RECEIVE, STEP, TAIL, Fitted, Quality, Quantity, Whence
from schedules.fitting.rating import FEWEST, rated
from schedules.fitting.replaying import Ground, Replay, replay
from schedules.fitting.robust import Summed, sum_up
from schedules.fitting.samples import Sample, hops, samples, steps
from schedules.fitting.seen import Happened

FEWEST_STARTS = 9
FITTED_SHARE = 2 / 3
"""Of the starts, the first ones, by which what is fitted is judged on the others."""
MOST_S = 60.0
"""Neither the way to the brain nor a tail is longer."""


def fit(happened: Happened, ground: Ground) -> Fitted:
    """The world of all that happened, and how good one is that knows the first part alone. Models and nodes that are not
    there any more are left out. TooLittle says what is missing."""
    known = _known(happened, ground)
    cut_s = known.starts[ceil(len(known.starts) * FITTED_SHARE)].arrived_s
    reported = Fitted(ground.nodes, ground.habits)
    first = fit_all(known.part(known.since_s, cut_s), ground)
    before, after = (replay(world, known, ground).after(cut_s) for world in (reported, first))
    requests = len(known.part(cut_s, known.until_s).asked)
    quality = Quality(cut_s, known.until_s, requests, before, after)
    return replace(fit_all(known, ground), quality=quality)


def _known(happened: Happened, ground: Ground) -> Happened:
    """What of it can be played."""
    slow = [node.name for node in ground.nodes if speeds_of(node.rates, bad=False) is None]
    if not ground.nodes or slow:
        what = f"node {slow[0]} has not measured how fast it is yet" if slow else "there is no node"
        raise TooLittle(f"{what}: `firsttoken calibrate` has all of them do it")
    names = {node.name for node in ground.nodes}
    known = happened.of(ground.models)
    known = replace(known, starts=tuple(start for start in known.starts if set(start.nodes) <= names))
    if len(known.starts) < FEWEST_STARTS or not known.asked:
        others = len(happened.starts) - len(known.starts)
        gone = f", and {others} more on nodes or of models that are gone" if others else ""
        raise TooLittle(
            f"the history has {len(known.starts)} cold starts{gone} in the {_span(happened)}: a fit takes at least "
            f"{FEWEST_STARTS}, two thirds of them to learn from and the rest to judge by"
        )
    return known


def fit_all(happened: Happened, ground: Ground) -> Fitted:
    """The world of all that happened, and no word on how good it is."""
    machines = {node.name: node.shared_with for node in ground.nodes}
    step, told_step = _of_all(STEP, steps(happened, ground.models), ground.habits.step_s, Whence.OWN)
    nodes, quantities = rated(ground.nodes, samples(happened, ground.models, machines, step))
    speeds = {node.name: known for node in nodes if (known := speeds_of(node.rates, bad=False)) is not None}
    hop, told_hop = _of_all(HOP, hops(happened, ground.models, speeds, step), ground.habits.hop_s, Whence.OWN)
    world = Fitted(nodes, replace(ground.habits, step_s=step, hop_s=hop))
    played = replay(world, happened, ground)
    receive, told_receive = _of_all(RECEIVE, _warm(played), 0.0, Whence.PLAYED)
    tail, told_tail = _of_all(TAIL, _cold(played, receive), 0.0, Whence.PLAYED)
    startups = {node.name: replace(ground.system.startup, tail_s=tail) for node in nodes}
    told = (*quantities, told_step, told_hop, told_receive, told_tail)
    source = f"{len(happened.starts)} cold starts and {len(happened.asked)} requests of {_span(happened)}"
    return Fitted(nodes, replace(world.habits, receive_s=receive), startups, told, source=source)


def _warm(played: Replay) -> list[Sample]:
    """What requests took longer than they were played, that waited for no start either way."""
    warm = ~played.seen_cold & ~played.played_cold & ~np.isnan(played.seen_s) & ~np.isnan(played.played_s)
    return _missing(played, np.flatnonzero(warm).tolist())


def _cold(played: Replay, receive_s: float) -> list[Sample]:
    """What starts took longer than they were played, beyond what every request does; of those that were decided as they had
    been, if there are enough."""
    both = [place for place in sorted(played.starts) if played.played_cold[place]]
    alike = [place for place in both if place in played.alike]
    both = alike if len(alike) >= FEWEST else both
    found = [sample for sample in _missing(played, both) if np.isfinite(sample.value)]
    return [sample._replace(value=sample.value - receive_s) for sample in found]


def _missing(played: Replay, places: Sequence[int]) -> list[Sample]:
    seen_s = [played.starts.get(place, played.seen_s[place]) for place in places]
    return [
        Sample(float(played.at_s[place]), float(seen - played.played_s[place]))
        for place, seen in zip(places, seen_s, strict=True)
    ]


def _of_all(name: str, found: Sequence[Sample], otherwise: float, whence: Whence) -> tuple[float, Quantity]:
    """Within what can be; of too few samples nothing is said."""
    if len(found) < FEWEST:
        return otherwise, Quantity("", name, otherwise, None, Whence.REPORTED)
    summed = sum_up(found)
    value = min(MOST_S, max(0.0, summed.value))
    return value, Quantity("", name, value, None, whence, summed.samples, summed.outliers, _spread(summed, value))


def _spread(summed: Summed, value: float) -> float:
    return (summed.high - summed.low) / value if value else 0.0


def _span(happened: Happened) -> str:
    hours = (happened.until_s - happened.since_s) / 3600
    return f"{hours:,.1f} hours" if hours < 72 else f"{hours / 24:,.1f} days"
