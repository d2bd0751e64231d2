"""What a move did, as a page for a person to read in Prefect's UI."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from flows.moving.moves import Handover, Move, Replica
from schedules.moving.plan import Step

FRONT_END = "front end"
_NOT_KNOWN = "-"


def page_of(move: Move, *, recorded: bool) -> str:
    """Markdown: why it was done, what went where, how long each step took, and what became of the requests.

    `recorded` if it was over before anybody wrote it down.
    """
    parts = [
        _ending(move),
        *_carrier(move, recorded=recorded),
        f"**Why:** {move.reason}",
        "\n".join(f"- {_handover(handover)}" for handover in move.handovers),
        _table(("step", "seconds", "predicted"), _steps(move)),
        _requests(move),
        f"Move `{move.move}`, ordered at {_time(move.ordered_at)}.",
    ]
    return "\n\n".join(parts)


def _ending(move: Move) -> str:
    what = f"{move.kind.value.capitalize()}: "
    if move.step is Step.GIVEN_UP:
        what += f"**given up**, what was to make way goes on as it was. {move.why}"
    else:
        what += f"**{move.step.value}**"
    return what


def _carrier(move: Move, *, recorded: bool) -> Iterable[str]:
    if recorded:
        until = "" if move.done_at is None else f" until {_time(move.done_at)}"
        yield f"It was carried out by the {move.carrier}{until}; this run only records it."
    elif move.carrier == FRONT_END:
        yield "The front end took its steps over."


def _handover(handover: Handover) -> str:
    heirs = " and ".join(map(_replica, handover.heirs)) or "has no heirs: its requests end where they are"
    to = "→ " if handover.heirs else ""
    return f"{handover.model}: {_replica(handover)} {to}{heirs}"


def _replica(replica: Replica | Handover) -> str:
    stages = "1 stage" if replica.degree == 1 else f"{replica.degree} stages"
    return f"`{replica.group}`, {stages} at {', '.join(replica.nodes)}"


def _steps(move: Move) -> Iterable[tuple[str, ...]]:
    yield "wait to be told to prepare", _between(move.ordered_at, move.preparing_at), _NOT_KNOWN
    yield "prepare: heirs start", _between(move.preparing_at, move.ready_at), _predicted(move, "ready")
    yield "wait to be told to switch", _between(move.ready_at, move.switching_at), _NOT_KNOWN
    yield "switch: requests go over", _between(move.switching_at, move.done_at), _predicted(move, "switch")


def _requests(move: Move) -> str:
    requests, pauses_s = move.requests, sorted(move.pauses_s)
    rows = [
        ("shifted", str(requests.shifted)),
        ("stayed where they were", str(requests.stayed)),
        ("KV cache copied", f"{requests.copied} ({requests.copied_bytes} bytes)"),
        ("KV cache computed anew", str(requests.recomputed)),
    ]
    if pauses_s:
        middle = pauses_s[len(pauses_s) // 2]
        rows.append(("pause, median", f"{middle * 1e3:.1f} ms"))
        rows.append(("pause, longest", f"{pauses_s[-1] * 1e3:.1f} ms"))
    return _table(("requests", ""), rows)


def _predicted(move: Move, step: str) -> str:
    seconds = move.predicted_s.get(step)
    return _NOT_KNOWN if seconds is None else f"{seconds:.3f}"


def _between(since: float | None, until: float | None) -> str:
    return _NOT_KNOWN if since is None or until is None else f"{until - since:.3f}"


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(sep=" ", timespec="milliseconds").replace("+00:00", " UTC")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
