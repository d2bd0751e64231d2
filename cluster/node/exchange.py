"""A node among its peers: it gives out the units that it holds, and fetches from others what its orders name."""

import secrets
from collections.abc import Sequence

from cluster.wire.orders import Peer
from schedules.placing.sources import from_peer
from storage_tiers.pace import Pace
from storage_tiers.tiers.dram import DramTier
from storage_tiers.tiers.peer import PeerServer, PeerTier
from storage_tiers.tiers.ssd import SsdTier

KEPT_PEERS = 256


class UnitExchange:
    """Use from one thread. Whoever is not `taking_part` neither gives nor takes, and has port 0.

    `secret` is made anew at every start: only whom the cluster's client has told it is let in. With a `pace` it takes no
    faster.
    """

    def __init__(self, dram: DramTier, ssd: SsdTier, host: str, taking_part: bool, pace: Pace | None = None) -> None:
        self.secret, self._pace = secrets.token_hex(16), pace
        self._server = PeerServer(dram, ssd, host, self.secret) if taking_part else None
        self._tiers: dict[tuple[str, int, str], PeerTier] = {}

    @property
    def port(self) -> int:
        """Where this node gives units out."""
        return self._server.port if self._server is not None else 0

    def sources(self, peers: Sequence[Peer], asked: Sequence[str]) -> list[PeerTier]:
        """Those of `peers` that a list of sources names, in its order."""
        if self._server is None:
            return []
        known = {from_peer(peer.name): peer for peer in peers}
        return [self._tier(known[source]) for source in asked if source in known]

    def close_server(self) -> None:
        """Give nothing out any more; when this returns nobody reads the tiers."""
        if self._server is not None:
            self._server.close()

    def close(self) -> None:
        """Give up every connection to others."""
        self.close_server()
        for tier in self._tiers.values():
            tier.close()
        self._tiers.clear()

    def _tier(self, peer: Peer) -> PeerTier:
        """One tier per peer, so that it remembers connections and failures; the least recently used are forgotten."""
        key = (peer.host, peer.port, peer.secret)
        tier = self._tiers.pop(key, None) or PeerTier(peer.name, *key, pace=self._pace)
        self._tiers[key] = tier
        while len(self._tiers) > KEPT_PEERS:
            self._tiers.pop(next(iter(self._tiers))).close()
        return tier
