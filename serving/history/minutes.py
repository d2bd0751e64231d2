"""Arrivals by minute: counted once each into a table that outlives them, whoever counts; and read together with those that
are not counted yet."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Integer,
    Row,
    Select,
    Text,
    case,
    cast,
    func,
    literal,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from serving.history.tables import ARRIVALS, IS_LOOSE, MINUTES, whole

MINUTE_S = 60
_SUMS = ("arrived", "refused", "failed", "cold", "answered", "ttft_sum_s")
_MOSTS = ("ttft_most_s", "last_s")
_NO_COUNTS = dict.fromkeys(("arrived", "refused", "failed", "cold", "answered"), 0)
_NO_TIMES = dict.fromkeys(("ttft_sum_s", *_MOSTS), 0.0)


@dataclass(frozen=True)
class Minutes:
    """What came for a model in some time. `counts` is text: `[i,n],...` for the n that came in the i-th minute, where any
    did, in no order. `last_s` is when the latest came, in unix seconds; `ttft_s` and `ttft_most_s` are of the `answered`,
    None if there are none."""

    model: str
    counts: str
    arrived: int
    refused: int
    failed: int
    cold: int
    answered: int
    ttft_s: float | None
    ttft_most_s: float | None
    last_s: float


def begin_of(at_s: float) -> int:
    """Of the minute that a moment is in, both in unix seconds."""
    return int(at_s // MINUTE_S) * MINUTE_S


async def count_loose(connection: AsyncConnection, most: int) -> int:
    """Count up to `most` arrivals that are not yet in MINUTES, and return how many there were. Whoever else counts at the
    same time takes others; with the transaction all of it has happened, or nothing."""
    if connection.dialect.name == "sqlite":  # whose driver takes what begins with WITH for no change
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
    found = select(ARRIVALS.c.id).where(IS_LOOSE).limit(most).with_for_update(skip_locked=True).cte("found")
    taken = (
        update(ARRIVALS)
        .where(ARRIVALS.c.id.in_(select(found.c.id)))
        .values(in_minutes=True)
        .returning(ARRIVALS.c.model, ARRIVALS.c.arrived_s, ARRIVALS.c.outcome, ARRIVALS.c.ttft_s, ARRIVALS.c.cold)
    )
    rows = (await connection.execute(taken)).all()
    if rows:
        await connection.execute(_adding(connection), _by_minute(rows))
    return len(rows)


def _by_minute(arrivals: Iterable[Row[Any]]) -> list[dict[str, Any]]:
    """Rows of MINUTES in the order of their keys: two that add to the same do not wait for each other in a circle."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for model, arrived_s, outcome, ttft_s, cold in arrivals:
        key = model, begin_of(arrived_s)
        minute = found.setdefault(key, {"model": model, "minute_s": key[1], **_NO_COUNTS, **_NO_TIMES})
        minute["arrived"] += 1
        minute["refused"] += outcome == "refused"
        minute["failed"] += outcome == "failed"
        minute["cold"] += bool(cold)
        minute["last_s"] = max(minute["last_s"], arrived_s)
        if ttft_s is not None:
            minute["answered"] += 1
            minute["ttft_sum_s"] += ttft_s
            minute["ttft_most_s"] = max(minute["ttft_most_s"], ttft_s)
    return [found[key] for key in sorted(found)]


def _adding(connection: AsyncConnection) -> Any:
    """An insert that adds to the minute that is there."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(MINUTES)
    new, old = statement.excluded, MINUTES.c
    changes: dict[str, Any] = {name: old[name] + new[name] for name in _SUMS}
    changes |= {name: case((new[name] > old[name], new[name]), else_=old[name]) for name in _MOSTS}
    return statement.on_conflict_do_update(index_elements=[old.model, old.minute_s], set_=changes)


def known_models() -> Select[Any]:
    """By name, those that anything was counted for, or will be: the index is asked for the next one, model by model, for of
    one model there may be a hundred thousand minutes."""
    names = select(func.min(MINUTES.c.model).label("model")).cte("names", recursive=True)
    following = select(func.min(MINUTES.c.model)).where(MINUTES.c.model > names.c.model).scalar_subquery()
    names = names.union_all(select(following).where(names.c.model.is_not(None)))
    loose = select(ARRIVALS.c.model).where(IS_LOOSE)
    both = union_all(select(names.c.model).where(names.c.model.is_not(None)), loose.distinct()).subquery()
    return select(both.c.model).distinct().order_by(both.c.model)


def minutes_between(models: Sequence[str], since_s: float, until_s: float, dialect: str) -> Select[Any]:
    """A row for minutes_of_row per model that anything came for, from the minute of `since_s` on: each arrival once, counted
    or not. A minute that is over only after `until_s` is there as far as it was counted. The database makes the text, for
    there may be millions of minutes.
    """
    both = union_all(
        _counted(models, begin_of(since_s), until_s), _loose(models, begin_of(since_s), until_s, dialect)
    ).subquery()
    by_minute = (
        select(
            both.c.model,
            both.c.minute,
            *(func.sum(both.c[name]).label(name) for name in _SUMS),
            *(func.max(both.c[name]).label(name) for name in _MOSTS),
        )
        .group_by(both.c.model, both.c.minute)
        .subquery()
    )
    pair = literal("[") + _text(by_minute.c.minute) + literal(",") + _text(by_minute.c.arrived) + literal("]")
    return (
        select(
            by_minute.c.model,
            func.aggregate_strings(pair, ",").label("counts"),
            *(func.sum(by_minute.c[name]).label(name) for name in _SUMS),
            *(func.max(by_minute.c[name]).label(name) for name in _MOSTS),
        )
        .group_by(by_minute.c.model)
        .order_by(by_minute.c.model)
    )


def _counted(models: Sequence[str], begin_s: int, until_s: float) -> Select[Any]:
    at_s = MINUTES.c.minute_s
    counted = (MINUTES.c[name] for name in (*_SUMS, *_MOSTS))
    return select(MINUTES.c.model, ((at_s - begin_s) // MINUTE_S).label("minute"), *counted).where(
        MINUTES.c.model.in_(models), at_s >= begin_s, at_s < until_s
    )


def _loose(models: Sequence[str], begin_s: int, until_s: float, dialect: str) -> Select[Any]:
    """Arrivals that are not counted yet, in the columns of _counted. A statement is told of one moment: what is counted
    meanwhile is here or there."""
    at_s, outcome, ttft_s = ARRIVALS.c.arrived_s, ARRIVALS.c.outcome, ARRIVALS.c.ttft_s

    def those(condition: Any) -> Any:
        return case((condition, 1), else_=0)

    return select(
        ARRIVALS.c.model,
        whole((at_s - begin_s) / MINUTE_S, dialect),
        literal(1),
        those(outcome == "refused"),
        those(outcome == "failed"),
        those(ARRIVALS.c.cold == true()),
        those(ttft_s.is_not(None)),
        func.coalesce(ttft_s, 0.0),
        func.coalesce(ttft_s, 0.0),
        at_s,
    ).where(ARRIVALS.c.model.in_(models), IS_LOOSE, at_s >= begin_s, at_s < until_s)


def _text(number: Any) -> Any:
    return cast(cast(number, Integer), Text)


def minutes_of_row(row: Row[Any], until_s: float) -> Minutes:
    """What minutes_between found of a model; nothing came at `until_s` or later that anybody asked for."""
    told = row._mapping
    answered = int(told["answered"])
    return Minutes(
        model=told["model"],
        counts=told["counts"],
        arrived=int(told["arrived"]),
        refused=int(told["refused"]),
        failed=int(told["failed"]),
        cold=int(told["cold"]),
        answered=answered,
        ttft_s=float(told["ttft_sum_s"]) / answered if answered else None,
        ttft_most_s=float(told["ttft_most_s"]) if answered else None,
        last_s=min(float(told["last_s"]), until_s),
    )
