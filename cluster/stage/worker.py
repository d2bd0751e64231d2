"""A stage at work: what it computes of a step, what it keeps of requests, and at the last stage what it chooses."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from cluster.stage.attending.paged import PagedCache
from cluster.stage.attending.slabs import SlabCache
from cluster.stage.building.model import StageModel
from cluster.stage.choosing.batch import Chooser, Pending
from cluster.stage.choosing.bounded import begin_bounded
from cluster.stage.choosing.grammars import Grammars, Matching
from cluster.stage.choosing.sampling import Sampler
from cluster.stage.moving.shelf import Kept, Shelf
from cluster.stage.pooling import Pools
from cluster.stage.stepping.acceleration import Acceleration, NoAcceleration
from cluster.stage.steps import Adoption, Choice, Claim, Segment
from cluster.wire.phases import FIRST_STEP
from cluster.wire.requests import Submit, Words

Forward = Callable[[torch.Tensor], torch.Tensor]
Report = Callable[[str, float], None]
"""Told of a phase that ends now: its name and when it started (monotonic seconds)."""


class Pulse(Protocol):
    """Told what the loop is at, so that a stage that hangs is noticed."""

    def step(self, tokens: int) -> None:
        """The layers begin to compute `tokens`."""
        ...

    def rest(self) -> None:
        """They are done; what follows waits for others."""
        ...


class Worker:
    """What every stage does with a step: give its requests room, run its layers; at the last stage, choose tokens."""

    def __init__(
        self, forward: Forward, model: StageModel, cache: SlabCache | PagedCache, report: Report, pulse: Pulse,
        acceleration: Acceleration | None = None, chooser: Chooser | None = None, shelf: Shelf | None = None,
        quiet: Callable[[float], None] = lambda _within_s: None,
    ) -> None:  # fmt: skip
        self._shelf = shelf
        self._claimed: dict[int, tuple[Kept, int]] = {}
        self._forward, self._model, self._cache = forward, model, cache
        self._acceleration = acceleration or NoAcceleration()
        self._chooser = chooser or Chooser(None)
        self._report: Report | None = report
        self._pulse = pulse
        self._samplers: dict[int, Sampler] = {}
        self._pools, self._vectors = Pools(), list[torch.Tensor]()
        self._grammars = Grammars(quiet)
        self._matchings: dict[int, Matching] = {}

    def learn(self, digest: str, words: Callable[[], Words]) -> None:
        """The last stage is told of the words that grammars are over, and gets them in another thread."""
        self._grammars.learn(digest, words)

    def start(self, slot: int, submit: Submit) -> None:
        """The last stage learns how a request's tokens are chosen."""
        prompt, generated = submit.tokens[: submit.prompt_tokens], submit.tokens[submit.prompt_tokens :]
        stops_from = submit.prompt_tokens + submit.min_tokens
        matching = None
        if submit.grammar is not None:
            matching = self._matchings[slot] = self._grammars.begin(submit.grammar, generated)
        self._samplers[slot] = Sampler(submit.sampling, prompt, generated, submit.stop_tokens, stops_from, matching)

    @property
    def exports(self) -> bool:
        """Whether what is cached of a request follows from its tokens and their positions alone."""
        return self._model.repeats

    def order(self, segment: Segment) -> tuple[int, int]:
        """A sort key: requests that are neighbours by it are attended to together."""
        return self._cache.place(segment.slot, segment.room)

    @torch.inference_mode()
    def step(self, segments: Sequence[Segment], x: torch.Tensor) -> torch.Tensor:
        """Run this stage's layers on `x`, the segments' tokens (1, T) or hidden states (1, T, hidden) on any device."""
        report, self._report = self._report, None
        started_s = time.monotonic()
        self._pulse.step(x.shape[1])
        try:
            out = self._acceleration.run(segments, x)
            if out is None:
                out = self._compute(segments, x)
        finally:
            self._pulse.rest()
        if report is not None:
            if out.is_cuda:
                torch.cuda.synchronize(out.device)  # the first step is reported when it was computed, not when it began
            report(FIRST_STEP, started_s)
        self._acceleration.follow_up()
        return out

    def _compute(self, segments: Sequence[Segment], x: torch.Tensor) -> torch.Tensor:
        plan = self._cache.plan(segments)
        pools = any(segment.pooling is not None for segment in segments) and self._model.last
        self._model.turn_to(plan)
        if pools:
            self._model.keep_hidden()
        out = self._forward(x.to(plan.positions.device))
        if pools:
            self._vectors = self._pools.take(segments, self._model.take_hidden())
        return out

    def take_vectors(self) -> list[torch.Tensor]:
        """At the last stage: the vectors that the last step gave, in the order of its segments."""
        vectors, self._vectors = self._vectors, []
        return vectors

    def may_run_ahead(self, segments: Sequence[Segment]) -> bool:
        """Whether their next step may be told to the device before anybody knows what it is fed."""
        if not self._acceleration.takes(segments):
            return False  # there may be some of which no token is chosen
        return all(self._samplers[segment.slot].foreseeable for segment in segments)

    @torch.inference_mode()
    def begin_choices(self, segments: Sequence[Segment], logits: torch.Tensor) -> Pending:
        """The next token of each wanted segment, from the last stage's output (1, wanted segments, vocabulary)."""
        samplers = [self._samplers[segment.slot] for segment in segments]
        positions = [segment.position + segment.tokens for segment in segments]
        begin = begin_bounded if any(sampler.matching is not None for sampler in samplers) else _begin
        return begin(self._chooser, samplers, logits[0], positions)

    def choose(self, segments: Sequence[Segment], logits: torch.Tensor) -> list[Choice]:
        """The same, when they are there."""
        return self.begin_choices(segments, logits).result() if segments else []

    def claim(self, claim: Claim) -> bool:
        """Whether the KV cache is here, which is then kept for the slot."""
        kept = self._shelf.claim(claim.request, claim.tokens) if self._shelf is not None else None
        if kept is None:
            return False
        self._claimed[claim.slot] = kept, claim.tokens
        return all(self._cache.suits(layer, *tensors) for layer, tensors in enumerate(kept.layers))

    @torch.inference_mode()
    def adopt(self, adoption: Adoption) -> None:
        """Put a part of what was claimed into the slot's room; with the last of it the rest is given up."""
        kept, tokens = self._claimed[adoption.slot]
        part = slice(adoption.first, adoption.end)
        layers = [(keys[part], values[part]) for keys, values in kept.layers]
        self._cache.fill(adoption.slot, adoption.room, adoption.first, layers)
        if adoption.end == tokens:
            self._give_back(adoption.slot)

    def _give_back(self, slot: int) -> None:
        found = self._claimed.pop(slot, None)
        if found is not None and self._shelf is not None:
            self._shelf.give_back(found[0])

    @torch.inference_mode()
    def forget(self, slots: Sequence[int]) -> None:
        """Free what the requests held."""
        for slot in slots:
            self._give_back(slot)
            self._cache.forget(slot)
            self._pools.forget(slot)
            matching = self._matchings.pop(slot, None)
            if matching is not None:
                self._grammars.end(matching)
            sampler = self._samplers.pop(slot, None)
            if sampler is not None:
                self._chooser.forget(sampler)


def _begin(chooser: Chooser, samplers: Sequence[Sampler], logits: torch.Tensor, positions: Sequence[int]) -> Pending:
    return chooser.begin_choices(samplers, logits, positions)
