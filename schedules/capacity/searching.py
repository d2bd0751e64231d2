"""The search for the cheapest cluster that attains a goal.

It goes in rounds. What is tried in one follows from what became of those before, never from who was quicker: the answer is
the same whatever is done at once, and in whatever order it is told.

First the fewest machines of each type alone are looked for, each number by bracketing; what costs as much as what attains
already is not tried. Then machines of another type are put in the place of some of the best. Of what was found its neighbours
with one machine fewer are tried until they all miss, then less dram and ssd, clusters around it for the curve, and at last
what else would be, and what binds.
"""

from collections.abc import Iterable, Iterator, Mapping
from math import floor

from schedules.capacity.answering.binding import binding_jobs, binding_sentence
from schedules.capacity.answering.settings import settings_of
from schedules.capacity.answering.verdict import sentence_of, why_lost
from schedules.capacity.answering.what_ifs import FEWER, what_if, what_if_jobs
from schedules.capacity.answering.words import machines_in_words, percent
from schedules.capacity.bounds import enough_machines, fewest_machines, lost_anyway
from schedules.capacity.checking import check, notes_of
from schedules.capacity.clusters import Cluster
from schedules.capacity.lines import Line
from schedules.capacity.plan import Plan, WhatIf
from schedules.capacity.question import PlanQuestion
from schedules.capacity.search import Job, Resource
from schedules.capacity.spoken import inputs_of
from schedules.capacity.trial import Trial
from schedules.capacity.tried import EPSILON, Tried

MOST_JOBS = 60
"""In all."""
_FOR_LATER = {"neighbours": 0.4, "shares": 0.35, "curve": 0.25, "end": 0.0}
"""Which share of them is kept for what comes after each part of the search."""
_AT_ONCE = 4
"""So many trials of a round are useful at least, if there are so many to think of."""
_PARTNERS = 2
_CURVE_PRICES = 8
_KNEE, _AROUND = 2, (-1, 1, -2, 2, -3, 3, -4, 4, 6, -6, 8)
"""Machines more or fewer; those up to _KNEE are of interest in any case."""
_WHAT = ("dram", "ssd")


class Search:
    """See the module, and schedules.capacity.search. BadQuestion at once if there is no answer."""

    def __init__(self, question: PlanQuestion, most_jobs: int = MOST_JOBS) -> None:
        check(question)
        self._question, self._most_jobs = question, most_jobs
        self._types = {kind.name: kind for kind in question.choices.types}
        self._lost = lost_anyway(question)
        self._tried = Tried(question.attainment, question.choices.types)
        self._known: dict[str, Trial] = {}
        self._plain: dict[str, tuple[float, float]] = {}
        self._binding: Mapping[Resource, Job] = {}
        self._what_ifs: Mapping[str, Job] = {}
        self._cut = False
        self._to_ask: list[Job] = []
        self._asked: dict[str, Job] = {}
        self._to_come = 0
        self._plan: Plan | None = None
        self._rounds = self._search()
        self._next_round()

    def ask(self, at_most: int) -> list[Job]:
        """See Searches."""
        given, self._to_ask = self._to_ask[: max(0, at_most)], self._to_ask[max(0, at_most) :]
        self._asked |= {job.name: job for job in given}
        return given

    def tell(self, job: Job, trial: Trial) -> None:
        """See Searches. ValueError if nobody asked for it, or it was told already."""
        if self._asked.pop(job.name, None) is None:
            raise ValueError(f"nobody asked for {job.name!r}")
        if job.name in self._plain:
            self._tried.add(trial)
        self._known[job.name] = trial
        if not self._to_ask and not self._asked:
            self._next_round()

    @property
    def done(self) -> bool:
        """See Searches."""
        return self._plan is not None

    @property
    def progress(self) -> tuple[int, int]:
        """See Searches."""
        under_way = len(self._to_ask) + len(self._asked)
        return len(self._known), len(self._known) + under_way + self._to_come

    def plan(self) -> Plan:
        """See Searches."""
        if self._plan is None:
            raise ValueError("the search is not over")
        return self._plan

    # ---- rounds

    def _next_round(self) -> None:
        """Unless it is over, and the plan made."""
        self._to_ask = next(self._rounds, [])
        if not self._to_ask:
            self._plan = self._planned()

    def _search(self) -> Iterator[list[Job]]:
        """Each round's jobs, of which none is empty and none there twice."""
        if self._is_hopeless:
            yield from self._round(self._some(), "end")
            return
        alone = self._alone()
        yield from self._refine(alone)
        yield from self._refine(self._mixed(alone))
        yield from self._fewer()
        yield from self._less()
        yield from self._round(self._around(), "curve")
        yield from self._fewer()
        yield from self._round(self._last(), "end")

    def _round(self, jobs: Iterable[Job], later: str) -> Iterator[list[Job]]:
        """Of the jobs those that are new, as many as may be; then what is kept is for what comes `later`."""
        new = {job.name: job for job in jobs if job.name not in self._known}
        kept = int(_FOR_LATER[later] * self._most_jobs)
        left = max(0, self._most_jobs - len(self._known) - kept)
        if not self._known:
            left = max(left, len(self._types))
        self._cut |= len(new) > left
        given = list(new.values())[:left]
        self._to_come = min(kept, self._most_jobs - len(self._known) - len(given))
        if given:
            yield given

    @property
    def _is_hopeless(self) -> bool:
        return float(self._lost.which.mean()) > 1.0 - self._question.attainment + EPSILON

    def _some(self) -> list[Job]:
        """To see what could be attained where the goal cannot."""
        most = self._question.choices.most_machines
        enough = {kind.name: enough_machines(kind, self._question) for kind in self._types.values()}
        return [self._job({name: min(most, count * times)}) for name, count in enough.items() for times in (1, 4)]

    def _alone(self) -> list[Line]:
        """One for each type that can hold enough of the models."""
        fewest = {name: fewest_machines(kind, self._question) for name, kind in self._types.items()}
        return [
            Line(name, {}, count, max(count, enough_machines(self._types[name], self._question)))
            for name, count in fewest.items()
            if count is not None
        ]

    def _refine(self, lines: list[Line]) -> Iterator[list[Job]]:
        """Until nothing cheaper can be found on any of them."""
        goal = self._question.attainment - EPSILON
        while alive := [line for line in lines if self._is_worth_it(line)][: max(_AT_ONCE, len(self._types))]:
            at_once = max(1, _AT_ONCE // len(alive))
            wanted = [(line, count) for line in alive for count in line.wanted(goal, self._most(line), at_once)]
            names = [self._job(line.machines(count)) for line, count in wanted]
            yield from self._round(names, "neighbours")
            for (line, count), job in zip(wanted, names, strict=True):
                if job.name in self._known:
                    line.known[count] = self._known[job.name]
            if self._cut:
                return

    def _is_worth_it(self, line: Line) -> bool:
        """Whether there is anything to be tried on it. Beside other machines no more can help if it missed beside more."""
        most = self._most(line)
        if not line.wanted(self._question.attainment - EPSILON, most, 1):
            return False
        return not line.base or not self._tried.missed_with(line.machines(most))

    def _most(self, line: Line) -> int:
        """Of the line's machines: with more there are too many, or it is no cheaper than what attains already."""
        most = self._question.choices.most_machines - sum(line.base.values())
        best, each = self._tried.cheapest, self._types[line.kind].price_per_h
        if best is None or each == 0.0:
            return most
        left = best.price_per_h - self._tried.price_per_h(Cluster(line.base)) - EPSILON
        return min(most, floor(left / each) if left > 0 else 0)

    def _mixed(self, alone: list[Line]) -> list[Line]:
        """Some of the best type's machines, and as many as are cheaper than the rest of another type."""
        best = self._tried.cheapest
        if best is None:
            return []
        (name, count), *_ = best.cluster.machines.items()
        partners = sorted(
            (line for line in alone if line.kind != name),
            key=lambda line: (max(line.known, default=line.hint) * self._types[line.kind].price_per_h, line.kind),
        )
        most = self._question.choices.most_machines
        return [Line(line.kind, {name: kept}, 1, most) for line in partners[:_PARTNERS] for kept in _thinned(count)]

    def _fewer(self) -> Iterator[list[Job]]:
        """Of the cheapest each cluster with one machine fewer, until none of them attains."""
        while (best := self._tried.cheapest) is not None and best.cluster.count > 1:
            fewer = [
                self._job({**best.cluster.machines, name: count - 1}) for name, count in best.cluster.machines.items()
            ]
            new = [job for job in fewer if job.name not in self._known]
            if not new:
                return
            yield from self._round(new, "shares")
            if self._cut:
                return

    def _less(self) -> Iterator[list[Job]]:
        """Smaller shares of dram, and then, with what was found of those, of ssd."""
        choices = self._question.choices
        if (best := self._tried.cheapest) is not None:
            _, ssd = self._plain[best.name]
            less = sorted(set(choices.dram_shares))[:-1]
            yield from self._round([self._job(best.cluster.machines, share, ssd) for share in less], "curve")
        if (best := self._tried.cheapest) is not None:
            dram, _ = self._plain[best.name]
            less = sorted(set(choices.ssd_shares))[:-1]
            yield from self._round([self._job(best.cluster.machines, dram, share) for share in less], "curve")

    def _around(self) -> list[Job]:
        """Clusters with a few machines more and fewer, until there are enough prices for a curve."""
        best = self._tried.cheapest or self._tried.furthest
        machines, prices = best.cluster.machines, {trial.price_per_h for trial in self._tried.all}
        name = max(machines, key=lambda each: machines[each])
        others, found = best.cluster.count - machines[name], list[Job]()
        for more in _AROUND:
            count = machines[name] + more
            if not 1 <= count <= self._question.choices.most_machines - others:
                continue
            job = self._job({**machines, name: count})
            new = self._tried.price_per_h(job.cluster) not in prices
            if new and (len(prices) < _CURVE_PRICES or abs(more) <= _KNEE):
                prices.add(self._tried.price_per_h(job.cluster))
                found.append(job)
        return found

    def _last(self) -> list[Job]:
        """What else would be on the cluster, and what binds the one that it is compared with."""
        chosen = self._tried.cheapest
        self._what_ifs = what_if_jobs(chosen) if chosen is not None else {}
        compared = self._compared()
        self._binding = binding_jobs(compared) if compared is not None else {}
        return [*self._what_ifs.values(), *self._binding.values()]

    def _compared(self) -> Trial | None:
        """What falls short by the least: of what is cheaper than the chosen one, or of all."""
        chosen = self._tried.cheapest
        return self._tried.furthest if chosen is None else self._tried.cheaper(chosen)

    def _job(self, machines: Mapping[str, int], dram: float | None = None, ssd: float | None = None) -> Job:
        """To try so many machines with such shares of their dram and ssd, by default the largest that may be."""
        choices = self._question.choices
        most = max(choices.dram_shares), max(choices.ssd_shares)
        shares = most[0] if dram is None else dram, most[1] if ssd is None else ssd
        types = [kind for kind in choices.types if machines.get(kind.name)]
        cluster = Cluster(
            {kind.name: machines[kind.name] for kind in types},
            choices.store_bytes_per_s,
            {kind.name: int(kind.dram_bytes * shares[0]) for kind in types},
            {kind.name: int(kind.ssd_bytes * shares[1]) for kind in types},
        )
        less = [
            f"{percent(share)} of the {what}"
            for share, full, what in zip(shares, most, _WHAT, strict=True)
            if share != full
        ]
        name = ", ".join([machines_in_words(cluster), *less])
        self._plain[name] = shares
        return Job(name, cluster)

    # ---- the answer

    def _planned(self) -> Plan:
        question, chosen = self._question, self._tried.cheapest
        return Plan(
            attainment=question.attainment,
            currency=question.choices.currency,
            sentence=sentence_of(question, self._tried, self._lost, cut=self._cut),
            binding=self._binding_sentence(),
            chosen=chosen,
            curve=self._tried.curve,
            what_ifs=tuple(self._what_would_be(chosen)) if chosen is not None else (),
            tried=self._tried.all,
            inputs=inputs_of(question),
            settings=settings_of(chosen.cluster, question.choices.types) if chosen is not None else {},
            notes=notes_of(question) + self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        cut = f"Only {self._most_jobs} trials were made: more of them might find a cheaper cluster."
        return (cut,) if self._cut else ()

    def _binding_sentence(self) -> str:
        compared = self._compared()
        if compared is None:
            return "Nothing: no cheaper cluster can be had."
        if self._is_hopeless:
            return f"No cluster, but what is asked for: {why_lost(self._question, self._lost)}."
        doubled = {each: self._known[job.name] for each, job in self._binding.items() if job.name in self._known}
        return binding_sentence(compared, self._question.attainment, doubled)

    def _what_would_be(self, chosen: Trial) -> Iterator[WhatIf]:
        fewer = self._tried.fewer(chosen)
        if fewer is not None:
            yield what_if(FEWER, chosen, fewer)
        for name, job in self._what_ifs.items():
            if job.name in self._known:
                yield what_if(name, chosen, self._known[job.name])


def _thinned(count: int) -> list[int]:
    """How many of so many machines to keep: all but a few, and a few; of many not every number."""
    steps = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    few = {step for step in steps if step <= count // 2}
    return [count - step for step in sorted(few)] + sorted(few - {count - step for step in few}, reverse=True)
