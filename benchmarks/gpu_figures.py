"""What a long run has found: told as soon as it is known, and kept however the run ends."""

import json
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Literal

from benchmarks.report import Result


class Figures:
    """Collects results and what goes with them; each is a JSON line on stderr at once. Parts that fail lose only themselves.

    Without `within_s` every part begins, however late it is.
    """

    def __init__(self, within_s: float | None = None) -> None:
        self.results: list[Result] = []
        self.more: dict[str, object] = {}
        self.failed: list[str] = []
        self._within_s, self._started_s = within_s, time.monotonic()

    def tell(
        self,
        name: str,
        value: float,
        unit: str,
        better: Literal["higher", "lower"] = "higher",
        limit: float | None = None,
        against: str | None = None,
    ) -> None:
        """One figure."""
        self.results.append(Result(name, value, unit, better, limit, against))
        self.say(
            name, value=_rounded(value), unit=unit, limit=None if limit is None else _rounded(limit), against=against
        )

    def value(self, name: str) -> float | None:
        """A figure of this run; None if it is not known."""
        return next((result.value for result in self.results if result.name == name), None)

    def add(self, name: str, found: object) -> None:
        """What is no single number, under `name` in the JSON."""
        self.more[name] = found
        self.say(name, found=found)

    def say(self, what: str, **values: object) -> None:
        """A line on stderr."""
        told = {key: value for key, value in values.items() if value is not None}
        line = {"at_s": round(time.monotonic() - self._started_s, 1), "what": what, **told}
        print(json.dumps(line), file=sys.stderr, flush=True)

    async def part(self, name: str, run: Callable[[], Awaitable[object]], log: Callable[[], str] = lambda: "") -> bool:
        """Do a part unless it is too late for one. Whether it was done; what broke is told, with the end of `log`."""
        if self._within_s is not None and time.monotonic() - self._started_s > self._within_s:
            self.failed.append(name)
            self.say("left out", part=name, because=f"{self._within_s:.0f} s are over")
            return False
        self.say("begin", part=name)
        try:
            await run()
        except Exception:
            self.failed.append(name)
            self.say("failed", part=name, error=traceback.format_exc()[-2000:], log=log()[-2000:])
            return False
        return True


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
