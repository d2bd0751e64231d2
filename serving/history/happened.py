"""What the history holds as facts that a world is fitted to, and a trace made of."""

from collections.abc import Iterator

from cluster.wire.phases import BUILD_SKELETON, FETCH, FIRST_STEP, FROM, STAGE, WAIT, Phase
from schedules.fitting.seen import Began, Fetch, FirstStep, Happened
from schedules.traces.happened import Asked
from serving.cold_start import DECIDE, WAIT_FOR_ROOM, ColdStart
from serving.history.history import History
from serving.history.tables import Arrival


async def happened(history: History, since_s: float, until_s: float) -> Happened:
    """All that came from `since_s` to before `until_s` (unix seconds). HistoryError if the database does not answer."""
    starts = [began(start) async for rows in history.starts_between(since_s, until_s) for start in rows]
    asked_ = [asked(arrival) async for rows in history.arrivals(since_s, until_s) for arrival in rows]
    return Happened(since_s, until_s, tuple(starts), tuple(asked_))


def asked(arrival: Arrival) -> Asked:
    """A request."""
    return Asked(
        arrival.model, arrival.arrived_s, arrival.prompt_tokens, arrival.max_tokens, arrival.generated_tokens,
        arrival.outcome == "refused", arrival.ttft_s, arrival.last_s, arrival.cold,
    )  # fmt: skip


def began(start: ColdStart) -> Began:
    """A cold start, by its phases. A stage's node is the one at its place."""
    decided_s = [phase.end_s for phase in start.phases if phase.name == DECIDE]
    built_s = [phase.end_s for phase in start.phases if phase.name == BUILD_SKELETON]
    waited_s = sum(phase.end_s - phase.start_s for phase in start.phases if phase.name == WAIT_FOR_ROOM)
    predicted_s = (start.predicted or {}).get("ttft_s")
    return Began(
        start.model, start.nodes, start.arrived_s, max(decided_s, default=start.arrived_s), start.ttft_s,
        max(built_s, default=None), waited_s, None if predicted_s is None else float(predicted_s), start.one_clock,
        tuple(_fetches(start)), tuple(_first_steps(start)),
    )  # fmt: skip


def _fetches(start: ColdStart) -> Iterator[Fetch]:
    for phase in start.phases:
        node, told, source = phase.where.rpartition(FROM)
        if phase.name.startswith(FETCH) and told:
            unit, kind = phase.name.removeprefix(FETCH), source.split(" ")[0]
            yield Fetch(node, unit, kind, phase.bytes, phase.start_s, phase.end_s)


def _first_steps(start: ColdStart) -> Iterator[FirstStep]:
    for phase in start.phases:
        place = phase.where.removeprefix(STAGE)
        if phase.name == FIRST_STEP and place.isdecimal() and int(place) < len(start.nodes):
            waits_s = sum(_within(other, phase) for other in start.phases if _waits(other, phase.where))
            yield FirstStep(start.nodes[int(place)], phase.end_s - phase.start_s - waits_s)


def _waits(phase: Phase, where: str) -> bool:
    return phase.where == where and phase.name.startswith(WAIT) and phase.name != WAIT_FOR_ROOM


def _within(phase: Phase, other: Phase) -> float:
    """So much of a phase is in another one."""
    return max(0.0, min(phase.end_s, other.end_s) - max(phase.start_s, other.start_s))
