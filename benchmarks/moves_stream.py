"""A client that streams an answer, and what it saw of it: each token, and when that came."""

import itertools
import json
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

from benchmarks.moves_operator import NO_AUTHORITIES

PATIENCE_S = 300.0
DEADLINE_S = 120.0
_SOME = 8


class Stream(threading.Thread):
    """One request, from `start` on. `tokens`, the unix seconds `times_s` at which they came, and their `logprobs` where they
    were asked for, grow while it runs; `fault` is what the front end said instead of going on, `torn` what happened if the
    stream just ended."""

    def __init__(self, url: str, body: Mapping[str, Any]) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._body = {"ignore_eos": True, "temperature": 0, **body, "stream": True, "return_token_ids": True}
        self.id, self.fault, self.torn = "", "", ""
        self.asked_s, self._leaving = 0.0, False
        self.tokens: list[int] = []
        self.times_s: list[float] = []
        self.logprobs: list[float] = []
        self._more = threading.Condition()

    def run(self) -> None:
        whole = False
        try:
            with httpx.Client(timeout=PATIENCE_S, verify=NO_AUTHORITIES) as client:
                client.get(f"{self._url}/healthz")  # the connection is there, as a client's would be
                self.asked_s = time.time()
                with client.stream("POST", f"{self._url}/v1/completions", json=self._body) as answer:
                    if answer.status_code != 200:
                        answer.read()
                        self.fault = answer.json()["error"]["message"]
                        return
                    for line in answer.iter_lines():
                        whole = whole or line == "data: [DONE]"
                        if line.startswith("data: {"):
                            self._hear(json.loads(line[6:]))
                        if self._leaving:
                            return
        except httpx.HTTPError as error:
            self.torn = repr(error)
        finally:
            if not (whole or self.fault):
                self.torn = self.torn or "it ended without an end"
            with self._more:
                self._more.notify_all()

    def _hear(self, said: Mapping[str, Any]) -> None:
        if "error" in said:
            self.fault = said["error"]["message"]
            return
        self.id = said["id"]
        for choice in said["choices"]:
            with self._more:
                self.times_s += [time.time()] * len(choice["token_ids"])
                self.tokens += choice["token_ids"]
                self.logprobs += (choice["logprobs"] or {}).get("token_logprobs", ())
                self._more.notify_all()

    def reach(self, tokens: int) -> None:
        """Wait until it has so many tokens. RuntimeError if it ends before, TimeoutError if it does not come so far."""

        def there() -> bool:
            return len(self.tokens) >= tokens or not self.is_alive()

        with self._more:
            until_s = time.monotonic() + DEADLINE_S
            while not there():
                if time.monotonic() > until_s:
                    raise TimeoutError(f"{len(self.tokens)} of {tokens} tokens came in {DEADLINE_S:.0f} s")
                self._more.wait(1.0)
        if len(self.tokens) < tokens:
            raise RuntimeError(f"{len(self.tokens)} of {tokens} tokens came: {self.fault or self.torn}")

    def end(self) -> None:
        """Wait until it is over. RuntimeError if it was not whole."""
        self.join(PATIENCE_S)
        if self.is_alive() or self.fault or self.torn:
            raise RuntimeError(f"a stream was not whole: {self.fault or self.torn or 'it does not end'}")

    def leave(self) -> None:
        """Go before the end, at the next token."""
        self._leaving = True
        self.join(PATIENCE_S)

    @property
    def ttft_s(self) -> float:
        return self.times_s[0] - self.asked_s

    def gaps_s(self, first: int = 0) -> list[float]:
        """Seconds between each token and the one before it, from the token numbered `first` on."""
        return [later - earlier for earlier, later in itertools.pairwise(self.times_s[first:])]

    @property
    def step_s(self) -> float:
        """Seconds between tokens, in the median; of a few together, for small steps' tokens are read several at a time."""
        return median(
            [(later - earlier) / _SOME for earlier, later in zip(self.times_s, self.times_s[_SOME:], strict=False)]
        )

    def pause_s(self, since_s: float, until_s: float) -> float | None:
        """The longest time without a token that touches the time between these two; None if its tokens do not span it."""
        if not self.times_s[0] <= since_s <= until_s <= self.times_s[-1]:
            return None
        return max(
            later - earlier
            for earlier, later in itertools.pairwise(self.times_s)
            if later >= since_s and earlier <= until_s
        )

    @property
    def tpot_s(self) -> float:
        """Seconds per token after the first."""
        return (self.times_s[-1] - self.times_s[0]) / (len(self.times_s) - 1)


def streamed(url: str, body: Mapping[str, Any], at: Callable[[Stream], object] | None = None) -> Stream:
    """A request from its beginning to its end; `at` is called once it has its first token."""
    stream = Stream(url, body)
    stream.start()
    if at is not None:
        stream.reach(1)
        at(stream)
    stream.end()
    return stream


def at_once(url: str, bodies: Sequence[Mapping[str, Any]]) -> list[Stream]:
    """Requests that come together, each to its end."""
    streams = [Stream(url, body) for body in bodies]
    for stream in streams:
        stream.start()
    for stream in streams:
        stream.end()
    return streams


def quantile(values: Sequence[float], share: float) -> float:
    """The value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
