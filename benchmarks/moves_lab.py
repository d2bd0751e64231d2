"""What moves are worth over wires, and what they cost others: long answers, bursts, cold starts beside a consolidation.

In the lab (infra/lab, as root): four nodes in network namespaces, each behind a card of the given rate.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.moves_models import PROMPT
from benchmarks.moves_operator import SETTINGS, Operator
from benchmarks.moves_stream import Stream, at_once, streamed
from benchmarks.pipeline_lab import empty, rest
from benchmarks.pipeline_models import subjects
from infra.lab.platform import Lab, run_lab

NODES = DEGREE = 4
_PIPELINE = {"degree": DEGREE, "policy": "fixed", "consolidate": False, **SETTINGS}
_PREPARE_S = 0.5
"""So long after a consolidation was ordered another model is asked for: its fetches are under way."""


@contextmanager
def _lab(bytes_per_s: float | None, frontends: Mapping[str, Mapping[str, Any]]) -> Iterator[Lab]:
    with (
        tempfile.TemporaryDirectory(prefix="firsttoken-lab-") as folder,
        run_lab(Path(folder), NODES, (), bytes_per_s, frontends=frontends, ready_s=300.0) as lab,
    ):
        yield lab


@dataclass(frozen=True)
class Ratio:
    """Pairs that were measured one after the other, without and with what is asked about, in seconds."""

    without_s: tuple[float, ...]
    with_s: tuple[float, ...]

    @property
    def speedup(self) -> float:
        return statistics.fmean(self.without_s) / statistics.fmean(self.with_s)

    @property
    def slowdown(self) -> float:
        """In the median of the pairs."""
        return statistics.median(late / soon for soon, late in zip(self.without_s, self.with_s, strict=True))


def long_answers(bytes_per_s: float | None, pairs: int, tokens: int, clients: int) -> Ratio:
    """Seconds per token of answers of cold models, as many at once as there are `clients`: of pipelines that stay so, and of
    those that the front end consolidates when it finds that this pays."""
    moves = {**_PIPELINE, "consolidate": True}
    return _compared(bytes_per_s, _PIPELINE, moves, pairs, clients, tokens, lambda each: each.tpot_s)


def bursts(bytes_per_s: float | None, pairs: int, requests: int, tokens: int) -> Ratio:
    """Mean seconds to the first token of requests that come to a cold model at once: one pipeline that stays so, and one
    that becomes up to four whole replicas. A replica has KV cache for a quarter of them."""
    stays = {**_PIPELINE, "kv_tokens": requests * (tokens + len(PROMPT)) // NODES}
    scales = {**stays, "consolidate": True, "max_replicas": NODES}
    return _compared(bytes_per_s, stays, scales, pairs, requests, tokens, lambda each: each.ttft_s)


def _compared(
    bytes_per_s: float | None, stays: Mapping[str, Any], moves: Mapping[str, Any], pairs: int, requests: int, tokens: int,
    seconds: Callable[[Stream], float],
) -> Ratio:  # fmt: skip
    """The mean `seconds` of requests that come to a cold model at once, at front ends with those settings in turn."""
    found: dict[str, list[float]] = {"stays": [], "moves": []}
    with _lab(bytes_per_s, {"stays": stays, "moves": moves}) as lab:
        (subject,) = subjects(lab, ["smollm2"])
        bodies = [{"model": subject.name, "prompt": [*PROMPT, n], "max_tokens": tokens} for n in range(requests)]
        for _ in range(pairs):
            for name, times_s in found.items():
                rest(lab, lab.named[name])
                empty(lab, [subject.checkpoint])
                times_s.append(statistics.fmean(map(seconds, at_once(lab.named[name], bodies))))
        _tell(lab.named["moves"])
    return Ratio(tuple(found["stays"]), tuple(found["moves"]))


def _tell(url: str) -> None:
    """To stderr, what moved and why."""
    for move in Operator(url).moves():
        took_s = move["done_at"] - move["ordered_at"] if move["done_at"] else float("nan")
        print(
            f"{move['kind']} {move['step']} after {took_s:.1f} s, {move['requests']}: {move['why'] or move['reason']}",
            file=sys.stderr,
        )


def cold_starts_beside(bytes_per_s: float, pairs: int) -> Ratio:
    """TTFT of a cold start over all nodes while another model's pipeline there serves a stream, and while it is also being
    consolidated."""
    alone, beside = list[float](), list[float]()
    with _lab(bytes_per_s, {"pipeline": _PIPELINE}) as lab:
        models = subjects(lab, ["smollm2", "twin"])
        moving, cold = models
        operator = Operator(lab.named["pipeline"])
        for number in range(2 * pairs):
            rest(lab, operator.url)
            empty(lab, [model.checkpoint for model in models])
            stream = Stream(operator.url, {"model": moving.name, "prompt": PROMPT, "max_tokens": 4096})
            stream.start()
            stream.reach(1)
            if number % 2:
                move = operator.order("consolidate", model=moving.name)["move"]
            time.sleep(_PREPARE_S)
            found = streamed(operator.url, {"model": cold.name, "prompt": PROMPT, "max_tokens": 4})
            (beside if number % 2 else alone).append(found.ttft_s)
            print(f"{'beside a consolidation' if number % 2 else 'alone'} {found.ttft_s:.2f} s", file=sys.stderr)
            if number % 2 and (step := operator.move(move)["step"]) != "preparing":
                raise RuntimeError(f"the consolidation was no longer preparing when the cold start was over: {step}")
            stream.leave()
    return Ratio(tuple(alone), tuple(beside))
