"""The models that can be asked for, as published, with their tokenizers ready."""

import asyncio
import itertools
import time
from dataclasses import dataclass, replace

from cluster.model_facts import context_tokens, facts_of, model_config
from schedules.facts import Model
from serving.errors import ModelNotFound, Unavailable
from serving.prompts.processes import TextProcesses
from serving.text import ModelText
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.errors import Missing, StorageError
from storage_tiers.remote import ModelStore

FRESH_S = 5.0
KEPT_MODELS = 256
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

    @property
    def name(self) -> str:
        return self.checkpoint.name


def _import_libraries() -> None:
    """Two seconds for the first configuration that the first request should not wait for."""
    model_config({"model_type": "llama"})


@dataclass
class _Entry:
    model: ServedModel
    checked_s: float


@dataclass(frozen=True)
class _Opening:
    """A look-up under way: `found` has the model without its tokenizer, `ready` with it. Who failed has cancelled `found`."""

    found: asyncio.Future[ServedModel]
    ready: asyncio.Task[ServedModel]


class Catalog:
    """Opens models on demand and keeps them; what is older than a few seconds is looked up again behind the request."""

    def __init__(self, store: ModelStore, texts: TextProcesses) -> None:
        self._store, self._texts = store, texts
        self._entries: dict[str, _Entry] = {}
        self._opening: dict[str, _Opening] = {}
        self._opened = itertools.count(1)

    async def names(self) -> list[str]:
        """Names of all published models. Unavailable if the store does not answer."""
        try:
            return await asyncio.to_thread(self._store.list)
        except StorageError as error:
            raise Unavailable(f"the object store does not answer: {error}", retry_after_s=5) from error

    async def get(self, name: str) -> ServedModel:
        """The model called `name`. ModelNotFound if it is not published, Unavailable if that cannot be found out."""
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
            raise ModelNotFound(f"The model '{name}' does not exist", "model") from error
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
            except (ModelNotFound, Unavailable):
                continue  # it is told to whoever asks for it

    def _open(self, name: str) -> _Opening:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[ServedModel] = loop.create_future()
        opening = self._opening[name] = _Opening(found, loop.create_task(self._refresh(name, found)))
        opening.ready.add_done_callback(lambda _done: self._settle(name, opening))
        return opening

    def _settle(self, name: str, opening: _Opening) -> None:
        self._opening.pop(name, None)
        opening.found.cancel()  # nothing happens if it has its result
        if not opening.ready.cancelled() and isinstance(opening.ready.exception(), Missing):
            self._entries.pop(name, None)

    async def _refresh(self, name: str, found: "asyncio.Future[ServedModel]") -> ServedModel:
        known = self._entries.get(name)
        checkpoint = await asyncio.to_thread(self._open_checkpoint, name)
        if known is not None and known.model.checkpoint.digest == checkpoint.digest:
            model = known.model
        else:
            bare = await asyncio.to_thread(self._describe, checkpoint)
            found.set_result(bare)
            model = replace(bare, text=await self._open_text(checkpoint))
        self._entries.pop(name, None)
        self._entries[name] = _Entry(model, time.monotonic())
        while len(self._entries) > KEPT_MODELS:
            del self._entries[next(iter(self._entries))]
        return model

    def _open_checkpoint(self, name: str) -> Checkpoint:
        try:
            return self._store.open(name)
        except StorageError as error:
            if isinstance(error, Missing) or "model name" in str(error):
                raise Missing(str(error)) from error
            raise

    def _describe(self, checkpoint: Checkpoint) -> ServedModel:
        """All of it but its tokenizer."""
        stops = checkpoint.generation_config.get("eos_token_id", ())
        return ServedModel(
            checkpoint=checkpoint,
            facts=facts_of(checkpoint),
            text=None,
            context_tokens=context_tokens(model_config(checkpoint.config)),
            stop_tokens=tuple(stops) if isinstance(stops, list | tuple) else (stops,) if stops is not None else (),
            opened=next(self._opened),
        )

    async def _open_text(self, checkpoint: Checkpoint) -> ModelText | None:
        files = await asyncio.to_thread(self._read_files, checkpoint)
        if "tokenizer.json" not in files:
            return None
        text = ModelText(await self._texts.open(checkpoint.name, checkpoint.digest, files))
        asyncio.get_running_loop().call_later(HEAD_START_S, text.prepare)
        return text

    def _read_files(self, checkpoint: Checkpoint) -> dict[str, bytes]:
        return {file.name: self._store.read_file(checkpoint.name, file) for file in checkpoint.files}
