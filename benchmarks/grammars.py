"""Answers that keep to grammars: a step beside a free one, what a grammar takes to compile, and who waits for that."""

import hashlib
import json
import queue
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from benchmarks.generation_model import MeasuredModel, measured_model
from benchmarks.loading_ours import model_store, tensors_in
from benchmarks.report import Result, parser, report
from cluster.model_facts import model_config, renewal_border
from cluster.stage.batching import Batching
from cluster.stage.building.model import StageModel
from cluster.stage.choosing.batch import chooser_on
from cluster.stage.choosing.grammars import Grammars
from cluster.stage.engine import Driver
from cluster.stage.stepping.acceleration import means
from cluster.stage.worker import Worker
from cluster.wire.requests import Event, Grammar, Sampling, Submit, Tokens, Words
from storage_tiers.tokenizers import open_tokenizer

_CPU = torch.device("cpu")
_WITHIN_S = 120.0
_KV_TOKENS = 16 * 1024
_PROMPT, _STEPS, _RUNS = 32, 32, 3
_SMALL = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
_ENDLESS = {"type": "array", "items": _SMALL, "minItems": 1000}


def main() -> int:
    options = parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)  # what others do on the machine then weighs less, and masks have a core
    model = measured_model("bf16")
    words = _words(model)
    with_driver = _Driver(model)
    try:
        results = [*_compiling(words), *_stepping(with_driver, words), *_beside(with_driver, words)]
    finally:
        with_driver.end()
    report("grammars", results, options.json)
    return 0


def _words(model: MeasuredModel) -> Words:
    """Those of a byte-level tokenizer."""
    store = model_store(model.store_url, {})
    files = {file.name: store.read_file(model.checkpoint.name, file) for file in model.checkpoint.files}
    tokenizer: Any = open_tokenizer(files, model.checkpoint.config)
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    to_byte = {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}
    special = set(tokenizer.all_special_ids)
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    tokens = tuple(b"" if i in special else bytes(map(to_byte.__getitem__, name)) for i, name in enumerate(names))
    ends = (int(tokenizer.eos_token_id),)
    return Words(hashlib.sha256(repr((tokens, ends)).encode()).hexdigest(), tokens, ends)


def _grammar(schema: Any, words: Words) -> Grammar:
    return Grammar(f"start: %json {json.dumps(schema)}", words)


def _heavy(number: int = 0) -> dict[str, Any]:
    """Some 60,000 characters: fifty fields, each one of ten patterns or a list out of forty values."""
    fields = {
        f"k{i}_{number}": {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {
                        f"p{j}_{i}": {"type": "string", "pattern": f"^[a-z]{{3,{5 + j}}}(-[0-9]{{2,5}})+$"}
                        for j in range(10)
                    },
                },
                {"type": "array", "items": {"enum": [f"v{i}_{j}" for j in range(40)]}, "minItems": 1, "maxItems": 20},
            ]
        }
        for i in range(50)
    }
    return {"type": "object", "properties": fields, "required": list(fields)}


def _compiling(words: Words) -> list[Result]:
    def timed(grammars: Grammars, schema: Any) -> float:
        since_s = time.perf_counter()
        assert grammars.begin(_grammar(schema, words), ()).ready(_WITHIN_S)
        return (time.perf_counter() - since_s) * 1e3

    found: dict[str, list[float]] = {"words_and_first": [], "small": [], "small_again": [], "heavy": []}
    for run in range(_RUNS):
        grammars = Grammars()
        found["words_and_first"].append(timed(grammars, {"type": "null"}))
        found["small"].append(timed(grammars, _SMALL))
        found["small_again"].append(timed(grammars, _SMALL))
        found["heavy"].append(timed(grammars, _heavy(run)))
    return [Result(f"compile_ms_{name}", statistics.median(ms), "ms", "lower") for name, ms in found.items()]


@dataclass(frozen=True)
class _Steps:
    """Seconds from one step's tokens to the next's."""

    seconds: Sequence[float]

    def ms(self, percentile: float) -> float:
        return float(np.percentile(self.seconds, percentile)) * 1e3


class _Driver:
    """One stage of the whole model in this process."""

    def __init__(self, model: MeasuredModel) -> None:
        checkpoint = model.checkpoint
        config = model_config(dict(checkpoint.config))
        layers = StageModel(config, getattr(torch, model.dtype), 0, checkpoint.layers, lambda _unit, _gate: None)
        cache, acceleration = means(layers, layers, _KV_TOKENS, _CPU)
        store = model_store(model.store_url, {})
        for unit in checkpoint.units:
            data = bytearray(unit.size_bytes)
            store.read_unit_into(checkpoint.name, unit, 0, memoryview(data))
            layers.assign(unit.name, tensors_in(unit, data))
        worker = Worker(
            layers.eval(), layers, cache, lambda _name, _since_s: None, _NoPulse(), acceleration, chooser_on(_CPU)
        )
        self._text = model.text
        self._told: queue.Queue[tuple[float, Sequence[Event]]] = queue.Queue()
        batching = Batching(_KV_TOKENS, 1, renewal_border(config))
        self._driver = Driver(
            worker, None, batching, lambda told: self._told.put((time.perf_counter(), told)), _WITHIN_S
        )
        self._thread = threading.Thread(target=self._driver.run)
        self._thread.start()
        self._number = 0

    def steps(self, count: int, grammar: Grammar | None, beside: Sequence[Grammar] = ()) -> _Steps:
        """So many requests decode together; once they do, others come that have the grammars `beside`."""
        names = [self._submit(grammar, _STEPS) for _ in range(count)]
        had, at, others = dict.fromkeys(names, 0), list[float](), list[str]()
        left = {*names}
        while left:
            now_s, told = self._told.get(timeout=_WITHIN_S)
            for event in told:
                assert isinstance(event, Tokens), event
                had[event.request] = had.get(event.request, 0) + 1
                if event.finish is not None:
                    left.discard(event.request)
            if any(event.request in names for event in told) and min(had[name] for name in names) >= 2:
                at.append(now_s)
            if len(at) == 1 and not others:
                others = [self._submit(other, 1) for other in beside]
                left |= {*others}
        return _Steps([after - before for before, after in pairwise(at)])

    def end(self) -> None:
        self._driver.inbox.put(None)
        self._thread.join()

    def _submit(self, grammar: Grammar | None, most: int) -> str:
        self._number += 1
        name, first = f"r{self._number}", self._number % 100
        prompt = self._text[first : first + _PROMPT]
        self._driver.inbox.put(Submit(name, prompt, _PROMPT, most, (), Sampling(temperature=0.0), 0, grammar))
        return name


class _NoPulse:
    def step(self, tokens: int) -> None:
        pass

    def rest(self) -> None:
        pass


def _stepping(driver: _Driver, words: Words) -> list[Result]:
    """Free and kept to a grammar in turn, so that both meet the same machine."""
    results = []
    for count in (1, 16):
        driver.steps(count, _grammar(_ENDLESS, words))
        free, kept = list[float](), list[float]()
        for _ in range(_RUNS):
            free.append(driver.steps(count, None).ms(50))
            kept.append(driver.steps(count, _grammar(_ENDLESS, words)).ms(50))
        ratio = statistics.median(k / f for k, f in zip(kept, free, strict=True))
        results += [
            Result(f"step_ms_free_requests{count}", statistics.median(free), "ms", "lower"),
            Result(f"step_ms_kept_requests{count}", statistics.median(kept), "ms", "lower"),
            Result(f"tpot_kept_over_free_requests{count}", ratio, "", "lower"),
        ]
    return results


def _beside(driver: _Driver, words: Words) -> list[Result]:
    """Steps of four free requests, while nobody comes, and while one does whose grammar is heavy and new."""
    found: dict[str, list[_Steps]] = {"alone": [], "compiling": []}
    for run in range(_RUNS):
        found["alone"].append(driver.steps(4, None))
        found["compiling"].append(driver.steps(4, None, [_grammar(_heavy(100 + run), words)]))
    return [
        Result(f"step_ms_p{p}_{name}", statistics.median(s.ms(p) for s in steps), "ms", "lower")
        for name, steps in found.items()
        for p in (50, 99)
    ]


if __name__ == "__main__":
    sys.exit(main())
