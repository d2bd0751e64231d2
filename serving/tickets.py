"""A request on its way: the stream that its client reads, whatever replica it comes from."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from cluster.contract import FormedGroup
from cluster.errors import NoToken, Refused, StageFailed
from cluster.wire.requests import Embedded, Submit, Tokens
from schedules import events
from schedules.actions import Assign, Shift
from serving.errors import ModelFailed, RequestError
from serving.moving.shifting import Account, Attempt, Shifting, Spawn

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FirstToken:
    """A request has its first token, `cold` if it waited for a replica to start."""

    model: str
    arrived_s: float
    cold: bool


class Ticket:
    """One request that was admitted. `tell` takes what happens to it, `group_of` knows the groups that are up, and `on_first`
    hears of its first token; `cold` if that waited for a replica to start. `degree` is that of the replica that answers it,
    0 before there is one.

    To be closed whether or not its tokens were read to the end.
    """

    def __init__(
        self,
        model: str,
        submit: Submit,
        arrived_s: float,
        tell: Callable[[events.Event], None],
        group_of: Callable[[str], FormedGroup | None],
        on_first: Callable[[FirstToken], None],
    ) -> None:
        self.name = submit.request
        self.model, self._submit, self._arrived_s = model, submit, arrived_s
        self._tell, self._group_of, self._on_first = tell, group_of, on_first
        self.cold, self.degree = False, 0
        self._done: list[int] = []
        self._attempts = 0
        self._over = False
        self._here: Attempt | None = None
        self._shifting: Shifting | None = None
        self._next: asyncio.Future[Assign] = asyncio.get_running_loop().create_future()

    # ---- what was decided

    def assign(self, action: Assign) -> None:
        """It goes, or goes on, at a group."""
        self._end_shift()
        self._renew()
        self._next.set_result(action)

    def wait(self) -> None:
        """It lost its group, and is told of the next."""
        self._end_shift()
        self._renew()

    def reject(self, error: RequestError) -> None:
        """It is over."""
        self._over = True
        self._end_shift()
        self._renew()
        self._next.set_exception(error)
        self._next.exception()  # it may be that nobody reads it any more

    def shift(self, action: Shift, account: Account, spawn: Spawn) -> None:
        """It leaves the group that answers it for another. RequestShifted or RequestStayed answers, unless it is over."""
        self._end_shift()
        if self._over:
            account.over()
            return
        if self._next.done():
            self._go_there_at_once(action, account)
            return
        here, to = self._here, self._group_of(action.to)
        if self._submit.pooling is not None:
            self._stay(action, account, "a vector is wanted of it, which there would be computed anew")
        elif here is None or here.group.name != action.group:
            self._stay(action, account, "it does not run there")
        elif to is None:
            self._stay(action, account, "the group that it shall go to is not there")
        else:
            submit = self._now()

            def stay(reason: str) -> None:
                self._shifting = None
                self._tell(events.RequestStayed(self.name, action.group, action.to, reason))

            target = Attempt(to, submit.request)
            self._shifting = Shifting(here, target, submit, action.copy, account, stay, spawn)

    def _go_there_at_once(self, action: Shift, account: Account) -> None:
        """It was assigned, and nobody has asked the group for anything yet."""
        assigned = self._next.result()
        if assigned.group != action.group:
            self._stay(action, account, "it does not run there")
            return
        self._renew()
        self._next.set_result(replace(assigned, group=action.to))
        account.shifted(0, 0)
        account.over()
        self._tell(events.RequestShifted(self.name, action.group, action.to))

    def _stay(self, action: Shift, account: Account, reason: str) -> None:
        account.stayed(reason)
        self._tell(events.RequestStayed(self.name, action.group, action.to, reason))

    def _end_shift(self) -> None:
        shifting, self._shifting = self._shifting, None
        if shifting is not None:
            shifting.end()

    def rejection(self) -> BaseException | None:
        """Why it was rejected, if it was."""
        return self._next.exception() if self._next.done() else None

    def _renew(self) -> None:
        if self._next.done():
            self._next = asyncio.get_running_loop().create_future()

    # ---- its tokens

    async def tokens(self) -> AsyncGenerator[Tokens]:
        """Its tokens as they come, from wherever they do. To be read once.

        RequestError if it is rejected, ModelFailed if the model has no token to give.
        """
        try:
            while not self._over or self._next.done():
                while not self._next.done():
                    await asyncio.wait({self._next})
                assigned = self._next.result()
                self._next = asyncio.get_running_loop().create_future()
                async with aclosing(self._from_group(assigned)) as found:
                    async for each in found:
                        yield each
        finally:
            self.close()

    def close(self) -> None:
        """Nobody reads it any more. Twice is once."""
        self._end_shift()
        if not self._over:
            self._over = True
            self._tell(events.RequestLeft(self.name))

    async def _from_group(self, assigned: Assign) -> AsyncGenerator[Tokens]:
        """What one group gives, and those that it goes on at; it is over if the last of them had its end."""
        at = assigned.group
        try:
            group = self._group_of(at)
            if group is None:
                raise StageFailed("it ended before the request began")
            stream: AsyncGenerator[Tokens] | None = self._begin(group)
            while stream is not None:
                async with aclosing(stream) as found:
                    async for each in found:
                        if not self._done and (each.tokens or isinstance(each, Embedded)):
                            self.cold = assigned.cold
                            self._on_first(FirstToken(self.model, self._arrived_s, assigned.cold))
                        self._done += each.tokens
                        if self._shifting is not None:
                            self._took(self._shifting, each)
                        self._tell(events.RequestProgressed(self.name, at, len(each.tokens)))
                        if each.finish is not None:
                            self._over = True
                            self._tell(events.RequestEnded(self.name))
                        yield each
                stream = self._after()
                at = self._here.group.name if self._here is not None else at
        except Refused as error:
            self._leave()
            self._tell(events.RequestRefused(self.name, at, str(error)))
        except StageFailed as error:
            self._leave()
            self._tell(events.RequestBroke(self.name, at, str(error)))
        except NoToken as error:
            _log.error("%s failed a request after %d tokens: %s", self.model, len(self._done), error)
            hint = ". Its weights or their type may be at fault" if self._submit.grammar is None else ""
            raise ModelFailed(f"{self.model} failed: {error}{hint}") from error
        finally:
            self._leave()

    def _begin(self, group: FormedGroup) -> AsyncGenerator[Tokens]:
        submit = self._now()
        self._here = Attempt(group, submit.request)
        self.degree = len(group.placement.stages)
        return group.generate(submit)

    def _after(self) -> AsyncGenerator[Tokens] | None:
        """Its stream ended: where it goes on, which may be where it was; None if it is over, or goes elsewhere anyway."""
        here, shifting = self._here, self._shifting
        if self._over or self._next.done() or here is None:
            return None
        if not here.given_up:
            raise StageFailed("it ended the request before its last token")
        if shifting is None or not shifting.ready:
            if shifting is not None:
                shifting.stay(shifting.target.group.cause or "it was given up too early")
            return self._begin(here.group)
        self._here, stream = shifting.target, shifting.go_on()
        self._tell(events.RequestShifted(self.name, here.group.name, shifting.target.group.name))
        return stream

    def _took(self, shifting: Shifting, each: Tokens) -> None:
        shifting.took(each.tokens)
        if each.finish is not None:
            shifting.end()
        if shifting.settled:
            self._shifting = None

    def _leave(self) -> None:
        """Nothing comes from the group any more."""
        self._end_shift()
        self._here = None

    def _now(self) -> Submit:
        """What is still to be asked, with what was answered already."""
        self._attempts += 1
        return replace(
            self._submit,
            request=f"{self.name}.{self._attempts}",
            tokens=(*self._submit.tokens, *self._done),
            max_tokens=self._submit.max_tokens - len(self._done),
        )
