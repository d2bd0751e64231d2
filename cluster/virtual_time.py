"""An event loop whose time is virtual: when nothing is ready, it is at once when the next timer is due.

Hours pass in the time that their work takes, and the same program sees the same times and the same order whenever it runs.
Everything that waits by the loop's own timers works under it. Threads, sockets and processes do not: nothing tells how long
they would have taken.
"""

import asyncio
import math
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")


class Stuck(RuntimeError):
    """Everyone waits, and nothing will ever happen."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """See the module. Its time begins at zero and stands at a timer's very time while that is called."""

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_Selector(self._pass))

    def time(self) -> float:
        """Virtual seconds."""
        return self._now_s

    def _pass(self) -> None:
        """Nothing is ready: it is when the first timer is due. `select` is told a difference, which would be rounded."""
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        if not timers:
            raise Stuck("everyone waits, and no timer is set")
        self._now_s = max(self._now_s, timers[0].when())
        self._clock_resolution = math.ulp(
            self._now_s
        )  # timers that are due within it are called as if it were their time


class _Selector(selectors.BaseSelector):
    """Never waits: where it would, it lets time pass. What wakes a loop from outside, such as Ctrl-C, is still heard."""

    def __init__(self, let_pass: Callable[[], None]) -> None:
        self._real, self._let_pass = selectors.DefaultSelector(), let_pass

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = self._real.select(0)
        if not found and (timeout is None or timeout > 0):
            self._let_pass()
        return found

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()


def run_virtual(main: Coroutine[Any, Any, _T]) -> _T:
    """As asyncio.run, on a loop of virtual time. Stuck if it waits for what will never come."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
