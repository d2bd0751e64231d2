"""A platform that is harmed at random while clients stream from it, and what is to be counted afterwards.

`python -m tests.cluster.chaos SECONDS` does it for longer than a test may take, and prints the account.
"""

import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import openai
import psutil

from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish
from tests.asking import openai_of
from tests.real_cluster import RealCluster, run_cluster
from tests.reference import greedy, load_reference
from tests.tiny import make_tiny

MODELS, PROMPT, TOKENS = ("alpha", "beta"), [5, 6, 7], 400
KEEP_ALIVE_S = 1.0
SETTLE_S = 90.0
_PATIENCE_S = 120.0
Holding = Mapping[str, int]


@dataclass
class Account:
    """What became of the streams, and what was done to the platform."""

    whole: int = 0
    broken: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    harms: Counter[str] = field(default_factory=Counter)


class Chaos:
    """Two nodes and a front end in `folder`, whose stages are small, many and short-lived."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.store = folder, ModelStore(ObjectStore(f"file://{folder / 'store'}"))
        self._expected = {name: self._publish(name, 700 + at) for at, name in enumerate(MODELS)}
        self.account = Account()
        self._done = threading.Event()
        self._lock = threading.Lock()

    def run(self, cluster: RealCluster, url: str, seconds: float, every_s: float, seed: int, clients: int = 2) -> None:
        """Stream and harm for so long; returns when the last stream is over."""
        chance = random.Random(seed)
        streams = [threading.Thread(target=self._stream_always, args=(url, MODELS[n % 2])) for n in range(clients)]
        for thread in streams:
            thread.start()
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            time.sleep(chance.uniform(0, 2 * every_s))
            self._harm(cluster, chance)
        self._done.set()
        for thread in streams:
            thread.join()

    def _publish(self, name: str, seed: int) -> list[int]:
        source = make_tiny("llama", self._folder / name, seed=seed, eos_token_id=None)
        publish(str(source), name, self.store)
        return greedy(load_reference(source), PROMPT, TOKENS)

    def _harm(self, cluster: RealCluster, chance: random.Random) -> None:
        """Kill or stop a process below a node, whatever it is at."""
        node = chance.choice([name for name in cluster.processes if name.startswith("node")])
        kind = chance.choices(("stage", "zygote"), (9, 1))[0]
        found = cluster.stages(node) if kind == "stage" else cluster.zygotes(node)
        if found:
            signum = chance.choice((signal.SIGKILL, signal.SIGSTOP))
            with suppress(psutil.NoSuchProcess):
                chance.choice(found).send_signal(signum)
                self.account.harms[f"{kind} {signum.name}"] += 1

    def _stream_always(self, url: str, model: str) -> None:
        while not self._done.is_set():
            tokens: list[int] = []
            fault = self._stream(url, model, tokens)
            expected = self._expected[model]
            with self._lock:
                if tokens == expected and not fault:
                    self.account.whole += 1
                elif fault and tokens == expected[: len(tokens)]:
                    self.account.broken.append(fault)
                else:
                    self.account.wrong.append(f"{model}: {fault}: {tokens}")

    def _stream(self, url: str, model: str, tokens: list[int]) -> str:
        """Add what comes to `tokens`; what was wrong, "" if nothing was."""
        body = {"return_token_ids": True}
        try:
            with openai_of(url, _PATIENCE_S) as client:
                for chunk in client.completions.create(
                    model=model, prompt=PROMPT, temperature=0, max_tokens=TOKENS, stream=True, extra_body=body
                ):
                    tokens += (chunk.choices[0].model_extra or {})["token_ids"]
        except openai.APIError as error:
            return f"{type(error).__name__}: {error}"
        return ""


def holding(process: psutil.Process) -> Holding:
    """What a node holds that could leak. Who has called it keeps a connection or two, which is not the node's doing."""
    children, connections = process.children(recursive=True), process.net_connections("tcp")
    doors = {connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN}
    callers = [c for c in connections if c.status != psutil.CONN_LISTEN and c.laddr.port in doors]
    return {
        "descriptors": process.num_fds() - len(callers),
        "threads": process.num_threads(),
        "children": len(children),
        "stopped or dead": sum(child.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE) for child in children),
        "memory_mib": process.memory_info().rss >> 20,
    }


def nodes_of(cluster: RealCluster) -> list[psutil.Process]:
    return [psutil.Process(process.pid) for name, process in cluster.processes.items() if name.startswith("node")]


def settled(cluster: RealCluster, enough: Callable[[Holding], bool]) -> Sequence[Holding]:
    """What the nodes hold as soon as that is `enough` for each, or when the time is over."""
    deadline_s = time.monotonic() + SETTLE_S
    while True:
        with suppress(psutil.NoSuchProcess):
            found = [holding(node) for node in nodes_of(cluster)]
            if all(enough(each) for each in found) or time.monotonic() > deadline_s:
                return found
        time.sleep(0.2)


def at_rest(held: Holding) -> bool:
    """A zygote and one process that waits, and nothing else."""
    return held["children"] == 2 and held["stopped or dead"] == 0


def main(seconds: float) -> None:
    """A harm every two seconds, and the account."""
    with tempfile.TemporaryDirectory() as name:
        chaos = Chaos(Path(name))
        with run_cluster(Path(name), chaos.store.objects.url, nodes=2) as cluster:
            url = cluster.start_frontend(keep_alive_s=KEEP_ALIVE_S, consolidate=True)
            before = settled(cluster, at_rest)
            chaos.run(cluster, url, seconds, every_s=2.0, seed=int(time.time()))
            after = settled(cluster, at_rest)
            account = chaos.account
            print("harms", dict(account.harms), "whole", account.whole, "broken", Counter(account.broken))
            print("wrong", len(account.wrong), account.wrong[:3])
            print("before", before)
            print("after", after)


if __name__ == "__main__":
    main(float(sys.argv[1]))
