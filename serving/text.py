"""Between text and tokens: a model's tokenizer and chat template, and text that comes out token by token."""

import asyncio
import json
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Self

import msgpack
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel

from cluster.wire.requests import Words
from serving.decoding import Decoding, TokenDecoder, letters_bytes, spelled_byte
from serving.prompts.processes import ModelProcess
from serving.prompts.questions import Constrain, Constrained, Encode, EncodeChat, Export, Exported
from serving.structure.wanted import Wanted

_KEPT_GRAMMARS = 64
_BEFORE = "a"
"""Stands before a token that is decoded by itself: some decoders drop the space at the start of a text."""


@dataclass(frozen=True)
class TokenText:
    """A token by itself: how it is called, and its bytes in an answer's text, None if it is never part of one.

    Bytes that are no whole character are called by their numbers, as in \\xf0\\x9f.
    """

    text: str
    data: bytes | None

    @classmethod
    def of(cls, data: bytes) -> Self:
        return cls(data.decode("utf-8", "backslashreplace"), data)

    @classmethod
    def unnamed(cls, token: int) -> Self:
        """A token that no tokenizer knows."""
        return cls(f"token_id:{token}", None)


class AnswerText:
    """From tokens back to text, by what a text process exported. Thread-safe."""

    def __init__(self, exported: Exported) -> None:
        self._tokenizer = _decoding_only(exported)
        self._decoding = Decoding(self._tokenizer)
        self._added = self._tokenizer.get_added_tokens_decoder()
        self._token_texts: dict[int, TokenText] = {}

    def decoder(self, prompt: Sequence[int]) -> TokenDecoder:
        """A fresh decoder for one answer to `prompt`."""
        return TokenDecoder.behind(self._decoding, prompt)

    def token(self, token: int) -> TokenText:
        """What `token` is by itself, within a text."""
        known = self._token_texts.get(token)
        if known is None:
            known = self._token_texts[token] = self._token(token)
        return known

    def words(self, vocabulary: int, ends: Sequence[int]) -> Words:
        """What grammars are over: the first `vocabulary` tokens. Takes up to a second."""
        tokens = tuple(self._token(token).data or b"" for token in range(vocabulary))
        digest = sha256(repr((vocabulary, tuple(ends))).encode())
        for data in tokens:
            digest.update(len(data).to_bytes(4, "big"))
            digest.update(data)
        return Words(digest.hexdigest(), tokens, tuple(ends))

    def _token(self, token: int) -> TokenText:
        written = self._tokenizer.id_to_token(token)
        if written is None:
            return TokenText.unnamed(token)
        if token in self._added and self._added[token].special:
            return TokenText(written, None)
        return TokenText.of(_bytes_of(written, self._tokenizer.decoder))


class ModelText:
    """A model's text: prompts become tokens in its own process, answers become text here."""

    def __init__(self, process: ModelProcess) -> None:
        self._process = process
        self._answers: AnswerText | None = None
        self._reading: asyncio.Task[AnswerText] | None = None
        self._words: dict[tuple[int, tuple[int, ...]], asyncio.Task[Words]] = {}
        self._grammars: OrderedDict[tuple[str, str | None], Constrained] = OrderedDict()

    @property
    def at_hand(self) -> bool:
        """Whether a prompt can become tokens at once; else the tokenizer is read first."""
        return self._process.at_hand

    async def wake(self) -> None:
        """Have the tokenizer read, if it is not. Raises what `encode` does."""
        await self._process.wake()

    async def encode(self, texts: Sequence[str], context_tokens: int) -> list[tuple[int, ...]]:
        """The tokens of each text, with what the tokenizer adds at its start. Raises what `ModelProcess.ask` does."""
        return await self._tokens(Encode(tuple(texts), context_tokens))

    async def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        arguments: Mapping[str, Any],
        context_tokens: int,
        may_call: bool = False,
    ) -> tuple[int, ...]:
        """The tokens of a conversation by the model's own template, ready for the assistant's turn; likewise.

        The template gets `arguments` beside the messages. If the model `may_call` the tools in them it is told of these.
        """
        asked = EncodeChat(tuple(dict(message) for message in messages), dict(arguments), context_tokens, may_call)
        return (await self._tokens(asked))[0]

    async def constrain(self, wanted: Wanted, chat_template: str | None) -> Constrained:
        """A grammar for what is wanted, and how calls are written by the chat template of this name; likewise."""
        key = wanted.written(), chat_template
        found = self._grammars.get(key)
        if found is None:
            found = self._grammars[key] = await self._process.ask(Constrain(*key, wanted.param))
            if len(self._grammars) > _KEPT_GRAMMARS:
                self._grammars.popitem(last=False)
        else:
            self._grammars.move_to_end(key)
        return found

    async def words(self, vocabulary: int, ends: Sequence[int]) -> Words:
        """What grammars for the model's answers are over, made once. Raises what `ModelProcess.ask` does."""
        key = vocabulary, tuple(ends)
        made = self._words.get(key)
        if made is None or (made.done() and (made.cancelled() or made.exception() is not None)):
            self._words.clear()
            made = self._words[key] = asyncio.ensure_future(self._make_words(*key))
            made.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(made)

    async def _make_words(self, vocabulary: int, ends: tuple[int, ...]) -> Words:
        answers = await self.answers()
        return await asyncio.to_thread(answers.words, vocabulary, ends)

    def prepare(self) -> None:
        """Begin to read what answers become text with."""
        if self._answers is None and (self._reading is None or self._reading.done()):
            self._reading = asyncio.ensure_future(self._read())
            self._reading.add_done_callback(lambda read: read.cancelled() or read.exception())  # told to who needs it

    async def answers(self) -> AnswerText:
        """What answers become text with. Raises what `ModelProcess.ask` does."""
        self.prepare()
        if self._answers is None:
            assert self._reading is not None
            return await asyncio.shield(self._reading)
        return self._answers

    def token(self, token: int) -> TokenText:
        """What `token` is by itself, once `answers` is there."""
        assert self._answers is not None
        return self._answers.token(token)

    async def _read(self) -> AnswerText:
        exported = await self._process.ask(Export())
        self._answers = await asyncio.to_thread(AnswerText, exported)
        return self._answers

    async def _tokens(self, request: Encode | EncodeChat) -> list[tuple[int, ...]]:
        encoded = await self._process.ask(request)
        self.prepare()  # while the answer's first token is computed
        return [tuple(array("i", tokens)) for tokens in encoded.tokens]


def _decoding_only(exported: Exported) -> Tokenizer:
    """A tokenizer with the tokens and the decoder that were exported."""
    nothing = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
    tokenizer: Tokenizer = Tokenizer.from_str(
        json.dumps({"version": "1.0", "added_tokens": [], "decoder": json.loads(exported.decoder), "model": nothing})
    )
    tokenizer.model = WordLevel(vocab=msgpack.unpackb(exported.vocabulary), unk_token="")
    for special, add in ((False, tokenizer.add_tokens), (True, tokenizer.add_special_tokens)):
        tokens = [
            AddedToken(token, normalized=False) for token, is_special in exported.added.items() if is_special is special
        ]
        add(tokens)
    return tokenizer


def _bytes_of(written: str, decoder: Any) -> bytes:
    """The bytes of a token as the vocabulary writes it; a part of a character is found where it is spelled in bytes."""
    if decoder is None:
        return written.encode()
    text = str(decoder.decode([_BEFORE, written])).removeprefix(_BEFORE)
    if "\ufffd" not in text:
        return text.encode()
    byte = spelled_byte(written)
    return bytes([byte]) if byte is not None else letters_bytes(written)


class StopStrings:
    """Cuts text off before the stop string that is complete first, in whatever pieces the text comes.

    Of several that are complete at once, the longest counts.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """What may be shown now; `hit` says that a stop string came and nothing follows."""
        if not self._stops:
            return text
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.hit = True
            shown, self._held = self._held[: min(found)[1]], ""
            return shown
        keep = max(self._begun(stop) for stop in self._stops)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """What was held back in case a stop string had begun, at the end of the answer."""
        shown, self._held = self._held, ""
        return shown

    def _begun(self, stop: str) -> int:
        """Length of the longest end of the held text that begins `stop`."""
        for length in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if stop.startswith(self._held[-length:]):
                return length
        return 0
