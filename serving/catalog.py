"""The models that can be asked for, as published, with their tokenizers ready.

What a store says may be wrong, and a store may be away: neither harms any model but the one it is about, and what is served
stays served until its removal is certain.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import TypeVar

from cluster.model_facts import context_tokens, facts_of, model_config
from schedules.facts import Model
from serving.errors import BadRequest, ModelDamaged, ModelNotFound, RequestError, Unavailable
from serving.prompts.processes import TextProcesses
from serving.requests.sampling_defaults import SamplingDefaults, defaults_of
from serving.text import ModelText
from storage_tiers.checkpoint import Checkpoint, is_model_name
from storage_tiers.errors import Corrupt, Missing, StorageError, StoreUnavailable
from storage_tiers.model_store import ModelStore
from storage_tiers.presence import check_present

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
FRESH_S = 5.0
BAD_ROOT_S = 1.0
"""A root that cannot be read is not read again sooner: that may take long, and keeps the interpreter busy."""
KEPT_MODELS = 256
_SHOWN_LETTERS = 200
HEAD_START_S = 0.02
"""Reading what answers are decoded with keeps a process and the interpreter busy: prompts and orders that wait go first."""


@dataclass(frozen=True)
class ServedModel:
    """A published model and what requests need of it; `text` is None for a model without a tokenizer.

    Of two versions the one with the larger `opened` was found later.
    """

    checkpoint: Checkpoint
    facts: Model
    text: ModelText | None
    context_tokens: int
    stop_tokens: tuple[int, ...]
    opened: int
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)

    @property
    def name(self) -> str:
        return self.checkpoint.name


def _keep(kept: dict[str, _T], name: str, value: _T) -> None:
    """The latest of KEPT_MODELS models."""
    kept.pop(name, None)
    kept[name] = value
    while len(kept) > KEPT_MODELS:
        del kept[next(iter(kept))]


def _import_libraries() -> None:
    """Two seconds for the first configuration that the first request should not wait for."""
    model_config({"model_type": "llama"})


@dataclass
class _Entry:
    model: ServedModel
    checked_s: float


@dataclass(frozen=True)
class _Failure:
    error: StorageError
    since_s: float


@dataclass(frozen=True)
class _Opening:
    """A look-up under way: `found` has the model without its tokenizer, `ready` with it. Who failed has cancelled `found`."""

    found: asyncio.Future[ServedModel]
    ready: asyncio.Task[ServedModel]


class Catalog:
    """Opens models on demand and keeps them; what is older than a few seconds is looked up again behind the request.

    `is_held` says of a unit's digest whether a node has it, so that the store need not.
    """

    def __init__(
        self, store: ModelStore, texts: TextProcesses, is_held: Callable[[str], bool] = lambda _digest: False
    ) -> None:
        self._store, self._texts, self._is_held = store, texts, is_held
        self._entries: dict[str, _Entry] = {}
        self._opening: dict[str, _Opening] = {}
        self._opened = itertools.count(1)
        self._seen: frozenset[str] = frozenset()
        self._bad_roots: dict[str, _Failure] = {}
        self._told: dict[str, str] = {}
        self._told_empty = False

    async def names(self) -> list[str]:
        """Names of all published models; of a store that is suddenly empty, those that are served. Unavailable if it does
        not answer."""
        try:
            found = await asyncio.to_thread(self._store.list)
        except StorageError as error:
            raise Unavailable(f"the object store does not answer: {error}", retry_after_s=5) from error
        self._saw(found)
        return found or sorted(self._entries)

    async def get(self, name: str) -> ServedModel:
        """The model called `name`. ModelNotFound if it is not published, ModelDamaged if it cannot be served, Unavailable if
        that cannot be found out."""
        entry = self._entries.get(name)
        if entry is None:
            return await self._ready(name, self._opening.get(name) or self._open(name))
        if time.monotonic() - entry.checked_s > FRESH_S and name not in self._opening:
            self._open(name)
        return entry.model

    async def find(self, name: str) -> tuple[ServedModel, bool]:
        """The model as soon as it is known, and whether its tokenizer is ready: reading one takes up to half a second, in
        which the model can be started. What `get` raises."""
        if name in self._entries:
            return await self.get(name), True
        opening = self._opening.get(name) or self._open(name)
        await asyncio.wait({opening.found, opening.ready}, return_when=asyncio.FIRST_COMPLETED)
        if opening.ready.done() or opening.found.cancelled():
            return await self._ready(name, opening), True
        return opening.found.result(), False

    async def _ready(self, name: str, opening: _Opening) -> ServedModel:
        try:
            return await asyncio.shield(opening.ready)
        except Missing as error:
            raise ModelNotFound(f"The model '{name[:_SHOWN_LETTERS]}' does not exist", "model") from error
        except Corrupt as error:
            raise ModelDamaged(f"The model '{name}' cannot be served: {error}", "model") from error
        except StorageError as error:
            raise Unavailable(f"model {name!r} cannot be opened: {error}", retry_after_s=5) from error

    async def warm(self) -> None:
        """Open what is published, so that the first request finds its tokenizer ready.

        What is published later finds at least the libraries imported.
        """
        await asyncio.to_thread(_import_libraries)
        for name in (await self.names())[:KEPT_MODELS]:
            try:
                await self.get(name)
            except Exception as error:  # whatever it is, the others are opened; it is told to whoever asks for this one
                if not isinstance(error, ModelNotFound | Unavailable):
                    self._note(name, error)

    def _open(self, name: str) -> _Opening:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[ServedModel] = loop.create_future()
        opening = self._opening[name] = _Opening(found, loop.create_task(self._refresh(name, found)))
        opening.ready.add_done_callback(lambda _done: self._settle(name, opening))
        return opening

    def _settle(self, name: str, opening: _Opening) -> None:
        self._opening.pop(name, None)
        opening.found.cancel()  # nothing happens if it has its result
        error = None if opening.ready.cancelled() else opening.ready.exception()
        entry = self._entries.get(name)
        if isinstance(error, Missing):
            self._entries.pop(name, None)
            self._told.pop(name, None)
        elif error is not None:
            self._note(name, error)
            if entry is not None:
                entry.checked_s = time.monotonic()
        else:
            self._seen |= {name}
            self._told.pop(name, None)

    def _note(self, name: str, error: BaseException) -> None:
        """Tell the log once, however often the model is asked for; of what nobody expected, with its traceback."""
        if self._told.get(name) != str(error):
            unexpected = not isinstance(error, StorageError | RequestError)
            _log.warning("model %s: %s", name, error, exc_info=error if unexpected else None)
        _keep(self._told, name, str(error))

    def _saw(self, names: Collection[str]) -> None:
        """The store has these models, or none where there were some: then it is away, as far as one can know."""
        if names:
            self._seen, self._told_empty = frozenset(names), False
        elif (self._seen or self._entries) and not self._told_empty:
            self._told_empty = True
            _log.warning(
                "%s is empty, where %d models were: what is served stays served, nothing else can be started",
                self._store.objects.url, len(self._seen | self._entries.keys()),
            )  # fmt: skip

    async def _refresh(self, name: str, found: "asyncio.Future[ServedModel]") -> ServedModel:
        known = self._entries.get(name)
        checkpoint = await self._checkpoint(name)
        if known is not None and known.model.checkpoint == checkpoint:
            model = known.model
        else:
            held = {unit.digest for unit in checkpoint.units if self._is_held(unit.digest)}
            bare, _ = await asyncio.gather(
                asyncio.to_thread(self._describe, checkpoint),
                asyncio.to_thread(check_present, self._store, checkpoint, held),
            )
            found.set_result(bare)
            if known is not None and known.model.checkpoint.digest == checkpoint.digest:
                text = known.model.text
            else:
                text = await self._open_text(checkpoint)
            model = replace(bare, text=text)
            if passed_over := ", ".join(model.sampling.passed_over):
                _log.warning("model %s: its generation configuration has %s, which is not used", name, passed_over)
        _keep(self._entries, name, _Entry(model, time.monotonic()))
        return model

    async def _checkpoint(self, name: str) -> Checkpoint:
        """Missing if there is no such model; StoreUnavailable if there was, and now there is none at all."""
        bad_root = self._bad_roots.get(name)
        if bad_root is not None and time.monotonic() - bad_root.since_s < BAD_ROOT_S:
            raise Corrupt(str(bad_root.error))
        if not is_model_name(name):
            raise Missing(f"{name!r} is no model's name")
        try:
            return await asyncio.to_thread(self._store.open, name)
        except Corrupt as error:
            _keep(self._bad_roots, name, _Failure(error, time.monotonic()))
            raise
        except Missing as error:
            if name not in self._seen and name not in self._entries:
                raise
            others = await asyncio.to_thread(self._store.list)
            self._saw(others)
            if others:
                raise
            raise StoreUnavailable(
                f"{self._store.objects.url} is empty, where {name} was: is the store there?"
            ) from error

    def _describe(self, checkpoint: Checkpoint) -> ServedModel:
        """All of it but its tokenizer. Corrupt if transformers makes no model of its configuration."""
        stops = checkpoint.generation_config.get("eos_token_id", ())
        return ServedModel(
            checkpoint=checkpoint,
            facts=facts_of(checkpoint),
            text=None,
            context_tokens=context_tokens(model_config(checkpoint.config)),
            stop_tokens=tuple(stops) if isinstance(stops, list | tuple) else (stops,) if stops is not None else (),
            opened=next(self._opened),
            sampling=defaults_of(checkpoint.generation_config),
        )

    async def _open_text(self, checkpoint: Checkpoint) -> ModelText | None:
        files = await asyncio.to_thread(self._read_files, checkpoint)
        if "tokenizer.json" not in files:
            return None
        try:
            text = ModelText(await self._texts.open(checkpoint.name, checkpoint.digest, files, checkpoint.config))
        except BadRequest as error:
            raise Corrupt(str(error)) from error
        asyncio.get_running_loop().call_later(HEAD_START_S, text.prepare)
        return text

    def _read_files(self, checkpoint: Checkpoint) -> dict[str, bytes]:
        return {file.name: self._store.read_file(checkpoint.name, file) for file in checkpoint.files}
