"""Parts of a platform that die at random while requests move and clients stream, and what came of every stream.

Whatever dies, a stream goes on as if nothing had been, or ends with an error that says so: no token is lost, doubled or
another than in the answer that nobody disturbed. Only the front end is spared: its clients' connections end with it.
"""

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
import psutil

from benchmarks.moves_operator import ENDS, Operator, Refused
from benchmarks.moves_stream import PATIENCE_S, Stream, streamed

Body = Mapping[str, Any]
SETTLE_S = 120.0
MOVE_EVERY_S = 0.4
_LONGEST_AWAY_S, _PATIENCE_S = 1.0, 30.0


class Harmed(Protocol):
    """A platform whose parts are processes by name: "scheduler", "node-0", ..., maybe "flows"."""

    @property
    def processes(self) -> Mapping[str, Any]: ...

    def kill(self, name: str) -> None:
        """End a part at once."""
        ...

    def again(self, name: str) -> None:
        """Start what was killed as it was started before."""
        ...


@dataclass
class Account:
    """What was done to the platform, and what became of the streams. `wrong_tokens` are those that differ, are missing or
    are too many; `errors` are streams that ended with one, by what it said; `torn` ended without a word."""

    kills: Counter[str] = field(default_factory=Counter)
    moves: Counter[str] = field(default_factory=Counter)
    shifted: int = 0
    stayed: int = 0
    whole: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    torn: list[str] = field(default_factory=list)
    wrong_tokens: int = 0
    wrong: list[str] = field(default_factory=list)

    def hear(self, stream: Stream, expected: Sequence[int]) -> None:
        """A stream is over."""
        got = stream.tokens
        wrong = sum(one != other for one, other in zip(got, expected, strict=False)) + max(0, len(got) - len(expected))
        if not (stream.fault or stream.torn):
            wrong += max(0, len(expected) - len(got))
            self.whole += not wrong
        elif stream.fault:
            self.errors[stream.fault] += 1
        else:
            self.torn.append(f"{stream.torn} after {len(got)} tokens")
        self.wrong_tokens += wrong
        if wrong:
            self.wrong.append(f"{stream.id}: {stream.fault or stream.torn or 'whole'}: {got} instead of {expected}")


class Chaos:
    """`clients` ask for `bodies` in turn, always for another as soon as one is over, an operator orders moves, and parts die.
    Made while nothing is disturbed, for it asks for all answers first, unless it is told them."""

    def __init__(
        self, platform: Harmed, url: str, bodies: Sequence[Body], expected: Sequence[Sequence[int]] | None = None
    ) -> None:
        self._platform, self._operator, self._bodies = platform, Operator(url), bodies
        self._expected = expected or [streamed(url, body).tokens for body in bodies]
        self.account = Account()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._counted: set[str] = set()
        self._streams: set[Stream] = set()
        self._told = 0

    def run(self, kills: int, every_s: float, seed: int, clients: int = 4) -> Account:
        """Return once so many were killed and the last stream is over."""
        chance = random.Random(seed)
        threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(clients)]
        threads.append(threading.Thread(target=self._move, args=(random.Random(seed + 1),), daemon=True))
        for thread in threads:
            thread.start()
        while self.account.kills.total() < kills:
            self._await_tokens()
            time.sleep(chance.uniform(0, 2 * every_s))
            self._kill(chance)
            self._count_moves()
        self._over.set()
        for thread in threads:
            thread.join(PATIENCE_S)
            if thread.is_alive():
                self.account.torn.append("a client still waits")
        self._count_moves()
        return self.account

    def _await_tokens(self) -> None:
        """Until somebody has a token again, so that whoever dies next dies at work. Not for ever: maybe that is the fault."""
        before, until_s = self._tokens(), time.monotonic() + _PATIENCE_S
        while self._tokens() <= before and time.monotonic() < until_s:
            time.sleep(0.05)

    def _tokens(self) -> int:
        with self._lock:
            return self._told + sum(len(stream.tokens) for stream in self._streams)

    def _ask(self, number: int) -> None:
        while not self._over.is_set():
            at = number % len(self._bodies)
            stream = Stream(self._operator.url, self._bodies[at])
            with self._lock:
                self._streams.add(stream)
            stream.run()
            with self._lock:
                self._streams.discard(stream)
                self._told += len(stream.tokens)
                self.account.hear(stream, self._expected[at])
            if stream.fault:
                time.sleep(1.0)  # as a client would
            number += 1

    def _kill(self, chance: random.Random) -> None:
        """A part that is not the front end; who is killed as a whole comes back a little later."""
        parts = [name for name in self._platform.processes if not name.startswith("front")]
        nodes = [name for name in parts if name.startswith("node")]
        kind = chance.choices(("stage", "zygote", "node", "other"), (6, 1, 2, 1))[0]
        if kind in ("node", "other"):
            name = chance.choice(nodes if kind == "node" else [name for name in parts if name not in nodes])
            self._platform.kill(name)
            self.account.kills[name.partition("-")[0]] += 1
            time.sleep(chance.uniform(0, _LONGEST_AWAY_S))
            self._platform.again(name)
            return
        below = children(self._platform, chance.choice(nodes), kind)
        if below:
            with contextlib.suppress(psutil.NoSuchProcess):
                chance.choice(below).kill()
                self.account.kills[kind] += 1

    def _move(self, chance: random.Random) -> None:
        """Order whatever may be ordered; a wish that is refused changes nothing."""
        drained = ""
        while not self._over.is_set():
            time.sleep(chance.uniform(0, 2 * MOVE_EVERY_S))
            with contextlib.suppress(Refused, httpx.HTTPStatusError):
                if drained:
                    self._operator.undrain(drained)
                    drained = ""
                    continue
                status = self._operator.status()
                nodes, replicas = [node["name"] for node in status["nodes"]], status["replicas"]
                if not (nodes and replicas):
                    continue
                kind, node = chance.choice(("consolidate", "migrate", "migrate", "drain")), chance.choice(nodes)
                if kind == "drain":
                    drained = node
                    self._operator.drain(node)
                    continue
                model = chance.choice(replicas)["model"]
                self._operator.order(kind, model=model, **({"node": node} if kind == "migrate" else {}))
        if drained:
            with contextlib.suppress(Refused, httpx.HTTPStatusError):
                self._operator.undrain(drained)

    def _count_moves(self) -> None:
        """Those that ended since it was last asked: the front end keeps only so many."""
        for move in self._operator.moves(limit=256):
            if move["step"] in ENDS and move["move"] not in self._counted:
                self._counted.add(move["move"])
                self.account.moves[f"{move['kind']} {move['step']}"] += 1
                self.account.shifted += move["requests"]["shifted"]
                self.account.stayed += move["requests"]["stayed"]


def children(platform: Harmed, node: str, kind: str) -> list[psutil.Process]:
    """A node's processes that `ps` shows under this name, but for those that are dead."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(platform.processes[node].pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name() == kind and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
    return found


def leaks(platform: Harmed, url: str, within_s: float = SETTLE_S) -> list[str]:
    """What is left of it all after the keep-alive, in words; nothing if nothing is."""
    operator, until_s = Operator(url), time.monotonic() + within_s
    while (left := _left(platform, operator)) and time.monotonic() < until_s:
        time.sleep(0.2)
    return left


def _left(platform: Harmed, operator: Operator) -> list[str]:
    status = operator.status()
    left = [f"a replica {replica}" for replica in status["replicas"]]
    running = [name for name in platform.processes if name.startswith("node")]
    if len(status["nodes"]) != len(running):
        left.append(f"{len(status['nodes'])} of {len(running)} nodes are known")
    for node in status["nodes"]:
        if node["device_reserved_bytes"] or node["stage_processes"]["busy"]:
            left.append(f"{node['name']} holds {node['device_reserved_bytes']} B, {node['stage_processes']}")
        if node.get("draining") or node.get("drained"):
            left.append(f"{node['name']} is drained")
    open_moves = [move for move in operator.moves() if move["step"] not in ENDS]
    left += [f"move {move['move']} stands at {move['step']}" for move in open_moves]
    for name in running:
        with contextlib.suppress(psutil.NoSuchProcess):
            below = Counter(child.name() for child in psutil.Process(platform.processes[name].pid).children(True))
            if below != {"zygote": 1, "stage": 1}:
                left.append(f"{name} has {dict(below)}")
    return left
