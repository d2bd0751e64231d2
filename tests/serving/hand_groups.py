"""Groups that are played by hand, and a ticket that is read: every order in which things can happen when a request shifts."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.contract import KvOf
from cluster.errors import StageFailed
from cluster.virtual_time import run_virtual
from cluster.wire.phases import Phase
from cluster.wire.requests import Sampling, Submit, Tokens
from schedules import events
from schedules.actions import Assign, Shift
from schedules.facts import Placement
from serving.errors import RequestError
from serving.tickets import Ticket

PROMPT = (7, 8, 9)
WANTED = 300


@dataclass(eq=False)
class HandFollowing:
    """What it was told; it is caught up when the test says so."""

    submit: Submit
    kv_of: KvOf | None
    group: "HandGroup"
    copied_tokens: int = 0
    copied_bytes: int = 0
    rounds: list[tuple[int, ...]] = field(default_factory=list)
    went_on: tuple[int, ...] | None = None
    closed: int = 0
    caught: "asyncio.Queue[Exception | None]" = field(default_factory=asyncio.Queue)

    @property
    def known(self) -> tuple[int, ...]:
        """All that it was told, prompt and answer."""
        return (*self.submit.tokens, *(token for told in self.rounds for token in told), *(self.went_on or ()))

    async def caught_up(self) -> int:
        came = await self.caught.get()
        if came is not None:
            raise came
        return len(self.known)

    def more(self, tokens: Sequence[int]) -> None:
        self.rounds.append(tuple(tokens))

    async def go_on(self, tokens: Sequence[int] = ()) -> AsyncGenerator[Tokens]:
        self.went_on = tuple(tokens)
        async for each in self.group.given(self.submit.request, len(self.known)):
            yield each

    async def close(self) -> None:
        self.closed += 1


class HandGroup:
    """Gives whoever asks token after token, by their places, when the test says so: never one that it was not asked for."""

    def __init__(self, name: str) -> None:
        self.name, self.cause = name, ""
        self.placement, self.phases = Placement("m", (), 1024, ()), tuple[Phase, ...]()
        self.lost = asyncio.Event()
        self.followings: list[HandFollowing] = []
        self.follows: asyncio.Queue[Exception | None] = asyncio.Queue()
        self.asked: list[Submit] = []
        self.yielded: list[str] = []
        self._streams: dict[str, asyncio.Queue[int | Exception | None]] = {}
        self._known: dict[str, int] = {}

    def generate(self, submit: Submit) -> AsyncGenerator[Tokens]:
        self.asked.append(submit)
        return self.given(submit.request, len(submit.tokens))

    async def given(self, request: str, known: int) -> AsyncGenerator[Tokens]:
        if self.lost.is_set():
            raise StageFailed(self.cause)
        stream = self._streams[request] = asyncio.Queue()
        self._known[request] = known
        try:
            while (came := await stream.get()) is not None:
                if isinstance(came, Exception):
                    raise came
                tokens = tuple(range(known, known + came))
                known = self._known[request] = known + came
                over = known == len(PROMPT) + WANTED
                yield Tokens(request, tokens, "length" if over else None)
                if over:
                    return
        finally:
            del self._streams[request]

    def say(self, tokens: int | Exception = 1) -> None:
        """So many tokens come to the only one that asks."""
        (stream,) = self._streams.values()
        stream.put_nowait(tokens)

    @property
    def asking(self) -> list[str]:
        return list(self._streams)

    def say_rest(self) -> None:
        """All that is left comes."""
        for request, stream in self._streams.items():
            stream.put_nowait(len(PROMPT) + WANTED - self._known[request])

    def yield_up(self, request: str) -> None:
        self.yielded.append(request)

    def end(self, tokens: int = 0) -> None:
        """The step that the request was in is over."""
        if tokens:
            self.say(tokens)
        (stream,) = self._streams.values()
        stream.put_nowait(None)

    async def follow(self, submit: Submit, kv_of: KvOf | None, timeout_s: float) -> HandFollowing:
        following = HandFollowing(submit, kv_of, self)
        self.followings.append(following)
        came = await self.follows.get()
        if came is not None:
            raise came
        return following

    def watch(self, on_lost: Callable[[], None]) -> None:
        pass

    def lose(self, cause: str) -> None:
        self.cause = cause
        self.lost.set()
        for stream in self._streams.values():
            stream.put_nowait(StageFailed(cause))

    async def close(self) -> None:
        self.lose("the group was dissolved")


@dataclass
class Counted:
    """An account that keeps what it is told."""

    told: list[tuple[Any, ...]] = field(default_factory=list)

    def shifted(self, copied_tokens: int, copied_bytes: int) -> None:
        self.told.append(("shifted", copied_tokens, copied_bytes))

    def paused(self, pause_s: float) -> None:
        self.told.append(("paused", round(pause_s, 6)))

    def stayed(self, reason: str) -> None:
        self.told.append(("stayed", reason))

    def over(self) -> None:
        self.told.append(("over",))


class Reader:
    """A ticket that is read, at group "s"; "d" is where it shall go, and "e" one more."""

    def __init__(self) -> None:
        self.told: list[events.Event] = []
        self.groups = {name: HandGroup(name) for name in "sde"}
        self.tasks: set[asyncio.Task[None]] = set()
        self.tokens: list[int] = []
        self.finish: str | None = None
        self.error: RequestError | None = None
        self.on_told: Callable[[events.Event], None] = lambda _event: None
        submit = Submit("r", PROMPT, len(PROMPT), WANTED, (), Sampling(temperature=0.0))
        self.ticket = Ticket("m", submit, 0.0, self._tell, self.groups.get, lambda _first: None)  # type: ignore[arg-type]
        self.reading = asyncio.get_running_loop().create_task(self._read())

    @property
    def s(self) -> HandGroup:
        return self.groups["s"]

    @property
    def d(self) -> HandGroup:
        return self.groups["d"]

    @property
    def shifts(self) -> list[events.Event]:
        """What was told of shifts."""
        return [each for each in self.told if isinstance(each, events.RequestShifted | events.RequestStayed)]

    def assign(self, group: str) -> None:
        self.ticket.assign(Assign("r", group, cold=False))

    def shift(self, group: str = "s", to: str = "d", copy: bool = False) -> Counted:
        account = Counted()
        self.ticket.shift(Shift("r", group, to, copy), account, self.spawn)
        return account

    def spawn(self, work: Any, _name: str) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def leave(self) -> None:
        self.reading.cancel()
        await asyncio.gather(self.reading, return_exceptions=True)

    def _tell(self, event: events.Event) -> None:
        self.told.append(event)
        self.on_told(event)

    async def _read(self) -> None:
        try:
            async for each in self.ticket.tokens():
                self.tokens += each.tokens
                self.finish = each.finish
        except RequestError as error:
            self.error = error


async def soon() -> None:
    """Everything that can happen now has."""
    for _ in range(20):
        await asyncio.sleep(0)


def by_hand(test: Callable[[Reader], Awaitable[None]]) -> None:
    """The test under virtual time, with a request that has two tokens of "s"; at its end nothing is left."""

    async def main() -> None:
        reader = Reader()
        reader.assign("s")
        await soon()
        reader.s.say(2)
        await soon()
        await test(reader)
        await reader.leave()
        await soon()
        assert reader.tasks == set()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert [group.asking for group in reader.groups.values()] == [[], [], []]
        for group in reader.groups.values():
            for following in group.followings:
                assert following.closed <= 1

    run_virtual(main())


def whole() -> list[int]:
    """The answer, wherever it comes from."""
    return list(range(len(PROMPT), len(PROMPT) + WANTED))
