"""A slow wire in software: never faster than it is set, for whoever reads; and nobody is held once it is closed."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage_tiers.pace import Pace

WAIT_S = 20.0


def test_readers_together_are_no_faster_than_the_pace() -> None:
    pace, began_s = Pace(1e6), time.monotonic()

    def read(size_bytes: int) -> float:
        with pace.held(size_bytes):
            pass
        return time.monotonic() - began_s

    with ThreadPoolExecutor(4) as pool:
        ended_s = list(pool.map(read, [50_000] * 4))
    assert max(ended_s) >= 0.2
    assert min(ended_s) >= 0.05


def test_time_that_nobody_reads_in_is_not_saved_up() -> None:
    pace = Pace(1e6)
    with pace.held(1000):
        pass
    time.sleep(0.1)
    began_s = time.monotonic()
    with pace.held(50_000):
        pass
    assert time.monotonic() - began_s >= 0.05


def test_what_failed_is_not_waited_for() -> None:
    pace = Pace(1.0)
    with pytest.raises(OSError), pace.held(10**9):
        raise OSError


def test_nobody_is_held_once_it_is_closed() -> None:
    pace, inside = Pace(1.0), threading.Event()

    def read() -> None:
        with pace.held(10**9):
            inside.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert inside.wait(WAIT_S)
    pace.close()
    reader.join(WAIT_S)
    assert not reader.is_alive()
    with pace.held(10**9):
        pass
