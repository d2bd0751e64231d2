"""One request on its way from the group that answers it to another, while its client reads.

The other group takes in what there is of the request, in rounds, for as long as the first goes on; the first gives it up
when the gap will not get smaller, and the other goes on from the very next token. Until then the request never notices.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.contract import Following, FormedGroup, KvOf
from cluster.errors import ClusterError, StageFailed
from cluster.wire.requests import Submit, Tokens
from schedules.moving.rounds import ROUNDS, goes_over, never_near

_log = logging.getLogger(__name__)
Spawn = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]
FOLLOWED_WITHIN_S = 120.0
"""So long the other group may take until it has all but the last tokens. Nobody waits for it; its room is kept."""


@dataclass(eq=False)
class Attempt:
    """A request at one group, where it goes by a name of its own. `given_up` if it was asked to end there before its end."""

    group: FormedGroup
    name: str
    given_up: bool = False

    def give_up(self) -> None:
        self.given_up = True
        self.group.yield_up(self.name)


class Account(Protocol):
    """Who counts what becomes of a shift: it is told one of `shifted`, `stayed` and `over`, and after `shifted` of `paused`
    or `over`."""

    def shifted(self, copied_tokens: int, copied_bytes: int) -> None:
        """The request goes on at the other group, which has computed anew what was not copied."""
        ...

    def paused(self, pause_s: float) -> None:
        """So long its client had nothing: from the last token there to the first one here."""
        ...

    def stayed(self, reason: str) -> None:
        """The request goes on where it was."""
        ...

    def over(self) -> None:
        """There is nothing more to be counted: the request ended, broke or was left."""
        ...


class Shifting:
    """See the module. `source` gives the request its tokens, and `target` shall, as `submit`, which has all tokens so far.
    With `copy` its KV cache is copied. `on_stay` hears, once, that nothing will come of it, and why; `spawn` runs what is
    done beside, and cancels it when all ends.

    Whoever reads the request's tokens says `took` of each, `go_on` when `source` has ended it, and `end` whatever happens.
    """

    def __init__(
        self,
        source: Attempt,
        target: Attempt,
        submit: Submit,
        copy: bool,
        account: Account,
        on_stay: Callable[[str], None],
        spawn: Spawn,
    ) -> None:
        self.source, self.target = source, target
        self._submit, self._account, self._on_stay = submit, account, on_stay
        self._kv_of = KvOf(source.group, source.name) if copy else None
        self._gap: list[int] = []
        self._following: Following | None = None
        self._switched, self._settled = asyncio.Event(), False
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()
        self._task = spawn(self._follow(), f"shift of {submit.request}")

    # ---- by who reads

    def took(self, tokens: Sequence[int]) -> None:
        """These came from where the request is answered now. Once it has switched the first of them end the pause."""
        now_s = self._loop.time()
        if self._switched.is_set():
            self._settle()
            self._account.paused(now_s - self._last_s)
        else:
            self._gap += tokens
            self._last_s = now_s

    @property
    def switched(self) -> bool:
        """Whether the tokens come from the other group now."""
        return self._switched.is_set()

    @property
    def settled(self) -> bool:
        """Whether there is nothing more to be done for it."""
        return self._settled

    @property
    def ready(self) -> bool:
        """Whether the other group can go on with the request."""
        return self._following is not None and not self.target.group.lost.is_set()

    def go_on(self) -> AsyncGenerator[Tokens]:
        """The first group has ended the request: what the other one says."""
        following = self._following
        assert following is not None
        self._switched.set()
        self._account.shifted(following.copied_tokens, following.copied_bytes)
        return following.go_on(self._gap)

    def stay(self, reason: str) -> None:
        """The request goes on where it is."""
        if not self._settled and not self.switched:
            self._settle()
            self._account.stayed(reason)
            self._on_stay(reason)
            self._stop()

    def end(self) -> None:
        """The request is over, or was lost; or it goes elsewhere again. Twice is once."""
        if not self._settled:
            self._settle()
            self._account.over()
            self._stop()

    def _settle(self) -> None:
        self._settled = True

    def _stop(self) -> None:
        if not self.switched and self._task is not asyncio.current_task():
            self._task.cancel()

    # ---- beside it

    async def _follow(self) -> None:
        """Until the other group has it, or there is no need any more."""
        following: Following | None = None
        try:
            async with asyncio.timeout(FOLLOWED_WITHIN_S):
                following = await self.target.group.follow(self._submit, self._kv_of, FOLLOWED_WITHIN_S)
                await self._close_gap(following)
            if self.target.group.lost.is_set():
                raise StageFailed(self.target.group.cause)
            self._following = following
            self.source.give_up()
            await self._switched.wait()
        except (ClusterError, TimeoutError) as error:
            self.stay(str(error) or f"it was not taken in within {FOLLOWED_WITHIN_S:g} s")
        except Exception as error:  # whatever it is, the request goes on where it was
            _log.exception("a request could not be shifted")
            self.stay(f"{type(error).__name__}: {error}")
        finally:
            if following is not None and not self.switched:
                await following.close()

    async def _close_gap(self, following: Following) -> None:
        """Rounds, until the gap is small, or as small as it gets. StageFailed if what is left would take too long."""
        gap, before, taken_s = 0, None, 0.0
        for _ in range(ROUNDS):
            begun_s = self._loop.time()
            await following.caught_up()
            gap, taken_s = len(self._gap), self._loop.time() - begun_s
            if goes_over(gap, before, taken_s):
                return
            following.more(self._gap)
            self._gap, before = [], gap
        raise StageFailed(never_near(gap, taken_s))
