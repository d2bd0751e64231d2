"""Parts of a platform that die at random while requests move and clients stream, and what came of every stream.

Whatever dies, a stream goes on as if nothing had been, or ends with an error that says so: no token is lost, doubled or
another than in the answer that nobody disturbed. Only the front end is spared: its clients' connections end with it.
"""

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
import psutil

from benchmarks.moves_operator import ENDS, Operator, Refused
from benchmarks.moves_stream import Stream, streamed

Body = Mapping[str, Any]
SETTLE_S = 120.0
MOVE_EVERY_S = 0.4
_LONGEST_AWAY_S = 1.0


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

    def run(self, kills: int, every_s: float, seed: int, clients: int = 4) -> Account:
        """Return once so many were killed and the last stream is over."""
        chance = random.Random(seed)
        work: list[Callable[[], None]] = [self._partial(self._ask, number) for number in range(clients)]
        work.append(self._partial(self._move, random.Random(seed + 1)))
        threads = [threading.Thread(target=each, daemon=True) for each in work]
        for thread in threads:
            thread.start()
        while self.account.kills.total() < kills:
            time.sleep(chance.uniform(0, 2 * every_s))
            self._kill(chance)
            self._count_moves()
        self._over.set()
        for thread in threads:
            thread.join(SETTLE_S)
        self._count_moves()
        return self.account

    def _partial(self, method: Callable[[Any], None], argument: Any) -> Callable[[], None]:
        return lambda: method(argument)

    def _ask(self, number: int) -> None:
        while not self._over.is_set():
            at = number % len(self._bodies)
            stream = Stream(self._operator.url, self._bodies[at])
            stream.run()
            with self._lock:
                self.account.hear(stream, self._expected[at])
            number += 1

    def _kill(self, chance: random.Random) -> None:
        """A part that is not the front end; who is killed as a whole comes back a little later."""
        parts = [name for name in self._platform.processes if not name.startswith("front")]
        kind = chance.choices(("stage", "zygote", "part"), (6, 1, 3))[0]
        if kind == "part":
            name = chance.choice(parts)
            self._platform.kill(name)
            self.account.kills[name.partition("-")[0]] += 1
            time.sleep(chance.uniform(0, _LONGEST_AWAY_S))
            self._platform.again(name)
            return
        below = children(self._platform, chance.choice([name for name in parts if name.startswith("node")]), kind)
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
