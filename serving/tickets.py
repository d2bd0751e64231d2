"""A request on its way: the stream that its client reads, whatever replica it comes from."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from cluster.contract import FormedGroup
from cluster.errors import NoToken, Refused, StageFailed
from cluster.wire.requests import Submit, Tokens
from schedules import events
from schedules.actions import Assign
from serving.errors import ModelFailed, RequestError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FirstToken:
    """A request has its first token, `cold` if it waited for a replica to start."""

    model: str
    arrived_s: float
    cold: bool


class Ticket:
    """One request that was admitted. `tell` takes what happens to it, `group_of` knows the groups that are up, and `on_first`
    hears of its first token.

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
        self._done: list[int] = []
        self._attempts = 0
        self._over = False
        self._next: asyncio.Future[Assign] = asyncio.get_running_loop().create_future()

    # ---- what was decided

    def assign(self, action: Assign) -> None:
        """It goes, or goes on, at a group."""
        self._renew()
        self._next.set_result(action)

    def wait(self) -> None:
        """It lost its group, and is told of the next."""
        self._renew()

    def reject(self, error: RequestError) -> None:
        """It is over."""
        self._over = True
        self._renew()
        self._next.set_exception(error)
        self._next.exception()  # it may be that nobody reads it any more

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
        if not self._over:
            self._over = True
            self._tell(events.RequestLeft(self.name))

    async def _from_group(self, assigned: Assign) -> AsyncGenerator[Tokens]:
        """What one group gives; it is over if that had its end."""
        group = self._group_of(assigned.group)
        try:
            if group is None:
                raise StageFailed("it ended before the request began")
            async with aclosing(group.generate(self._now())) as found:
                async for each in found:
                    if each.tokens and not self._done:
                        self._on_first(FirstToken(self.model, self._arrived_s, assigned.cold))
                    self._done += each.tokens
                    self._tell(events.RequestProgressed(self.name, assigned.group, len(each.tokens)))
                    if each.finish is not None:
                        self._over = True
                        self._tell(events.RequestEnded(self.name))
                    yield each
        except Refused as error:
            self._tell(events.RequestRefused(self.name, assigned.group, str(error)))
        except StageFailed as error:
            self._tell(events.RequestBroke(self.name, assigned.group, str(error)))
        except NoToken as error:
            _log.error("%s failed a request after %d tokens: %s", self.model, len(self._done), error)
            raise ModelFailed(f"{self.model} failed: {error}. Its weights or their type may be at fault") from error

    def _now(self) -> Submit:
        """What is still to be asked, with what was answered already."""
        self._attempts += 1
        return replace(
            self._submit,
            request=f"{self.name}.{self._attempts}",
            tokens=(*self._submit.tokens, *self._done),
            max_tokens=self._submit.max_tokens - len(self._done),
        )
