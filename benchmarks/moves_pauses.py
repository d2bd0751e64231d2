"""How long clients wait while their requests move, and how fast their tokens come afterwards."""

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.moves_models import PROMPT
from benchmarks.moves_operator import SETTINGS, Move, Operator
from benchmarks.moves_stream import Stream, median, streamed
from benchmarks.running import Platform, run_platform, settle

NODES, TOGETHER = 2, 10
SETTLE_S = 90.0
BEFORE = 16
"""So many tokens a client has before its request moves: it is well under way then; and so many come after it at least."""
_PIPELINE = {"pipeline": {"frontend": {"degree": 2, "consolidate": False, **SETTINGS}}}
_WHOLE = {"whole": {"frontend": {"degree": 1, **SETTINGS}}}


@dataclass
class Pauses:
    """Of one model, by clients' own clocks. What is `still` is the longest time without a token in as long a part of the
    same stream, right after, in which nothing moved."""

    seconds: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    still_steps: list[float] = field(default_factory=list)
    told_s: list[float] = field(default_factory=list)
    """What the front end says of them."""
    requests: dict[str, int] = field(default_factory=dict)
    ready_s: list[float] = field(default_factory=list)
    """Of each move, until the heirs were whole."""
    late: int = 0
    """Moves that were not over before the stream was: nothing can be said of them."""

    def see(self, stream: Stream, move: Move) -> None:
        """A request that moved."""
        since_s, until_s, step_s = move["switching_at"], move["done_at"], stream.step_s
        pause_s = stream.pause_s(since_s, until_s)
        if pause_s is None:
            self.late += 1
            return
        self.seconds.append(pause_s)
        self.steps.append(pause_s / step_s)
        after_s = until_s + pause_s
        if (still_s := stream.pause_s(after_s, after_s + until_s - since_s)) is not None:
            self.still_steps.append(still_s / step_s)

    def count(self, move: Move) -> None:
        """What a move says of itself."""
        self.told_s += move["pauses_s"]
        self.ready_s.append(move["ready_at"] - move["ordered_at"])
        for what, number in move["requests"].items():
            self.requests[what] = self.requests.get(what, 0) + number


@dataclass
class Paces:
    """Times per token of requests that were consolidated, over those of the same tokens elsewhere in the same run: of a
    replica that was whole from the start (`after` the move, and of the `whole` answer), and of the pipeline before (`during`
    the move)."""

    after: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    during: list[float] = field(default_factory=list)


@contextmanager
def _platform(store_url: str, frontends: Mapping[str, Mapping[str, Any]]) -> Iterator[Platform]:
    with (
        tempfile.TemporaryDirectory(prefix="firsttoken-bench-") as folder,
        run_platform(Path(folder), store_url, NODES, (), frontends=frontends) as platform,
    ):
        yield platform


def consolidations(store_url: str, model: str, count: int, tokens: int) -> tuple[Pauses, Paces]:
    """So many pipelines that become whole under a stream, each followed by a replica that is whole from the start."""
    pauses, paces = Pauses(), Paces()
    body = {"model": model, "prompt": PROMPT, "max_tokens": tokens}
    with _platform(store_url, {**_PIPELINE, **_WHOLE}) as platform:
        operator = Operator(platform.named["pipeline"])
        for _ in range(count):
            settle(operator.url, NODES, time.monotonic() + SETTLE_S)
            moving = Stream(operator.url, body)
            moving.start()
            moving.reach(BEFORE)
            move = operator.await_done(operator.order("consolidate", model=model)["move"])
            moving.end()
            settle(platform.named["whole"], NODES, time.monotonic() + SETTLE_S)
            never = streamed(platform.named["whole"], body)
            pauses.see(moving, move)
            pauses.count(move)
            if move["done_at"] < moving.times_s[-BEFORE]:
                _compare(moving, never, move, paces)
    return pauses, paces


def _compare(moving: Stream, never: Stream, move: Move, paces: Paces) -> None:
    """Of the same tokens: steps grow longer with what comes before."""
    after = sum(at_s <= move["done_at"] for at_s in moving.times_s)
    paces.after.append(median(moving.gaps_s(after)) / median(never.gaps_s(after)))
    paces.whole.append(moving.tpot_s / never.tpot_s)
    before_s = median(moving.gaps_s()[: BEFORE - 1])
    during = [at_s for at_s in moving.times_s if move["ordered_at"] <= at_s <= move["switching_at"]]
    if len(during) >= BEFORE // 2:
        paces.during.append((during[-1] - during[0]) / (len(during) - 1) / before_s)


def migrations(store_url: str, model: str, count: int, tokens: int) -> Pauses:
    """Requests that go to and fro, one at a time, between two replicas, until there were so many migrations."""
    pauses = Pauses()
    both = {"frontend": {"degree": 1, **SETTINGS}, "models": {model: {"min_replicas": 2, "max_replicas": 2}}}
    with _platform(store_url, {"two": both}) as platform:
        operator = Operator(platform.named["two"])
        _await_two(operator, model)
        while len(pauses.seconds) + pauses.late < count:
            stream = Stream(operator.url, {"model": model, "prompt": PROMPT, "max_tokens": tokens})
            stream.start()
            moves: list[Move] = []
            while len(pauses.seconds) + pauses.late + len(moves) < count and len(stream.tokens) < tokens - 4 * BEFORE:
                stream.reach(len(stream.tokens) + BEFORE)
                moves.append(_shifted(operator, model, stream))
            stream.end()
            for move in moves:
                pauses.see(stream, move)
                pauses.count(move)
    return pauses


def _await_two(operator: Operator, model: str) -> None:
    until_s = time.monotonic() + SETTLE_S
    while len(operator.replicas(model)) < 2:
        if time.monotonic() > until_s:
            raise TimeoutError(f"two replicas of {model} are not up: {operator.status()['replicas']}")
        time.sleep(0.1)


def _shifted(operator: Operator, model: str, stream: Stream) -> Move:
    """Its request, over at the other replica."""
    (target,) = [replica["nodes"][0] for replica in operator.replicas(model) if not replica["requests"]]
    return operator.await_done(operator.order("migrate", request=stream.id, node=target)["move"])


def together(store_url: str, model: str, count: int, tokens: int) -> Pauses:
    """A replica with ten requests that goes to another node, so often; every request's pause counts."""
    pauses = Pauses()
    with _platform(store_url, _WHOLE) as platform:
        operator = Operator(platform.named["whole"])
        for _ in range(count):
            bodies = [{"model": model, "prompt": [*PROMPT, n], "max_tokens": tokens} for n in range(TOGETHER)]
            streams = [Stream(operator.url, body) for body in bodies]
            for stream in streams:
                stream.start()
            for stream in streams:
                stream.reach(BEFORE)
            (replica,) = operator.replicas(model)
            (target,) = {f"node-{index}" for index in range(NODES)} - set(replica["nodes"])
            move = operator.await_done(operator.order("migrate", model=model, node=target)["move"])
            pauses.count(move)
            for stream in streams:
                stream.end()
                pauses.see(stream, move)
    return pauses
