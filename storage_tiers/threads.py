"""A few threads that work through a list and end together, whatever ends them."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

_T = TypeVar("_T")
WORKERS = 4
"""Units that are worked on at once where nobody says otherwise."""
Job = Callable[[threading.Event], _T]
"""Does one thing and returns its result; calls `check` with the event now and then, and lets Stopped through."""


class Stopped(Exception):
    """Another job failed, or the caller was interrupted: this one ends early and undoes what is half done."""


def check(stop: threading.Event) -> None:
    """Raise Stopped once the others have ended."""
    if stop.is_set():
        raise Stopped


def run_all(jobs: Sequence[Job[_T]], workers: int) -> list[_T]:
    """The results of all jobs, in their order, from `workers` threads.

    If one fails, or the caller is interrupted while it waits, the others are stopped; they have all ended when this raises.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="worker") as pool:
        futures = [pool.submit(job, stop) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise
    return [future.result() for future in futures]
