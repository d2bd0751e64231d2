"""Requests that nobody has sent, from a recipe."""

from dataclasses import dataclass, replace
from math import isfinite

import numpy as np

from schedules.traces.changing import truncated, with_lengths
from schedules.traces.errors import BadWish
from schedules.traces.lineup import Served, popularity
from schedules.traces.renewals import arrivals_within
from schedules.traces.trace import LONGEST_S, MOST_REQUESTS, Provenance, Seconds, Trace, in_order

DAY_S = 86_400.0


@dataclass(frozen=True)
class Recipe:
    """The models share `rate_per_s` by Zipf's law of that `skew`, the first of them the most popular. Each has gamma gaps of
    that `cv` of its own, as in AlpaServe.

    `wave` from 0 to 1 is how far the rate swings around its mean in a day, lowest at the begin. Over and above the rate
    `daily` more models get one call a day each, at a time of their own, and `bursts` times one of the models, by chance,
    gets `burst_requests` within `burst_s`.
    """

    lineup: tuple[Served, ...]
    rate_per_s: float
    duration_s: float
    cv: float = 1.0
    skew: float = 1.0
    wave: float = 0.0
    daily: int = 0
    bursts: int = 0
    burst_requests: int = 50
    burst_s: float = 10.0
    max_prompt_tokens: int | None = None
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        if not 0 < self.duration_s <= LONGEST_S:
            raise BadWish(f"a trace lasts up to {LONGEST_S / DAY_S:,.0f} days, not {self.duration_s:g} s")
        if not (isfinite(self.rate_per_s) and self.rate_per_s > 0):
            raise BadWish(f"{self.rate_per_s:g} requests a second are no rate")
        days = self.duration_s / DAY_S + 1
        requests = self.rate_per_s * self.duration_s + self.daily * days + self.bursts * self.burst_requests
        if requests > MOST_REQUESTS:
            raise BadWish(f"{requests:,.0f} requests are more than a trace can have ({MOST_REQUESTS:,})")
        if not (0 <= self.wave <= 1 and 0 <= self.skew <= 10):
            raise BadWish(f"a wave is from 0 to 1 and a skew from 0 to 10, not {self.wave:g} and {self.skew:g}")
        if min(self.daily, self.bursts) < 0 or self.burst_requests < 1 or not 0 <= self.burst_s < LONGEST_S:
            raise BadWish("bursts and daily models are counted from 0, and a burst has a request at least")


def synthesise(recipe: Recipe, seed: int, source: str = "made up") -> Trace:
    """The trace of a recipe; the same for the same seed. It has the recipe's rate exactly."""
    rng = np.random.default_rng(seed)
    lineup = recipe.lineup + tuple(
        Served(f"daily-{i:0{len(str(recipe.daily - 1))}}", recipe.lineup[i % len(recipe.lineup)].task)
        for i in range(recipe.daily)
    )
    parts = [_steady(recipe, rng), _once_a_day(recipe, rng), *(_burst(recipe, rng) for _ in range(recipe.bursts))]
    at_s = np.concatenate([arrivals for arrivals, _ in parts])
    model = np.concatenate([models for _, models in parts])
    ones = np.ones(len(at_s), np.int32)
    names = [served.name for served in lineup]
    trace = in_order(at_s, (model, ones, ones, ones), names, recipe.duration_s, Provenance(source, (), seed))
    trace = with_lengths(trace, [served.task for served in lineup], recipe.max_tokens, seed + 1)
    if recipe.max_prompt_tokens is not None:
        trace = truncated(trace, recipe.max_prompt_tokens)
    targets = tuple(served.target for served in lineup) if any(any(served.target) for served in lineup) else ()
    return replace(trace, targets=targets, provenance=Provenance(source, (_words(recipe),), seed))


_Part = tuple[Seconds, "np.ndarray[tuple[int], np.dtype[np.int32]]"]


def _steady(recipe: Recipe, rng: np.random.Generator) -> _Part:
    """All models until there are as many requests as wanted, in the time that is theirs then, laid over the day's wave."""
    wanted = max(1, round(recipe.rate_per_s * recipe.duration_s))
    shares = popularity(len(recipe.lineup), recipe.skew)
    length = 1.0 + 2.0 * max(recipe.cv, 1.0) / wanted**0.5
    while True:
        each = [arrivals_within(length, wanted * share, recipe.cv, rng) for share in shares]
        if sum(map(len, each)) > wanted:
            break
        length *= 1.5
    place = np.concatenate(each)
    model = np.repeat(np.arange(len(each), dtype=np.int32), list(map(len, each)))
    order = np.argsort(place, kind="stable")
    end = place[order[wanted]]
    order = order[:wanted]
    return _waved(place[order] / end, recipe), model[order]


def _waved(share: Seconds, recipe: Recipe) -> Seconds:
    """Seconds at which those shares of all requests have come."""
    if recipe.wave == 0:
        return share * recipe.duration_s
    grid_s = np.linspace(0.0, recipe.duration_s, max(1000, int(recipe.duration_s / 60)))
    come = grid_s - recipe.wave * np.sin(2 * np.pi * grid_s / DAY_S) * DAY_S / (2 * np.pi)
    at_s: Seconds = np.interp(share * come[-1], come, grid_s)
    return at_s


def _once_a_day(recipe: Recipe, rng: np.random.Generator) -> _Part:
    days = int(np.ceil(recipe.duration_s / DAY_S))
    at_s = np.add.outer(np.arange(days) * DAY_S, rng.random(recipe.daily) * DAY_S)
    model = np.broadcast_to(np.arange(recipe.daily, dtype=np.int32) + len(recipe.lineup), at_s.shape)
    within = at_s < recipe.duration_s
    return at_s[within], model[within]


def _burst(recipe: Recipe, rng: np.random.Generator) -> _Part:
    length_s = min(recipe.burst_s, recipe.duration_s)
    at_s = rng.random() * (recipe.duration_s - length_s) + rng.random(recipe.burst_requests) * length_s
    return at_s, np.full(recipe.burst_requests, rng.integers(len(recipe.lineup)), np.int32)


def _words(recipe: Recipe) -> str:
    words = [f"{recipe.rate_per_s:g} requests a second for {recipe.duration_s:g} s", f"CV {recipe.cv:g}"]
    words.append(f"{len(recipe.lineup)} models with a skew of {recipe.skew:g}")
    words += [f"a wave of {recipe.wave:g}"] if recipe.wave else []
    words += [f"models called once a day: {recipe.daily}"] if recipe.daily else []
    words += [f"bursts of {recipe.burst_requests} in {recipe.burst_s:g} s: {recipe.bursts}"] if recipe.bursts else []
    return ", ".join(words)
