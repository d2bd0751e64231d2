"""What a stage has of requests that are still to come to it: KV cache that was pulled, on the host, until it is claimed."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from cluster.errors import NoKv

UNCLAIMED_S = 60.0
"""What nobody follows by then is dropped."""
Layer = tuple[torch.Tensor, torch.Tensor]
"""Keys and values, each (tokens, KV heads, head dim)."""


@dataclass(frozen=True, eq=False)
class Kept:
    """Of a request's first `tokens` tokens: keys and values of each of the stage's layers, in order."""

    tokens: int
    layers: tuple[Layer, ...]

    @property
    def size_bytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)


@dataclass(eq=False)
class _Place:
    tokens: int
    until_s: float
    kept: Kept | None = None


class Shelf:
    """Holds no more tokens than the stage's own cache could, `kv_tokens`, with those that are claimed and not given back yet.
    Thread-safe."""

    def __init__(self, kv_tokens: int, now_s: Callable[[], float] = time.monotonic) -> None:
        self._kv_tokens, self._now_s = kv_tokens, now_s
        self._places: dict[str, _Place] = {}
        self._claimed: set[Kept] = set()
        self._lock = threading.Lock()

    def reserve(self, request: str, tokens: int, within_s: float) -> None:
        """Room for what will be there within a time. NoKv if there is none, or something is there under that name."""
        with self._lock:
            self._tidy()
            if request in self._places:
                raise NoKv(f"the KV cache of request {request} is here already, or on its way")
            used = sum(place.tokens for place in self._places.values()) + sum(kept.tokens for kept in self._claimed)
            if not 0 < tokens <= self._kv_tokens - used:
                raise NoKv(
                    f"there is room for the KV cache of {self._kv_tokens - used} tokens, and {tokens} are too many"
                )
            self._places[request] = _Place(tokens, self._now_s() + within_s + UNCLAIMED_S)

    def keep(self, request: str, kept: Kept) -> None:
        """It is there. NoKv if it was dropped meanwhile."""
        with self._lock:
            place = self._places.get(request)
            if place is None:
                raise NoKv(f"the KV cache of request {request} is not wanted any more")
            place.kept, place.until_s = kept, self._now_s() + UNCLAIMED_S

    def drop(self, request: str) -> None:
        """Nobody wants it; nothing happens if it is not there, or was claimed."""
        with self._lock:
            self._places.pop(request, None)
            self._tidy()

    def claim(self, request: str, tokens: int) -> Kept | None:
        """Take it, to be given back; None if there is nothing, or less."""
        with self._lock:
            self._tidy()
            place = self._places.pop(request, None)
            if place is None or place.kept is None or place.kept.tokens < tokens:
                return None
            self._claimed.add(place.kept)
            return place.kept

    def give_back(self, kept: Kept) -> None:
        """Its memory is not used any more."""
        with self._lock:
            self._claimed.discard(kept)

    def tidy(self) -> None:
        """Drop what nobody has come for."""
        with self._lock:
            self._tidy()

    def _tidy(self) -> None:
        now_s = self._now_s()
        self._places = {name: place for name, place in self._places.items() if place.until_s > now_s}
