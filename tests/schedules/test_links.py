"""Shares of links: nobody gets more than there is, nobody could have more without another getting less who has less."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.ledgers.links import Links
from schedules.ledgers.shares import LATER, Transfer, finish_times, shares

_LINKS = ("store", "nic:a", "nic:b", "nic:c")
_RATES = st.fixed_dictionaries({link: st.floats(1.0, 1000.0) for link in _LINKS})
_TRANSFERS = st.lists(
    st.tuples(
        st.lists(st.sampled_from(_LINKS), min_size=1, max_size=3, unique=True), st.floats(1.0, 1e5), st.integers(0, 2)
    ),
    max_size=8,
).map(lambda found: [Transfer(f"t{i}", tuple(links), size, rank) for i, (links, size, rank) in enumerate(found)])


@given(_RATES, _TRANSFERS)
def test_no_link_is_oversubscribed(rates: dict[str, float], transfers: list[Transfer]) -> None:
    given_out = shares(rates, transfers)
    for link, rate in rates.items():
        assert sum(given_out[t.name] for t in transfers if link in t.links) <= rate * (1 + 1e-9)


@given(_RATES, _TRANSFERS)
def test_everyone_is_held_up_by_a_full_link_on_which_nobody_of_its_priority_has_more(
    rates: dict[str, float], transfers: list[Transfer]
) -> None:
    """The definition of max-min fairness, by bottlenecks; first priorities take all they can."""
    given_out = shares(rates, transfers)
    for transfer in transfers:
        held_up = False
        for link in transfer.links:
            users = [t for t in transfers if link in t.links and t.priority <= transfer.priority]
            full = sum(given_out[t.name] for t in users) >= rates[link] * (1 - 1e-6)
            most = max(given_out[t.name] for t in users if t.priority == transfer.priority)
            held_up |= full and given_out[transfer.name] >= most * (1 - 1e-6)
        assert held_up, transfer


def test_what_one_cannot_use_the_others_get() -> None:
    """Equal shares of the store would be 50 each, though a's card lets only 20 through."""
    transfers = [Transfer("a", ("store", "nic:a"), 1), Transfer("b", ("store", "nic:b"), 1)]
    assert shares({"store": 100, "nic:a": 20, "nic:b": 200}, transfers) == {"a": 20, "b": 80}


def test_a_later_priority_gets_what_is_left() -> None:
    transfers = [Transfer("cold", ("store", "nic:a"), 1), Transfer("prewarm", ("store",), 1, priority=1)]
    assert shares({"store": 100, "nic:a": 70}, transfers) == {"cold": 70, "prewarm": 30}


def test_a_transfer_through_no_known_link_is_done_at_once() -> None:
    assert finish_times({}, [Transfer("a", ("unknown",), 1e9)], 5.0) == {"a": 5.0}


def test_a_share_grows_when_another_is_done() -> None:
    """Both at 50 until the short one is done at 2 s; then the long one has 100 for its other 200 bytes."""
    transfers = [Transfer("short", ("store",), 100), Transfer("long", ("store",), 300)]
    assert finish_times({"store": 100}, transfers, 0.0) == {"short": 2.0, "long": 4.0}


@given(_RATES, _TRANSFERS)
def test_no_link_moves_bytes_faster_than_it_can(rates: dict[str, float], transfers: list[Transfer]) -> None:
    """Of those through a link, the last cannot be done before the link has moved all their bytes."""
    done = finish_times(rates, transfers, 0.0)
    for link, rate in rates.items():
        users = [t for t in transfers if link in t.links]
        if users:
            assert max(done[t.name] for t in users) >= sum(t.remaining_bytes for t in users) / rate * (1 - 1e-6) - 2e-3


@given(_RATES, _TRANSFERS, st.lists(st.floats(0.0, 50.0), max_size=5))
def test_the_ledger_and_the_forecast_agree_however_often_the_clock_is_read(
    rates: dict[str, float], transfers: list[Transfer], times: list[float]
) -> None:
    links = Links(rates, 0.0)
    links.begin(transfers, 0.0)
    forecast = finish_times(rates, transfers, 0.0)
    for now_s in sorted(times):
        links.advance(now_s)
        left = {transfer.name for transfer in links.transfers}
        margin_s = 1e-3 + 1e-6 * now_s
        assert {n for n, done_s in forecast.items() if done_s > now_s + margin_s} <= left
        assert left <= {n for n, done_s in forecast.items() if done_s > now_s - margin_s}


def test_a_fetch_is_admitted_while_everyone_stays_in_time() -> None:
    links = Links({"store": 100.0}, 0.0)
    links.begin([Transfer("first", ("store",), 400, deadline_s=10.0)], 0.0)
    assert links.consider([Transfer("second", ("store",), 500, deadline_s=10.0)], 0.0).admitted
    verdict = links.consider([Transfer("second", ("store",), 700, deadline_s=20.0)], 0.0)
    assert verdict.admitted
    assert verdict.finish_s == {"first": 8.0, "second": 11.0}


def test_a_fetch_that_would_make_another_late_is_not_admitted() -> None:
    links = Links({"store": 100.0}, 0.0)
    links.begin([Transfer("first", ("store",), 400, deadline_s=5.0)], 0.0)
    verdict = links.consider([Transfer("second", ("store",), 400, deadline_s=60.0)], 0.0)
    assert verdict.broken == ("first",)
    assert links.consider([Transfer("second", ("store",), 400, 1, deadline_s=60.0)], 0.0).admitted


def test_who_is_late_anyway_is_no_reason_to_refuse() -> None:
    links = Links({"store": 100.0}, 0.0)
    links.begin([Transfer("hopeless", ("store",), 1000, deadline_s=1.0)], 0.0)
    assert links.consider([Transfer("second", ("store",), 100, deadline_s=60.0)], 0.0).admitted


def test_what_ends_gives_its_share_back() -> None:
    links = Links({"store": 100.0}, 0.0)
    links.begin([Transfer("a", ("store",), 1000), Transfer("b", ("store",), 1000)], 0.0)
    links.end("a", 2.0)
    assert links.forecast(2.0) == {"b": 11.0}
    links.end("a", 3.0)


def test_what_ends_together_gives_its_share_back_though_some_of_it_touched_nobody() -> None:
    links = Links({"l": 100.0}, 0.0)
    links.begin([Transfer("s/a", ("l",), 100.0), Transfer("x", ("l",), 100.0)], 0.0)
    links.advance(0.5)
    links.begin([Transfer("s/b", ("of no limit",), 100.0)], 0.5)
    links.end_start("s", 0.5, later_too=True)
    links.advance(1.0)
    assert [(t.name, t.remaining_bytes) for t in links.transfers] == [("x", pytest.approx(25.0))]


def test_who_begins_or_ends_apart_from_others_leaves_them_as_they_were() -> None:
    """They are not reckoned anew, so that a ledger of many costs no more than one of few."""
    links = Links({"l": 100.0, "m": 10.0, "n": 10.0}, 0.0)
    links.begin([Transfer("x", ("l",), 100.0), Transfer("y", ("m",), 100.0, queue="q")], 0.0)
    links.advance(0.25)
    before = links._flow._moving["x"]
    links.begin([Transfer("s/a", ("n",), 10.0, queue="r"), Transfer("s/b", ("n",), 10.0, queue="r")], 0.25)
    links.advance(0.5)
    links.end_start("s", 0.5, later_too=True)
    links.begin([Transfer("t", ("n",), 10.0, queue="r")], 0.5)
    links.advance(0.75)
    left = {t.name: t.remaining_bytes for t in links.transfers}
    assert left == pytest.approx({"x": 25.0, "y": 92.5, "t": 7.5})
    links.begin([Transfer("z", ("m",), 5.0, queue="q")], 0.75)
    assert links._flow._moving["x"] is before


def test_a_name_is_used_once_at_a_time() -> None:
    links = Links({"store": 100.0}, 0.0)
    links.begin([Transfer("a", ("store",), 100)], 0.0)
    with pytest.raises(ValueError, match="under way"):
        links.begin([Transfer("a", ("store",), 100)], 0.5)
    links.begin([Transfer("a", ("store",), 100)], 1.5)


def test_of_a_queue_only_the_first_moves_and_the_next_when_it_is_done() -> None:
    first = Transfer("first", ("nic",), 100, queue="node")
    second = Transfer("second", ("nic",), 100, queue="node")
    urgent = Transfer("urgent", ("nic",), 100, priority=-1, queue="node")
    assert finish_times({"nic": 100}, [first, second], 0.0) == {"first": 1.0, "second": 2.0}
    assert finish_times({"nic": 100}, [first, second, urgent], 0.0) == {"urgent": 1.0, "first": 2.0, "second": 3.0}


@given(_RATES, _TRANSFERS, _TRANSFERS)
def test_a_verdict_is_that_of_the_whole_ledger(
    rates: dict[str, float], present: list[Transfer], new: list[Transfer]
) -> None:
    """Those that the new ones do not touch are left out of the reckoning, and nothing else is."""
    links = Links(rates, 0.0)
    links.begin(present, 0.0)
    asked = [Transfer(f"new-{t.name}", t.links, t.remaining_bytes, t.priority) for t in new]
    found = links.consider(asked, 0.0).finish_s
    whole = finish_times(rates, [*present, *asked], 0.0)
    assert found.keys() >= {t.name for t in asked}
    assert found == pytest.approx({name: whole[name] for name in found})


def test_a_link_that_slows_down_makes_everything_on_it_later() -> None:
    links = Links({"store": 100.0}, 0.0)
    links.begin([Transfer("a", ("store",), 1000)], 0.0)
    links.measure({"store": 50.0}, 5.0)
    assert links.forecast(5.0) == {"a": 15.0}
    with pytest.raises(ValueError, match="0 bytes/s"):
        links.measure({"store": 0}, 6.0)


def test_what_comes_behind_a_first_token_stays_in_the_ledger_when_that_is_out() -> None:
    """All that a start fetched left the ledger with its first token, also an embedding that was still to come: the next
    start was promised the whole card and got half of it."""
    links = Links({"nic": 10.0}, 0.0)
    links.begin([Transfer("s/0/store", ("nic",), 100, queue="n")], 0.0)
    links.begin(
        [Transfer("s/0/store/later", ("nic",), 100, LATER, queue="n"), Transfer("st/0/store", ("nic",), 1)], 0.0
    )
    links.end_start("s", 4.0, later_too=False)
    assert {t.name for t in links.transfers} == {"s/0/store/later"}
    assert links.forecast(4.0) == {"s/0/store/later": 14.0}
    links.end_start("s", 5.0, later_too=True)
    assert links.transfers == ()


def test_links_hear_of_changes_alone() -> None:
    links = Links({"a": 10.0, "b": 5.0}, 0.0)
    links.begin([Transfer("t", ("a", "b"), 100)], 0.0)
    links.change({"b": None, "c": 1.0}, 10.0)
    assert (links.rates, links.forecast(10.0)) == ({"a": 10.0, "c": 1.0}, {"t": 15.0})
    with pytest.raises(ValueError, match="0 bytes/s"):
        links.change({"a": 0}, 11.0)


_QUEUED = st.lists(
    st.tuples(
        st.lists(st.sampled_from(_LINKS), min_size=1, max_size=2, unique=True),
        st.floats(1.0, 1e5),
        st.integers(0, 2),
        st.sampled_from((None, "a", "b")),
    ),
    min_size=1,
    max_size=5,
)


@given(_RATES, st.lists(st.tuples(_QUEUED, st.floats(0.0, 50.0), st.booleans(), st.booleans()), min_size=1, max_size=5))
def test_a_forecast_that_is_kept_is_what_it_would_be_if_it_was_made_anew(
    rates: dict[str, float],
    starts: list[tuple[list[tuple[list[str], float, int, str | None]], float, bool, bool]],
) -> None:
    """However starts come, with or without having been considered, and go: of others only those are looked at again whose
    shares change."""
    links, now_s = Links(rates, 0.0), 0.0
    for number, (fetches, after_s, considered, ends) in enumerate(starts):
        new = [
            Transfer(f"s{number}/{i}", tuple(through), size, rank, None, queue)
            for i, (through, size, rank, queue) in enumerate(fetches)
        ]
        if considered:
            links.consider([transfer.until(1.0) for transfer in new], now_s)
        links.begin(new, now_s)
        _assert_as_made_anew(links, rates, now_s)
        now_s += after_s
        if ends:
            links.end_start(f"s{number // 2}", now_s, later_too=considered)
        _assert_as_made_anew(links, rates, now_s)


def _assert_as_made_anew(links: Links, rates: dict[str, float], now_s: float) -> None:
    kept = links.forecast(now_s)
    assert kept == pytest.approx(finish_times(rates, links.transfers, now_s), rel=1e-6, abs=2e-3)


def test_the_ledger_says_who_is_done_and_when_the_next_will_be() -> None:
    links = Links({"a": 10.0, "b": 10.0}, 0.0)
    links.begin([Transfer("x", ("a",), 10), Transfer("y", ("b",), 30), Transfer("z", ("b",), 30)], 0.0)
    assert links.next_s() == 1.0
    assert list(links.advance(2.0)) == ["x"]
    assert links.next_s() == 6.0
    links.end("y", 2.0)
    assert links.next_s() == 4.0
    assert list(links.advance(9.0)) == ["z"]
    assert links.next_s() == float("inf")


def test_a_queue_is_who_stands_in_it_with_what_is_to_go() -> None:
    links = Links({"nic": 10.0}, 0.0)
    links.begin([Transfer("x", ("nic",), 30, queue="n"), Transfer("y", ("nic",), 50, queue="n")], 0.0)
    assert [(t.name, t.remaining_bytes) for t in links.queue("n", 1.0)] == [("x", 20.0), ("y", 50)]
    assert list(links.queue("n", 1.0)) == links.queues(1.0)["n"]
    assert not links.queue("another", 1.0)
