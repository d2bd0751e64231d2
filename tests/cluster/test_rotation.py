"""Rotary encodings that change with the length: on both sides of the border what transformers' own `generate` gives."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.model_facts import model_config, renewal_border
from cluster.stage.batching import Batching
from cluster.stage.building.model import StageModel
from cluster.stage.engine import Driver
from cluster.stage.steps import PREFILL_TOKENS
from cluster.stage.worker import Worker
from cluster.wire.requests import Rejected, Submit, Tokens
from tests.cluster.fake_stages import texts_of
from tests.cluster.groups import GREEDY, prompts_of
from tests.cluster.threaded_group import Workers, move_buffers
from tests.reference import greedy, load_reference
from tests.tiny import CHANGING_ROTATIONS, ROTATION_BORDER, make_tiny

_NEW_TOKENS = 20


def _answers(device: torch.device, source: Path, submits: Sequence[Submit]) -> dict[str, list[int]]:
    """What a group of one gives to requests that come at once."""
    config = model_config(json.loads((source / "config.json").read_text()))
    weights = {name: tensor.to(device) for name, tensor in load_reference(source).state_dict().items()}
    model = StageModel(config, torch.float32, 0, config.num_hidden_layers, lambda _unit, _gate: None)
    move_buffers(model, device)
    workers = Workers(device)
    worker = workers(model, 100_000)
    for unit in ("embed", *(f"layer.{i:04d}" for i in range(config.num_hidden_layers)), "head"):
        model.assign(unit, weights)
    answers = _once(worker, renewal_border(config), submits)
    if workers.hasten():
        worker.forget(range(len(submits) + 1))
        assert _once(worker, renewal_border(config), submits) == answers
    return answers


def _once(worker: Worker, border: int | None, submits: Sequence[Submit]) -> dict[str, list[int]]:
    given: list[Tokens | Rejected] = []

    def emit(events: Sequence[Tokens | Rejected]) -> None:
        given.extend(events)
        if sum(isinstance(event, Rejected) or event.finish is not None for event in given) == len(submits):
            driver.inbox.put(None)

    driver = Driver(worker, None, Batching(100_000, 1, border), emit, 60.0)
    for submit in submits:
        driver.inbox.put(submit)
    driver.run()
    return texts_of(given)


def _expected(source: Path, prompt: Sequence[int], new_tokens: int = _NEW_TOKENS) -> list[int]:
    """By a model of its own: transformers' remembers the longest sequence that it has met."""
    reference = load_reference(source)
    reference.generation_config.eos_token_id = None
    return greedy(reference, prompt, new_tokens)


def _ask(name: str, tokens: Sequence[int], prompt_tokens: int, new_tokens: int = _NEW_TOKENS) -> Submit:
    return Submit(name, tuple(tokens), prompt_tokens, new_tokens, (), GREEDY)


@pytest.mark.parametrize("kind", CHANGING_ROTATIONS)
def test_answers_equal_generates_on_both_sides_of_the_border_and_across_it(
    device: torch.device, tmp_path: Path, kind: tuple[str, Mapping[str, Any]]
) -> None:
    """One set of factors was kept for all, that of the longest sequence so far. A request that crossed the border, one
    that stays below it and one that begins beyond it run in one batch here; then each is replayed from where it stood."""
    family, options = kind
    source = make_tiny(family, tmp_path / "source", seed=3, **options)
    border = ROTATION_BORDER
    prompts = prompts_of(256, (5, border - 12, border - 1, border, border + 1, 3 * border))
    expected = {f"r{i}": _expected(source, prompt) for i, prompt in enumerate(prompts)}
    asked = [_ask(f"r{i}", prompt, len(prompt)) for i, prompt in enumerate(prompts)]
    assert _answers(device, source, asked) == expected

    replayed, rest = [], {}
    for submit in asked:
        whole = expected[submit.request]
        for had in (1, 11, 12, 13, 17):
            name = f"{submit.request} after {had}"
            replayed.append(
                _ask(name, [*submit.tokens, *whole[:had]], submit.prompt_tokens, new_tokens=_NEW_TOKENS - had)
            )
            rest[name] = whole[had:]
    assert _answers(device, source, replayed) == rest


@pytest.mark.parametrize("kind", CHANGING_ROTATIONS[:3])
def test_a_prompt_in_pieces_gets_the_factors_of_all_of_it(
    device: torch.device, tmp_path: Path, kind: tuple[str, Mapping[str, Any]]
) -> None:
    """Beside one that answers, prompts come in pieces: the first would end before a border that all of it is beyond."""
    family, options = kind
    source = make_tiny(family, tmp_path / "source", seed=4, **options)
    short, long = prompts_of(256, (7, 2 * PREFILL_TOKENS + 40))
    expected = {"short": _expected(source, short), "long": _expected(source, long, new_tokens=6)}
    asked = [_ask("short", short, len(short)), _ask("long", long, len(long), new_tokens=6)]
    assert _answers(device, source, asked) == expected
