"""The KV cache: rooms in slabs, where a step's tokens go, and that what is freed is wiped or given back."""

import weakref
from collections.abc import Sequence

import psutil
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.stage.attending.slabs import SLAB_ROWS, Slab, SlabCache, StepPlan
from cluster.stage.steps import Segment

_CPU = torch.device("cpu")


def _cache(kv_tokens: int = 10_000, layers: int = 1) -> SlabCache:
    return SlabCache(layers, kv_tokens, _CPU)


def _prompt(slot: int, tokens: int = 3, room: int = 64, position: int = 0, wanted: bool = True) -> Segment:
    return Segment(slot, tokens, position, wanted, room)


def _next(slot: int, position: int, room: int = 64) -> Segment:
    return Segment(slot, 1, position, True, room)


def _slabs(plan: StepPlan) -> list[Slab]:
    return [write.slab for write in plan.writes]


def _fill(plan: StepPlan, value: float, layer: int = 0) -> None:
    """Write `value` to where the step's keys and values go."""
    kind = torch.zeros(plan.tokens, 2, 4)
    for write in plan.writes:
        for tensor in write.slab.tensors(layer, kind, kind):
            tensor[write.to] = value


def test_a_request_keeps_its_room() -> None:
    cache = _cache()
    first = cache.place(1, 64)
    cache.place(2, 64)
    assert cache.place(1, 64) == first
    assert cache.slots == 2


def test_rooms_of_one_size_are_neighbours_and_other_sizes_stand_elsewhere() -> None:
    cache = _cache()
    orders = [cache.place(slot, room) for slot, room in [(1, 64), (2, 96), (3, 64), (4, 96), (5, 64)]]
    assert sorted(range(5), key=lambda index: orders[index]) == [0, 2, 4, 1, 3]


def test_a_freed_room_goes_to_the_next_of_its_size() -> None:
    cache = _cache()
    orders = [cache.place(slot, 64) for slot in range(3)]
    cache.forget(1)
    assert cache.slots == 2
    assert cache.place(7, 64) == orders[1]
    assert cache.place(8, 64) > orders[2]


def test_a_slab_that_is_full_is_followed_by_another() -> None:
    cache = _cache(kv_tokens=64 * 1000)
    orders = [cache.place(slot, 64) for slot in range(2 * SLAB_ROWS + 1)]
    assert sorted(orders) == orders
    assert len({number for number, _ in orders}) == 3


def test_a_slab_has_no_more_rows_than_the_cache_has_room_for() -> None:
    (slab,) = _slabs(_cache(kv_tokens=200).plan([_prompt(1, room=64)]))
    assert slab.rows == 3
    (slab,) = _slabs(_cache(kv_tokens=50).plan([_prompt(1, room=50)]))
    assert slab.rows == 1


def test_forgetting_the_unknown_does_nothing() -> None:
    cache = _cache()
    cache.place(1, 64)
    cache.forget(2)
    assert cache.slots == 1
    cache.forget(1)
    cache.forget(1)
    assert cache.slots == 0


def test_a_slab_is_given_back_with_its_last_request() -> None:
    cache = _cache()
    plan = cache.plan([_prompt(1), _prompt(2)])
    _fill(plan, 1.0)
    slab = weakref.ref(_slabs(plan)[0])
    del plan
    cache.forget(1)
    assert slab() is not None
    cache.forget(2)
    assert slab() is None
    assert not any(_slabs(cache.plan([_prompt(3)]))[0].layers), "memory is taken when it is needed"


def test_what_was_in_a_room_is_wiped_and_nothing_else_is() -> None:
    cache = _cache(layers=2)
    plan = cache.plan([_prompt(slot, tokens=60 + slot) for slot in range(3)])
    for layer in range(2):
        _fill(plan, float("inf"), layer)
    cache.plan([_next(1, 61)])
    cache.forget(1)
    (slab,) = {id(slab): slab for slab in _slabs(plan)}.values()
    for layer in slab.layers:
        assert layer is not None
        for tensor in layer:
            rooms = tensor.view(slab.rows, slab.room, 2, 4)
            assert torch.equal(rooms[1], torch.zeros(64, 2, 4))
            assert torch.isinf(rooms[0, :60]).all()
            assert torch.isinf(rooms[2, :62]).all()


def test_a_room_that_was_being_filled_anew_is_wiped_to_its_old_end() -> None:
    """A request that is fed from its first token again may be cancelled before it is back where it was."""
    cache = _cache()
    plan = cache.plan([_prompt(1, tokens=40), _prompt(2)])
    _fill(plan, 5.0)
    cache.plan([_prompt(1, tokens=10, wanted=False)])
    cache.forget(1)
    (slab,) = {id(slab): slab for slab in _slabs(plan)}.values()
    assert slab.layers[0] is not None
    assert not slab.layers[0][0][:64].any()


def test_positions_and_last_tokens_follow_the_segments() -> None:
    plan = _cache().plan([_prompt(1, 3), _prompt(2, 2, wanted=False), _prompt(3, 1), _prompt(4, 4, position=8)])
    assert plan.positions.tolist() == [[0, 1, 2, 0, 1, 0, 8, 9, 10, 11]]
    assert plan.last.tolist() == [2, 5, 9]
    assert plan.tokens == 10


def _rows(plan: StepPlan) -> list[tuple[int, int, int]]:
    return [(decode.slab.room, decode.first_row, decode.end_row) for decode in plan.decodes]


def test_neighbours_are_attended_to_together_and_a_single_hole_does_not_part_them() -> None:
    cache = _cache()
    cache.plan([_prompt(slot) for slot in range(10)] + [_prompt(10 + slot, room=96) for slot in range(2)])
    assert _rows(cache.plan([_next(slot, 3) for slot in range(10)])) == [(64, 0, 10)]
    assert _rows(cache.plan([_next(slot, 4) for slot in (0, 1, 3)])) == [(64, 0, 4)]
    assert _rows(cache.plan([_next(slot, 4) for slot in (9, 2, 5, 6, 8)])) == [(64, 2, 3), (64, 5, 10)]
    mixed = cache.plan([_next(4, 4), _next(11, 3, 96), _next(7, 4), _prompt(99)])
    assert sorted(_rows(mixed)) == [(64, 4, 5), (64, 7, 8), (96, 1, 2)]
    assert [prefill.start for prefill in mixed.prefills] == [3]


def test_a_prompt_of_one_token_is_a_prompt() -> None:
    plan = _cache().plan([_prompt(1, tokens=1)])
    assert (len(plan.prefills), len(plan.decodes)) == (1, 0)


_STEPS = st.lists(st.dictionaries(st.integers(0, 9), st.integers(1, 30), min_size=1), max_size=20)


@given(_STEPS, st.integers(100, 2000))
def test_every_token_has_a_place_of_its_own(steps: Sequence[dict[int, int]], kv_tokens: int) -> None:
    """Ten requests in rooms of three sizes; who does not fit into its room any more is followed by another."""
    cache = _cache(kv_tokens)
    owners: dict[tuple[int, int], tuple[int, int]] = {}
    slots = {lane: lane for lane in range(10)}
    filled = dict.fromkeys(range(10), 0)
    for number, step in enumerate(steps):
        segments = []
        for lane, tokens in step.items():
            room = (64, 96, 100)[lane % 3]
            if filled[lane] + tokens > room:
                cache.forget(slots[lane])
                owners = {place: owner for place, owner in owners.items() if owner[0] != slots[lane]}
                slots[lane], filled[lane] = 100 * (number + 1) + lane, 0
            segments.append(Segment(slots[lane], tokens, filled[lane], True, room))
            filled[lane] += tokens
        plan = cache.plan(segments)
        tokens_of = [(s.slot, s.position + i) for s in segments for i in range(s.tokens)]
        for write in plan.writes:
            taken = range(plan.tokens) if write.take is None else write.take.tolist()
            for take, to in zip(taken, write.to.tolist(), strict=True):
                assert to < write.slab.rows * write.slab.room
                assert owners.setdefault((write.slab.number, to), tokens_of[take]) == tokens_of[take]
        assert set(tokens_of) <= set(owners.values())
        assert cache.slots == len({slots[lane] for lane in filled if filled[lane]})
    assert len(set(owners.values())) == len(owners)


def test_only_what_was_written_takes_memory() -> None:
    room, heads, dim = 4096, 8, 64
    cache = SlabCache(1, SLAB_ROWS * room, _CPU)
    plan = cache.plan([_prompt(1, tokens=16, room=room)])
    kind = torch.ones(16, heads, dim)
    (write,) = plan.writes
    process = psutil.Process()
    before_bytes = process.memory_info().rss
    keys, values = write.slab.tensors(0, kind, kind)
    keys[write.to], values[write.to] = kind, kind
    taken_bytes = process.memory_info().rss - before_bytes
    assert keys.nbytes + values.nbytes == 2 * SLAB_ROWS * room * heads * dim * 4
    assert taken_bytes < keys.nbytes // 20
    assert keys[16:].count_nonzero() == 0
