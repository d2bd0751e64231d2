"""A pipeline that becomes one replica in the middle of an answer: who counts shows whether a token was lost or doubled."""

import asyncio
import re
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any

from rich.console import Console

from firsttoken.demo.listening import Heard, Words
from firsttoken.demo.model import MODEL
from firsttoken.errors import MoveFailed
from firsttoken.frontend import Frontend, Sampling
from firsttoken.views.moves import ENDED, GIVEN_UP

PROMPT = "1, 2, 3, 4, 5, 6, 7, 8,"
NEXT = 9
ORDERED_AT, AFTER = 40, 60
_SAMPLING = Sampling(max_tokens=4000, temperature=0.0, ignore_eos=True)
_LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class Counted:
    """What was heard, and the move, as the front end tells it at its end."""

    heard: Heard
    move: Mapping[str, Any]

    @property
    def numbers(self) -> tuple[int, ...]:
        """Those that are whole: behind each there is a comma."""
        return tuple(int(number) for number in re.findall(r"(\d+),", self.heard.text))

    @property
    def unbroken(self) -> bool:
        """Whether they follow one another, beginning where the prompt ends."""
        return self.numbers == tuple(range(NEXT, NEXT + len(self.numbers)))

    @property
    def before(self) -> int:
        """How many pieces had come when the request went over."""
        return sum(1 for at_s in self.heard.times_s if at_s < self.move["switching_at"])

    def token_s(self, *, moved: bool) -> float:
        """What a token took in the mean, of those before the move was ordered or after it was done: several may be read at
        once."""
        since_s, until_s = (self.move["done_at"], inf) if moved else (0.0, self.move["ordered_at"])
        times_s = [at_s for at_s in self.heard.times_s if since_s <= at_s <= until_s]
        return (times_s[-1] - times_s[0]) / (len(times_s) - 1)

    @property
    def pause_s(self) -> float:
        """The longest time without a token while the request went over, by the client's clock."""
        since_s, until_s = self.move["switching_at"], self.move["done_at"]
        times = pairwise(self.heard.times_s)
        return max(later - earlier for earlier, later in times if later >= since_s and earlier <= until_s)


async def count(frontend: Frontend, console: Console) -> Counted:
    """Have the pipeline count, order it to become one replica, and go some tokens after that. MoveFailed if it does not."""
    asked_s, times_s, texts, words = time.time(), list[float](), list[str](), Words(console)
    moving: asyncio.Task[Mapping[str, Any]] | None = None
    last = 0
    try:
        async with aclosing(frontend.complete(MODEL, PROMPT, _SAMPLING)) as pieces:
            async for piece in pieces:
                if not piece.text:
                    continue
                times_s.append(time.time())
                texts.append(piece.text)
                if len(times_s) == ORDERED_AT:
                    moving = asyncio.create_task(_move(frontend))
                if moving is not None and moving.done() and not last:
                    last = len(times_s) + AFTER
                    words.note(f"--- from about here {_where(moving.result())} alone goes on ---")
                words.write(piece.text)
                if last and len(times_s) >= last and piece.text.endswith(","):
                    break
        words.end()
        if moving is None or not last:
            raise MoveFailed(f"the answer was over after {len(times_s)} tokens, before the move was")
        return Counted(Heard("".join(texts), asked_s, tuple(times_s)), moving.result())
    finally:
        if moving is not None:
            moving.cancel()
            await asyncio.gather(moving, return_exceptions=True)


async def _move(frontend: Frontend) -> Mapping[str, Any]:
    """The move at its end."""
    move = await frontend.wish({"kind": "consolidate", "model": MODEL})
    while move["step"] not in ENDED:
        await asyncio.sleep(_LOOK_EVERY_S)
        move = await frontend.move(move["move"])
    if move["step"] == GIVEN_UP:
        raise MoveFailed(f"move {move['move']} was given up: {move['why']}")
    return move


def _where(move: Mapping[str, Any]) -> str:
    (handover,) = move["handovers"]
    return ", ".join(node for heir in handover["heirs"] for node in heir["nodes"])
