"""What a node keeps: by worth for as long as it was told so, then again by use; and how that travels."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ClusterError, ProtocolError
from cluster.node.retaining import Retaining
from cluster.wire.orders import MOST_RANKED, Ranked, Retain
from cluster.wire.vocabulary import pack, unpack
from schedules.foresight.retention import BY_USE, Retention
from storage_tiers.tiers.dram import DramTier
from storage_tiers.tiers.ssd import SsdTier
from tests.storage_tiers.handmade import aligned

UNIT = 4096
FIRST, SECOND, THIRD = (f"{number:064x}" for number in range(3))
WORTH = Retention({FIRST: 1.0, SECOND: 0.5})
_WORTH = st.floats(allow_nan=False, allow_infinity=False)
_DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)


@pytest.fixture
def dram() -> Iterator[DramTier]:
    tier = DramTier(2 * UNIT)
    yield tier
    tier.close()


@pytest.fixture
def ssd(tmp_path: Path) -> SsdTier:
    return SsdTier(tmp_path, 2 * UNIT)


def _come(dram: DramTier, ssd: SsdTier, *digests: str) -> tuple[set[str], set[str]]:
    """Units come to both tiers one after the other; what is there then."""
    for digest in digests:
        dram.reserve(digest, UNIT)
        dram.commit(digest)
        dram.release(digest)
        ssd.write(digest, [aligned(UNIT)])
    return set(dram.held()), set(ssd.held())


async def test_the_least_goes_first_in_each_tier_by_its_own_worth(dram: DramTier, ssd: SsdTier) -> None:
    retaining = Retaining(dram, ssd)
    retaining.take(Retain(Ranked.of(WORTH), Ranked.of(Retention({SECOND: 2.0}, otherwise=1.0)), 60.0))
    assert _come(dram, ssd, FIRST, SECOND, THIRD) == ({FIRST, THIRD}, {SECOND, THIRD})
    retaining.close()


async def test_the_next_order_takes_the_place_of_the_one_before(dram: DramTier, ssd: SsdTier) -> None:
    retaining = Retaining(dram, ssd)
    retaining.take(Retain(Ranked.of(WORTH), Ranked.of(BY_USE), 0.01))
    retaining.take(Retain(Ranked.of(Retention({SECOND: 1.0})), Ranked.of(BY_USE), 60.0))
    await asyncio.sleep(0.05)
    assert _come(dram, ssd, FIRST, SECOND, THIRD)[0] == {SECOND, THIRD}
    retaining.close()


async def test_when_its_time_is_over_what_was_used_longest_ago_goes_again(dram: DramTier, ssd: SsdTier) -> None:
    retaining = Retaining(dram, ssd)
    retaining.take(Retain(Ranked.of(WORTH), Ranked.of(WORTH), 0.01))
    assert not retaining.wants_on_ssd(THIRD)
    await asyncio.sleep(0.05)
    assert _come(dram, ssd, FIRST, SECOND, THIRD) == ({SECOND, THIRD}, {SECOND, THIRD})
    assert retaining.wants_on_ssd(THIRD)


async def test_what_is_staged_in_dram_is_wanted_on_ssd_where_it_is_ranked_there(dram: DramTier, ssd: SsdTier) -> None:
    retaining = Retaining(dram, ssd)
    assert retaining.wants_on_ssd(FIRST)
    retaining.take(Retain(Ranked.of(BY_USE), Ranked.of(Retention({SECOND: 0.1})), 60.0))
    assert [retaining.wants_on_ssd(digest) for digest in (FIRST, SECOND)] == [False, True]
    retaining.close()


@pytest.mark.parametrize("for_s", [0.0, -1.0, float("nan"), float("inf")])
async def test_a_time_that_is_none_changes_nothing(dram: DramTier, ssd: SsdTier, for_s: float) -> None:
    with pytest.raises(ClusterError, match="up to 604800 s"):
        Retaining(dram, ssd).take(Retain(Ranked.of(WORTH), Ranked.of(WORTH), for_s))
    assert _come(dram, ssd, FIRST, SECOND, THIRD)[0] == {SECOND, THIRD}


# ---- how it travels


@given(st.dictionaries(_DIGESTS, _WORTH, max_size=5), _WORTH)
def test_a_ranking_comes_as_it_went(worth: dict[str, float], otherwise: float) -> None:
    said = Retention(worth, otherwise)
    assert unpack(pack(Retain(Ranked.of(said), Ranked.of(BY_USE), 1.0))).dram.retention() == said


def test_a_unit_takes_forty_bytes() -> None:
    worth = Retention({f"{number:064x}": 1.0 / (number + 1) for number in range(MOST_RANKED)})
    assert len(pack(Retain(Ranked.of(worth), Ranked.of(BY_USE), 1.0))) < MOST_RANKED * 40 + 200
    assert len(Ranked.of(worth).retention().worth) == MOST_RANKED


@pytest.mark.parametrize(
    "said",
    [
        Retention({FIRST: float("nan")}),
        Retention({FIRST: float("inf")}),
        Retention({}, otherwise=float("nan")),
        Retention({f"{number:064x}": 1.0 for number in range(MOST_RANKED + 1)}),
    ],
    ids=["nan", "inf", "otherwise", "many"],
)
def test_what_ranks_nothing_is_not_said(said: Retention) -> None:
    with pytest.raises(ValueError, match=r"not finite|at most"):
        Ranked.of(said)


@pytest.mark.parametrize(
    "heard",
    [
        Ranked(bytes(32), b"", 0.0),
        Ranked(bytes(31), bytes(8), 0.0),
        Ranked(bytes(32), bytes(7), 0.0),
        Ranked(bytes(32), b"\xff" * 8, 0.0),
        Ranked(b"", b"", float("nan")),
        Ranked(bytes(32 * (MOST_RANKED + 1)), bytes(8 * (MOST_RANKED + 1)), 0.0),
    ],
    ids=["fewer worths", "half a digest", "half a worth", "nan", "otherwise", "many"],
)
def test_what_ranks_nothing_is_not_understood(heard: Ranked) -> None:
    with pytest.raises(ProtocolError):
        heard.retention()
