"""Measuring a whole cluster: every node alone, then all together on the store, which tells what the store gives to all."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.client import ClusterClient
from cluster.errors import ClusterError, Refused
from cluster.wire.orders import OF_NODE, OF_STORE, STORE_S
from schedules.facts import Rate
from schedules.rates import NIC, store_limit

TOGETHER_S = 3.0
"""Long, for nodes begin and end a little apart, and who reads while others do not yet, or no more, gets their share."""
NODES_WITHIN_S = 30.0
_ATTEMPTS, _AGAIN_AFTER_S = 5, 2.0


@dataclass(frozen=True)
class Calibration:
    """What the nodes report once all was measured, by node; `store` is one sentence on the object store, `limit` what it
    gives to all nodes together in bytes/s, if that limits them. `failures` says of whom something could not be measured."""

    rates: Mapping[str, Mapping[str, Rate]]
    store: str
    limit: float | None = None
    failures: tuple[str, ...] = field(default=())

    def rows(self) -> list[dict[str, str | int | float]]:
        """A table: node, rate, mean, bad end, samples, in the units of schedules.rates."""
        return [
            {"node": node, "rate": name, "mean": rate.mean, "bad": rate.bad, "samples": rate.samples}
            for node, rates in sorted(self.rates.items())
            for name, rate in sorted(rates.items())
        ]


async def calibrate(client: ClusterClient) -> Calibration:
    """Measure every node and tell each what was found of the store. ClusterError if there is no node.

    A node in the middle of a cold start or of loading units is asked again a few times; one that cannot measure is named.
    """
    nodes = [node.name for node in (await client.nodes(1, NODES_WITHIN_S)).nodes]
    failures: list[str] = []
    alone: dict[str, float] = {}
    for node in nodes:
        for what in (OF_NODE, OF_STORE):
            found = await _probe(client, node, what, failures)
            alone |= {node: found[NIC]} if NIC in found else {}
    together = await _together(client, list(alone))
    limit = store_limit(alone, together)
    for node in nodes:
        try:
            await client.limit_store(node, limit)
        except ClusterError as error:
            failures.append(f"{node}: {error}")
    rates = {node.name: node.rates for node in (await client.refresh()).nodes}
    return Calibration(rates, _sentence(alone, together, limit), limit, tuple(failures))


async def _probe(client: ClusterClient, node: str, what: tuple[str, ...], failures: list[str]) -> Mapping[str, float]:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return await client.probe(node, what, STORE_S, keep=True)
        except Refused as error:
            if attempt == _ATTEMPTS:
                failures.append(str(error))
                break
            await asyncio.sleep(_AGAIN_AFTER_S)
        except ClusterError as error:
            failures.append(f"{node}: {error}")
            break
    return {}


async def _together(client: ClusterClient, nodes: list[str]) -> dict[str, float]:
    """What each node reads from the store while all do; nodes that did not take part are absent."""
    if len(nodes) < 2:
        return {}
    probes = (client.probe(node, (NIC,), TOGETHER_S, keep=False) for node in nodes)
    answers = await asyncio.gather(*probes, return_exceptions=True)
    found: dict[str, float] = {}
    for node, answer in zip(nodes, answers, strict=True):
        if isinstance(answer, Mapping):
            found[node] = answer[NIC]
        elif not isinstance(answer, ClusterError):
            raise answer
    return found


def _sentence(alone: Mapping[str, float], together: Mapping[str, float], limit: float | None) -> str:
    if not alone:
        return "The store was not measured."
    if len(together) < 2:
        return "Whether the store limits was not measured: that takes two nodes."
    total, singles = (sum(rates[node] for node in together) / 1e6 for rates in (together, alone))
    seen = "limits them" if limit is not None else "was not seen to limit them"
    return f"The store {seen}: {len(together)} nodes together read {total:,.1f} MB/s, each alone {singles:,.1f} MB/s in sum."
