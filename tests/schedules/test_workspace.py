"""What a stage reserves on a GPU: each term by hand, and what must hold of all of them together, wherever stages go."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.facts import Model, Node, StagePlan, View, Widths
from schedules.ledgers.memory import Memory
from schedules.placing.decision import Question
from schedules.placing.partition import parts_of
from schedules.placing.policies import POLICIES
from schedules.placing.workspace import NO_WORKSPACE, StageShape, Workspace, layer_bytes, pages, workspace_of
from tests.schedules.models import model_of, node_of, question_of, rates_of
from tests.told import objectives_of

MIB = 1 << 20
GIB = 1 << 30
LLAMA_8B = Widths(hidden=4096, inner=14336, attention=6144, vocabulary=128256, number_bytes=2)
_LAYER_KV_BYTES = 4096


def _large(widths: Widths | None = LLAMA_8B, layers: int = 32) -> Model:
    sizes = [1050 * 10**6, *[436 * 10**6] * layers, 1050 * 10**6]
    return replace(model_of(sizes, kv_bytes_per_token=layers * _LAYER_KV_BYTES), widths=widths)


def _gpu(name: str, device_bytes: int, context_bytes: int = 552 * MIB, gpu: str = "gpu") -> Node:
    return replace(node_of(name, device_bytes), gpu=gpu, context_bytes=context_bytes)


def test_each_term_is_what_its_name_says() -> None:
    """Of two layers in three units, the last of three stages: 10 numbers go through, 30 are inside, 24 are attended with, a
    logit for each of 100 tokens."""
    widths = Widths(hidden=10, inner=30, attention=24, vocabulary=100, number_bytes=2)
    found = workspace_of(widths, StageShape(layers=2, units=3, rank=2, degree=3), kv_tokens=100, layer_kv_bytes=8)
    assert found == Workspace(
        prompt=2048 * ((4 * 10 + 4 * 30) * 2 + 8 * 10),
        gathered=100 * (8 + 8),
        scores=0,
        logits=256 * 100 * (2 + 32) + 64 * MIB,
        products=128 * MIB,
        blocks=2 * MIB * (3 + 4) + 64 * MIB,
        scratch_pages=(5 * 32 - 100) * 8 * 2,
        graphs=883 * (100 * 2 + (4 * 10 + 4 * 30) * 2 + 8 * 10),
        graph_kernels=14 * 2 * (256 << 10),
        lines=256 * MIB,
    )
    of_all = sum(vars(found).values())
    assert found.inside_bytes + found.outside_bytes == of_all
    assert found.outside_bytes == found.graph_kernels + found.lines


def test_without_flash_attention_scores_stand_in_memory_and_keys_once_for_each_query() -> None:
    """20 of 24 numbers are queries', 2 keys' and 2 values': 4 of 2 bytes are cached of a token, and 2 x 20 used."""
    shape = StageShape(layers=2, units=3, rank=0, degree=1)
    flash, plain = (
        workspace_of(Widths(10, 30, 24, 100, 2, plain), shape, kv_tokens=100, layer_kv_bytes=8)
        for plain in (False, True)
    )
    assert plain.scores == 12 * (1 << 26) + 100 * 2048
    assert plain.gathered == 100 * (8 + 2 * 20 * 2)
    assert replace(plain, scores=0, gathered=flash.gathered) == flash


def test_a_stage_that_is_not_the_last_keeps_hidden_states_for_its_graphs() -> None:
    widths = Widths(10, 30, 24, 100, 2)
    first, last = (workspace_of(widths, StageShape(2, 3, rank, 2), 100, 8) for rank in (0, 1))
    assert last.graphs - first.graphs == 883 * (100 - 10) * 2


@pytest.mark.parametrize(("tokens", "there"), [(1, 2), (31, 2), (32, 2), (33, 3), (64, 3), (65, 4)])
def test_kv_cache_has_whole_pages_and_one_of_scratch(tokens: int, there: int) -> None:
    assert pages(tokens) == there


def test_wide_attention_counts_where_it_is_wider_than_the_feed_forward() -> None:
    narrow, wide = (Widths(10, 30, attention, 100, 2) for attention in (40, 44))
    assert layer_bytes(wide, 1) - layer_bytes(narrow, 1) == (3 * 44 - 4 * 30) * 2


def test_only_the_last_stage_has_logits_and_each_has_a_line_to_each_neighbour() -> None:
    parts = parts_of(_large(), 4, 1024, gpus=True)
    assert [part.workspace.logits > 0 for part in parts] == [False, False, False, True]
    assert [part.workspace.lines // (256 * MIB) for part in parts] == [1, 2, 2, 1]
    assert parts_of(_large(), 1, 1024, gpus=True)[0].workspace.lines == 0


def test_a_model_of_8_billion_weights_needs_less_beside_them_than_a_tenth_of_its_gpu() -> None:
    """It was 14 GB of a GPU of 141, whatever ran there, and a stage could take 1 GiB more than it had reserved."""
    workspace = parts_of(_large(), 1, 16384, gpus=True)[0].workspace
    assert 1 * GIB < workspace.inside_bytes + workspace.outside_bytes < 3 * GIB


def test_without_a_gpu_in_sight_and_without_widths_nothing_is_reserved_for_computing() -> None:
    assert {part.workspace for part in parts_of(_large(), 2, 64)} == {NO_WORKSPACE}
    assert {part.workspace for part in parts_of(_large(None), 2, 64, gpus=True)} == {NO_WORKSPACE}


def test_of_nodes_of_both_kinds_only_those_with_a_gpu_reserve_for_it() -> None:
    view = View((node_of("cpu", 20 * GIB), _gpu("gpu", 20 * GIB)))
    goal = objectives_of(max_degree=2, kv_tokens=64)
    chosen = POLICIES["fixed"].decide(question_of(_large(), view, goal)).chosen
    assert chosen is not None
    assert chosen.placement is not None
    stages = {stage.node: stage for stage in chosen.placement.stages}
    assert (stages["cpu"].workspace_bytes, stages["cpu"].outside_bytes) == (0, 0)
    assert stages["cpu"].reserve_bytes == stages["cpu"].weight_bytes + stages["cpu"].kv_bytes
    assert stages["gpu"].workspace_bytes > 0
    assert stages["gpu"].outside_bytes > 552 * MIB


def test_a_stage_takes_all_of_a_gpu_and_no_byte_more() -> None:
    """The last byte that is missing is one of its process's context."""
    part = parts_of(_large(), 1, 64, gpus=True)[0]
    for short_bytes, fits in ((0, True), (1, False)):
        view = View((_gpu("gpu", part.reserve_bytes + 552 * MIB - short_bytes),))
        for policy in POLICIES.values():
            question = question_of(_large(), view, objectives_of(max_degree=1, kv_tokens=64))
            chosen = policy.decide(_measured(question)).chosen if fits else None
            assert (chosen is not None) == fits
            assert policy.decide(_measured(question)).kind == ("start" if fits else "none")


def _measured(question: Question) -> Question:
    nodes = tuple(replace(node, rates=rates_of(nic=1e9, ssd=1e9)) for node in question.view.nodes)
    return question_of(question.model, View(nodes), question.objectives)


_MODELS = st.builds(
    lambda layers, widths, size_bytes, kv_bytes, tied: replace(
        model_of([size_bytes] * (layers + 2), tied, kv_bytes), widths=widths
    ),
    st.integers(1, 6),
    st.builds(
        Widths, *[st.integers(1, 9000)] * 3, vocabulary=st.integers(2, 300_000), number_bytes=st.sampled_from([2, 4])
    ),
    st.integers(1, GIB),
    st.integers(0, 9000),
    st.booleans(),
)


@pytest.mark.parametrize("policy", sorted(POLICIES))
@given(
    models=st.lists(_MODELS, min_size=1, max_size=6),
    sizes=st.lists(st.tuples(st.integers(0, 24 * GIB), st.integers(0, GIB)), min_size=1, max_size=4),
    kv_tokens=st.integers(1, 5000),
    degree=st.integers(1, 3),
)
def test_whatever_is_placed_contexts_and_all_that_is_asked_for_fit_on_each_gpu(
    policy: str, models: list[Model], sizes: list[tuple[int, int]], kv_tokens: int, degree: int
) -> None:
    """Starts one after the other, none of which has been reported yet when the next is decided."""
    nodes = tuple(
        replace(_gpu(f"n{i}", size_bytes, context_bytes, f"gpu {i}"), rates=rates_of(nic=1e9, ssd=1e9))
        for i, (size_bytes, context_bytes) in enumerate(sizes)
    )
    memory, placed = Memory(), list[StagePlan]()
    for number, model in enumerate(models):
        goal = objectives_of(max_degree=degree, kv_tokens=kv_tokens)
        chosen = POLICIES[policy].decide(question_of(model, View(nodes), goal, memory=memory)).chosen
        if chosen is not None and chosen.placement is not None:
            memory.promise(f"group {number}", chosen.placement.reserved_bytes)
            placed += chosen.placement.stages
    for node in nodes:
        here = [stage for stage in placed if stage.node == node.name]
        asked_bytes = sum(stage.reserve_bytes - stage.outside_bytes for stage in here)
        assert len(here) * node.context_bytes + asked_bytes <= node.device_bytes
        assert sum(stage.reserve_bytes for stage in here) <= node.device_bytes
        assert all(stage.outside_bytes >= node.context_bytes for stage in here)
