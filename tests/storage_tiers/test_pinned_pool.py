"""A pool that is pinned piece by piece: what is wanted first, nothing twice, and nothing is left pinned."""

import threading
from collections.abc import Iterator

import pytest

from storage_tiers.tiers.pinned_pool import PinnedPool
from storage_tiers.tiers.shared_memory import BlockPool, Run
from tests.storage_tiers.fake_driver import FakeDriver

_BLOCK = 4096
_PIECE = 2 * _BLOCK
_PIECES = 8


@pytest.fixture
def memory() -> Iterator[BlockPool]:
    """Eight pieces and a half."""
    made = BlockPool(_PIECES * _PIECE + _BLOCK, block_bytes=_BLOCK, piece_bytes=_PIECE)
    made.views(made.allocate(made.size_bytes), 0, made.size_bytes)
    yield made
    made.close()


def _map(memory: BlockPool, driver: FakeDriver) -> PinnedPool:
    return PinnedPool(memory.read_only_fd, memory.size_bytes, driver, _PIECE)


def _order(driver: FakeDriver) -> list[int]:
    return [(address - min(driver.asked)) // _PIECE for address in driver.asked]


def test_pieces_are_pinned_as_they_are_heard_of_each_once(memory: BlockPool) -> None:
    driver = FakeDriver()
    pool = _map(memory, driver)
    for pieces in ((0, 1), (1, 8), memory.real_pieces()):
        pool.hear(pieces)
        assert all(pool.wait(piece) for piece in pieces)
    assert len(driver.asked) == _PIECES + 1
    assert sorted(driver.pinned_ranges.values()) == [_BLOCK, *[_PIECE] * _PIECES]
    assert bytes(pool.bytes[:_PIECE].numpy()) == bytes(_PIECE)
    pool.close()


def test_what_is_wanted_is_pinned_first_in_its_order(memory: BlockPool) -> None:
    driver = FakeDriver()
    driver.may_pin.clear()
    pool = _map(memory, driver)
    pool.hear([0])
    assert driver.pins_now.wait(30)
    pool.want([Run(6 * _PIECE + _BLOCK, _PIECE), Run(3 * _PIECE, _BLOCK)])
    pool.want([Run(2 * _PIECE, _PIECE)])
    pool.hear(range(_PIECES))
    driver.may_pin.set()
    assert all(pool.wait(piece) for piece in range(_PIECES))
    assert _order(driver)[:5] == [0, 6, 7, 3, 2]
    pool.close()


def test_with_its_order_a_process_pins_what_it_wants_and_no_more(memory: BlockPool) -> None:
    """It computes then, and so do its neighbours, with a driver that does one thing at a time."""
    driver = FakeDriver()
    driver.may_pin.clear()
    pool = _map(memory, driver)
    pool.hear([0, 1, 2, 3])
    assert driver.pins_now.wait(30)
    pool.pin_what_is_wanted()
    pool.hear([4, 5])
    driver.may_pin.set()
    assert pool.wait(0)
    pool.want([Run(5 * _PIECE, _PIECE), Run(2 * _PIECE, _PIECE)])
    pool.want([Run(7 * _PIECE, _PIECE)])
    assert pool.wait(5)
    assert pool.wait(2)
    assert pool.wait(3)
    pool.hear([7])
    assert pool.wait(7)
    assert sorted(_order(driver)) == [0, 2, 3, 5, 7]
    pool.close()


def test_a_piece_that_nobody_said_is_real_is_not_waited_for(memory: BlockPool) -> None:
    driver = FakeDriver()
    pool = _map(memory, driver)
    pool.want([Run(0, _PIECE)])
    assert not pool.wait(0)
    assert not driver.asked
    pool.close()


def test_who_waits_when_the_driver_refuses_goes_on(memory: BlockPool) -> None:
    driver = FakeDriver(pins=1)
    driver.may_pin.clear()
    pool = _map(memory, driver)
    pool.hear(range(_PIECES))
    assert driver.pins_now.wait(30)
    found: list[bool] = []
    waiting = threading.Thread(target=lambda: found.append(pool.wait(5)), daemon=True)
    waiting.start()
    driver.may_pin.set()
    waiting.join(30)
    assert found == [False]
    assert len(driver.asked) == 2
    pool.hear([8])
    assert not pool.wait(8)
    pool.close()
    assert driver.unpinned == 1


def test_a_driver_that_breaks_is_one_that_refuses(memory: BlockPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody must wait for a thread that is no more."""
    driver = FakeDriver()
    told: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda broken: told.append(broken.exc_value))

    def broken(_address: int, _size_bytes: int) -> str:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(driver, "register", broken)
    pool = _map(memory, driver)
    pool.hear([0])
    assert not pool.wait(0)
    pool.close()
    assert [str(error) for error in told] == ["CUDA error"]


def test_closing_unpins_all_and_stops_what_is_under_way(memory: BlockPool) -> None:
    driver = FakeDriver()
    pool = _map(memory, driver)
    pool.hear([0, 1])
    assert pool.wait(1)
    driver.may_pin.clear()
    pool.hear(range(_PIECES))
    closing = threading.Thread(target=pool.close, daemon=True)
    closing.start()
    with pool._condition:
        assert pool._condition.wait_for(lambda: pool._over, 30)
    driver.may_pin.set()
    closing.join(30)
    assert not driver.pinned_ranges
    assert driver.unpinned == len(driver.asked) < _PIECES
    pool.hear([7])
    assert not pool.wait(7)


@pytest.mark.parametrize("pieces", [[-1], [_PIECES + 1], [0, 99]])
def test_there_are_no_pieces_beyond_the_pool(memory: BlockPool, pieces: list[int]) -> None:
    pool = _map(memory, FakeDriver())
    with pytest.raises(ValueError, match="has no pieces"):
        pool.hear(pieces)
    pool.close()
