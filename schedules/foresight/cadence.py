"""When each flow runs, as data. It knows no clock and no Prefect; the flow service turns it into deployments."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from schedules.moving.plan import Kind

_BOUNDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))


@dataclass(frozen=True)
class Cadence:
    """A flow, and when it runs: every so many seconds, or at the times of a line of `cron`, in UTC. With neither it runs only
    when asked. ValueError says what is wrong with it."""

    flow: str
    every_s: float | None = None
    cron: str | None = None

    def __post_init__(self) -> None:
        if self.every_s is not None and self.every_s <= 0:
            raise ValueError(f"flow {self.flow!r} cannot run every {self.every_s} s")
        if self.every_s is not None and self.cron:
            raise ValueError(f"flow {self.flow!r} runs every {self.every_s} s or by cron, not both")
        if self.cron:
            check_cron(self.cron)

    @property
    def slug(self) -> str:
        """Tells it from others of the same flow: a-z, 0-9 and dashes; "" for only when asked."""
        if self.every_s is not None:
            return f"settings-every-{self.every_s:g}-s".replace(".", "-").replace("+", "")
        signs = {"*": "x", "/": "by", ",": "and", "-": "to", " ": "-"}
        return "settings-cron-" + "".join(signs.get(sign, sign) for sign in self.cron) if self.cron else ""


PUBLISH, BRING, PREWARM, REAP, BACKTEST = "publish", "bring", "prewarm", "reap", "backtest"
CALIBRATE, PLAN = "calibrate", "plan_capacity"
FLOWS = (PUBLISH, BRING, PREWARM, REAP, BACKTEST, CALIBRATE, PLAN, *(kind.value for kind in Kind))
ONE_AT_A_TIME = frozenset({PREWARM, REAP, BACKTEST})
"""A run of these that comes while another is at work is none."""


def cadences(when: Mapping[str, float | str]) -> tuple[Cadence, ...]:
    """Every flow with its seconds between runs, or its line of cron; one that `when` does not name runs only when asked.
    KeyError for an unknown flow."""
    for flow in when:
        if flow not in FLOWS:
            raise KeyError(flow)
    return tuple(_cadence(flow, when.get(flow, "")) for flow in FLOWS)


def _cadence(flow: str, when: float | str) -> Cadence:
    return Cadence(flow, cron=when or None) if isinstance(when, str) else Cadence(flow, when)


def check_cron(line: str) -> None:
    """Five fields: minute, hour, day of the month, month, day of the week (0 and 7 are Sunday); each * or numbers, as 5, 1-5,
    1,15 or */10. ValueError says what is wrong."""
    fields = line.split(" ")
    if len(fields) != len(_BOUNDS):
        raise ValueError(f"{line!r} is no line of cron: five fields are, with one space between them, as 30 3 * * *")
    for field, (what, low, high) in zip(fields, _BOUNDS, strict=True):
        for part in field.split(","):
            match = re.fullmatch(r"(?:\*|(\d{1,2})(?:-(\d{1,2}))?)(?:/(\d{1,2}))?", part)
            numbers = [int(number) for number in (match[1], match[2]) if number] if match else []
            in_order = numbers == sorted(numbers) and all(low <= number <= high for number in numbers)
            if match is None or not in_order or match[3] in ("0", "00"):
                raise ValueError(
                    f"{part!r} is no {what} of cron: those are from {low} to {high}, as {low}-{high} or */2"
                )
