"""Text processes: each open model's tokenizer and chat template at work in a process of the model's own.

Both come with the model, and may loop, or take all memory there is. There they can be ended, and what they take is the
model's: a request has a deadline, a process a bound on its memory, and a model whose process had to be ended twice in a
row is let alone for a while. Requests of one model take turns; nobody else waits for them. Grammars take turns among
themselves first, so that a prompt waits for one of them at most.
"""

import asyncio
import itertools
import logging
import shutil
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import BadRequest, ContextTooLong, Overloaded, Unavailable
from serving.prompts.forked import ProcessGone, TextProcess, TextZygote
from serving.prompts.questions import Constrain, Encode, EncodeChat, Load, Ready, Refused, Rendered, Request, TooLong
from storage_tiers.tokenizers import write_tokenizer

_log = logging.getLogger(__name__)
TEMPLATE_PART = 0.2
"""The part of a request's time that a chat template gets, or a grammar."""
LOAD_TIMEOUT_S = 30.0
ALIVE = 32
IDLE_S = 1800.0
SLOW_S = 0.25
"""What takes longer gives way to everything else on the machine."""
MAX_WAITING = 256
MAX_WAITING_GRAMMARS = 32
MAX_WAITING_LETTERS = 32 << 20
FAILURES = 2
PAUSE_S = 30.0
_KEPT_BREAKERS = 1024


@dataclass
class Breaker:
    """Lets a model alone for PAUSE_S when its process had to be ended FAILURES times in a row."""

    failures: int = 0
    until_s: float = 0.0

    def check(self, name: str) -> None:
        """Unavailable if it is not the time to try again."""
        left_s = self.until_s - time.monotonic()
        if left_s > 0:
            raise Unavailable(
                f"the process that makes prompts into tokens for {name} had to be ended {self.failures} times in a row",
                retry_after_s=max(1, round(left_s)),
            )

    def failed(self) -> None:
        self.failures += 1
        if self.failures >= FAILURES:
            self.until_s = time.monotonic() + PAUSE_S

    def worked(self) -> None:
        self.failures = 0


class TextProcesses:
    """Starts, bounds and ends all of them. Use from one event loop, between `start` and `close`."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._zygote: TextZygote | None = None
        self._alive: OrderedDict[ModelProcess, None] = OrderedDict()
        self._breakers: OrderedDict[tuple[str, str], Breaker] = OrderedDict()
        self._numbers = itertools.count(1)

    async def start(self) -> None:
        """Start what they are forked from."""
        self._zygote = TextZygote()
        await self._zygote.start()

    async def close(self) -> None:
        """End all of them."""
        zygote, self._zygote = self._zygote, None
        for process in tuple(self._alive):
            process.end()
        if zygote is not None:
            await zygote.close()

    async def open(
        self, name: str, digest: str, files: Mapping[str, bytes], config: Mapping[str, Any]
    ) -> "ModelProcess":
        """The model's process, with its tokenizer read from these files as its configuration has it. BadRequest if that
        cannot be used, Unavailable without a process."""
        breaker = self._breaker(name, digest)
        breaker.check(name)
        folder = await asyncio.to_thread(self._write, files, config)
        process = ModelProcess(self, name, folder, breaker)
        await process.wake()
        return process

    async def fork(self, process: "ModelProcess") -> TextProcess:
        """A process for `process`, after room was made for it."""
        while len(self._alive) >= ALIVE:
            idle = next((other for other in self._alive if not other.busy), None)
            if idle is None:
                raise Unavailable(f"{ALIVE} models' prompts are being made into tokens", retry_after_s=2)
            idle.end()
        zygote = self._opened()
        self._alive[process] = None
        try:
            return await zygote.fork()
        except BaseException as error:
            self._alive.pop(process, None)
            if isinstance(error, ProcessGone):
                raise Unavailable(f"prompts cannot be made into tokens now: {error}", retry_after_s=5) from error
            raise

    def used(self, process: "ModelProcess") -> None:
        """Of those that are idle this one now is the last to be ended."""
        if process in self._alive:
            self._alive.move_to_end(process)

    def ended(self, process: "ModelProcess") -> None:
        """It has no process any more."""
        self._alive.pop(process, None)

    def _opened(self) -> TextZygote:
        if self._zygote is None:
            raise Unavailable("the front end is stopping")
        return self._zygote

    def _write(self, files: Mapping[str, bytes], config: Mapping[str, Any]) -> Path:
        folder = self._opened().folder / str(next(self._numbers))
        folder.mkdir()
        plain = {name: data for name, data in files.items() if Path(name).name == name}  # others are no tokenizer's
        write_tokenizer(folder, plain, config)
        return folder

    def _breaker(self, name: str, digest: str) -> Breaker:
        breaker = self._breakers.setdefault((name, digest), Breaker())
        self._breakers.move_to_end((name, digest))
        while len(self._breakers) > _KEPT_BREAKERS:
            self._breakers.popitem(last=False)
        return breaker


class ModelProcess:
    """A model's process: started when it is needed, ended when it is not, or takes too long. One request at a time."""

    def __init__(self, processes: TextProcesses, name: str, folder: Path, breaker: Breaker) -> None:
        self._processes, self._name, self._folder, self._breaker = processes, name, folder, breaker
        self._process: TextProcess | None = None
        self._at_hand = False
        self._turn, self._grammars_turn = asyncio.Lock(), asyncio.Lock()
        self._work: asyncio.Task[Any] | None = None
        self._waiting = self._waiting_letters = self._waiting_grammars = 0
        self._idle: asyncio.TimerHandle | None = None
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    @property
    def at_hand(self) -> bool:
        """Whether the process is there and has the tokenizer read."""
        return self._at_hand

    @property
    def busy(self) -> bool:
        """Whether somebody waits for it, or it is at work."""
        return self._waiting + self._waiting_grammars > 0 or (self._work is not None and not self._work.done())

    async def wake(self) -> None:
        """Have the process started, if it is not."""
        await self._take_turn(0, self._started)

    async def ask(self, request: Request) -> Any:
        """The answer to `request`.

        BadRequest if the tokenizer or the template refuses it, takes too long or too much memory, ContextTooLong if a text
        is far beyond the context, Overloaded if too many wait for the process, Unavailable if it can't be had. Who is
        cancelled while he waits is skipped; if his request is worked on, the next one waits for that.
        """
        if not isinstance(request, Constrain):
            return await self._take_turn(_letters(request), lambda: self._answered(request))
        if self._waiting_grammars >= MAX_WAITING_GRAMMARS:
            raise Overloaded(f"too many grammars wait to be made for {self._name}", retry_after_s=5)
        self._waiting_grammars += 1
        try:
            async with self._grammars_turn:
                return await self._take_turn(_letters(request), lambda: self._answered(request))
        finally:
            self._waiting_grammars -= 1

    def end(self) -> None:
        """End the process; the next request gets a new one."""
        if self._work is not None:
            self._work.cancel()
        self._drop()

    async def _take_turn(self, letters: int, work: Callable[[], Any]) -> Any:
        self._breaker.check(self._name)
        if self._waiting >= MAX_WAITING or (self._waiting and self._waiting_letters + letters > MAX_WAITING_LETTERS):
            raise Overloaded(f"too many prompts of {self._name} wait to be made into tokens", retry_after_s=5)
        self._waiting += 1
        self._waiting_letters += letters
        try:
            async with self._turn:
                if self._work is not None:
                    await asyncio.wait({self._work})
                self._breaker.check(self._name)
                self._work = asyncio.ensure_future(work())
                self._work.add_done_callback(self._rest)
                return await asyncio.shield(self._work)
        finally:
            self._waiting -= 1
            self._waiting_letters -= letters

    def _rest(self, work: "asyncio.Task[Any]") -> None:
        """What came of it is for whoever waits, if anybody still does."""
        if not work.cancelled():
            work.exception()
        if self._process is not None:
            if self._idle is not None:
                self._idle.cancel()
            self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._end_idle)

    def _end_idle(self) -> None:
        if not self.busy:
            self._drop()

    async def _started(self) -> TextProcess:
        if self._process is not None and self._at_hand and not self._process.gone:
            return self._process
        self._drop()
        self._process = process = await self._processes.fork(self)
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                await process.send(Load(str(self._folder)))
                answer = await process.receive()
        except (TimeoutError, ProcessGone) as error:
            self._drop()
            raise self._failure(error, f"{self._name}'s tokenizer", LOAD_TIMEOUT_S) from error
        except BaseException:
            self._drop()
            raise
        if not isinstance(answer, Ready):
            self._drop()
            raise BadRequest(f"{self._name} cannot be asked: {answer.reason}", "model")
        self._at_hand = True
        return process

    async def _answered(self, request: Request) -> Any:
        process = await self._started()
        self._processes.used(self)
        loop = asyncio.get_running_loop()
        slow = loop.call_later(SLOW_S, process.slow_down)
        timeout_s = self._processes.timeout_s
        chat, constrain = isinstance(request, EncodeChat), isinstance(request, Constrain)
        at_work, within_s = f"{self._name}'s tokenizer", timeout_s
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                until_s = loop.time() + timeout_s
                if chat:
                    at_work, within_s = f"the chat template of {self._name}", timeout_s * TEMPLATE_PART
                    deadline.reschedule(loop.time() + within_s)
                elif constrain:
                    at_work, within_s = "the grammar of what is asked of the answer", timeout_s * TEMPLATE_PART
                    deadline.reschedule(loop.time() + within_s)
                await process.send(request)
                answer = await process.receive()
                if isinstance(answer, Rendered):
                    at_work, within_s = f"{self._name}'s tokenizer", timeout_s
                    deadline.reschedule(until_s)
                    answer = await process.receive()
        except (TimeoutError, ProcessGone) as error:
            self._drop()
            param = request.param if isinstance(request, Constrain) else None
            raise self._failure(error, at_work, within_s, param) from error
        except BaseException:
            self._drop()
            raise
        finally:
            slow.cancel()
        if loop.time() >= slow.when():
            process.speed_up()
        self._breaker.worked()
        if isinstance(answer, Refused):
            about = f"{answer.param} cannot be kept to" if constrain else self._name
            raise BadRequest(f"{about}: {answer.reason}", answer.param)
        if isinstance(answer, TooLong):
            raise ContextTooLong(
                f"the prompt has more tokens than {self._name} takes with the answer", "messages" if chat else "prompt"
            )
        return answer

    def _drop(self) -> None:
        process, self._process, self._at_hand = self._process, None, False
        if process is not None:
            process.end()
        if self._idle is not None:
            self._idle.cancel()
        self._processes.ended(self)

    def _failure(
        self, error: TimeoutError | ProcessGone, at_work: str, within_s: float, param: str | None = None
    ) -> BadRequest:
        """What to tell of a process that was ended, or has ended. If a field of the request, `param`, did that, and not what
        came with the model, the model is not let alone for it."""
        if param is None:
            self._breaker.failed()
        if isinstance(error, TimeoutError):
            _log.warning("%s took longer than %g s: its process was ended", at_work, within_s)
            return BadRequest(f"{at_work} took longer than {within_s:g} s (frontend.text_timeout_s)", param or "model")
        _log.warning("%s has ended its process", at_work)
        said = f"{at_work} ended its process, maybe as it needed more memory than it may have"
        return BadRequest(said, param or "model")


def _letters(request: Request) -> int:
    if isinstance(request, Encode):
        return sum(map(len, request.texts))
    if isinstance(request, EncodeChat):
        beside = len(str(request.arguments)) if request.arguments else 0
        return beside + sum(len(str(value)) for message in request.messages for value in message.values())
    if isinstance(request, Constrain):
        return len(request.wanted)
    return 0
