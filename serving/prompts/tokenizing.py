"""A model's own tokenizer and chat template at work: what a text process does. Both came with the model and may be bad."""

import json
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgpack
from jinja2.exceptions import TemplateError

from serving.prompts.questions import Constrained, Exported
from serving.requests.conversation import with_arguments_as_objects
from serving.structure.checking import Unusable, checked_grammar
from serving.structure.formats import PLAIN, format_of
from serving.structure.told import told, told_beside
from serving.structure.wanted import Wanted
from storage_tiers.errors import SourceError
from storage_tiers.layouts import SUPPORTED
from storage_tiers.tokenizers import check_decoder, read_tokenizer

DEFAULT_TEMPLATE, TOOLS_TEMPLATE = "default", "tool_use"
"""What transformers calls them in a model that has several."""
_CALLS, _NO_SYSTEM = "tool_calls", "System role not supported"
"""In templates that write calls, and in those that take no system message."""
_NEVER_CALLS = "message['role'] == 'assistant' and message['content'] is none"
"""In DeepSeek R1's first templates, which write calls of turns whose content is none: transformers leaves out what is."""
LETTERS_PER_TOKEN = 6
SHORT_LETTERS = 1 << 15
PIECE_LETTERS = 1 << 16
CUT_TOKENS = 64
"""A text of more letters than LETTERS_PER_TOKEN for each token of the context is counted in pieces first. A cut may make
so many tokens more than there are; it is made before a space if one is near."""
_NEAR_LETTERS = 1 << 10

MAX_TOKEN_LETTERS = 4096
_REASON_LETTERS = 500


class Refusal(Exception):
    """It cannot be done with this tokenizer or this template; `param` is the request's field at fault."""

    def __init__(self, reason: str, param: str) -> None:
        super().__init__(reason[:_REASON_LETTERS].encode(errors="replace").decode())  # a template says what it likes
        self.param = param


class ContextExceeded(Exception):
    """A text has more tokens than the context."""


def preload() -> None:
    """Import what the first tokenizer needs, and the configurations by which its class is chosen."""
    import transformers.models.auto.tokenization_auto
    import transformers.tokenization_utils_tokenizers
    import transformers.utils.chat_template_utils  # noqa: F401
    from transformers import CONFIG_MAPPING

    for family in SUPPORTED:
        _ = CONFIG_MAPPING[family]


class PromptTokenizer:
    """A tokenizer as transformers reads it from `folder`. Refusal if it cannot, or if answers could not be decoded safely."""

    def __init__(self, folder: Path) -> None:
        try:
            self._tokenizer = read_tokenizer(folder)
            self._tokenizer("")  # from here on the library below is set as for every text: nothing is cut off or padded
            self._backend = self._tokenizer.backend_tokenizer
        except Exception as error:  # whatever a damaged or unknown tokenizer makes transformers raise
            raise Refusal(f"its tokenizer cannot be read: {type(error).__name__}: {error}", "model") from error
        self._decoder = json.loads(self._backend.decoder.__getstate__()) if self._backend.decoder is not None else None
        try:
            check_decoder(self._decoder)
        except SourceError as error:
            raise Refusal(str(error), "model") from error

    def encode(self, text: str, context_tokens: int, special: bool = True) -> "array[int]":
        """The tokens of a text, with what the tokenizer adds at its start if `special`.

        Of a text that is much too long for the context they are not made: ContextExceeded. It is as long as its pieces
        together, but for what the cuts between them may add, so nothing that fits is refused.
        """
        if len(text) > max(LETTERS_PER_TOKEN * context_tokens, SHORT_LETTERS):
            self._count(text, context_tokens)
        return array("i", self._ids(text, special))

    def render(
        self, messages: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any], may_call: bool = False
    ) -> str:
        """A conversation as the model's own template writes it, ready for the assistant's turn unless `arguments`, which the
        template gets too, say otherwise; of several templates, `chat_template` in them names one.

        Arguments of calls in the messages are objects for it, as transformers has it; for one that fails on these, text. If
        it has no words for tools that the model `may_call`, or for calls, they are told in messages.
        """
        template, tools = self._template(arguments), arguments.get("tools") if may_call else None
        given = {"add_generation_prompt": True, **arguments, "chat_template": template}
        form = format_of(template)
        if form.beside:
            return self._rendered(told_beside(messages, arguments.get("tools") or ()), given)
        if form is PLAIN and (tools or _CALLS not in template or _NEVER_CALLS in template):
            if tools:
                del given["tools"]
            return self._rendered(told(messages, tools or (), _NO_SYSTEM not in template), given)
        as_objects = [with_arguments_as_objects(message) for message in messages]
        try:
            return self._rendered(as_objects, given)
        except Refusal:
            if as_objects == list(messages):
                raise
        return self._rendered(messages, given)

    def _template(self, arguments: Mapping[str, Any]) -> str:
        named = self._tokenizer.chat_template
        if not named:
            raise Refusal("this model has no chat template: use /v1/completions", "model")
        if not isinstance(named, dict):
            named = {DEFAULT_TEMPLATE: named}
        wanted = arguments.get("chat_template")
        if wanted is None:
            wanted = TOOLS_TEMPLATE if arguments.get("tools") and TOOLS_TEMPLATE in named else DEFAULT_TEMPLATE
        if wanted not in named:
            names = ", ".join(sorted(map(str, named)))
            raise Refusal(f"of the model's chat templates none is called {wanted}: it has {names}", "chat_template")
        return str(named[wanted])

    def _rendered(self, messages: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]) -> str:
        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, **arguments)
            text.encode()
        except TemplateError as error:
            raise Refusal(f"the model's chat template refuses these messages: {error}", "messages") from error
        except Exception as error:  # templates are programs: they raise what they like
            said = f"{type(error).__name__}: {error}"
            raise Refusal(f"the model's chat template fails on these messages: {said}", "messages") from error
        return str(text)

    def constrain(self, wanted: Wanted, chat_template: str | None) -> Constrained:
        """The grammar of an answer. Refusal if none can be made of what is wanted."""
        form = PLAIN
        if wanted.tools:
            tools = [tool.name for tool in wanted.tools]
            form = format_of(self._template({"tools": tools, "chat_template": chat_template}))
        special = {
            token.content: number for number, token in self._backend.get_added_tokens_decoder().items() if token.special
        }
        try:
            return Constrained(checked_grammar(wanted, form, special.get), form.name)
        except Unusable as error:
            raise Refusal(str(error), error.param) from error

    def export(self) -> Exported:
        """What is needed to decode the same tokens, and nothing that is needed for prompts only."""
        added = self._backend.get_added_tokens_decoder()
        vocabulary = self._backend.get_vocab(with_added_tokens=False)
        vocabulary |= {token.content: number for number, token in added.items()}
        if max(map(len, vocabulary), default=0) > MAX_TOKEN_LETTERS:
            raise Refusal(f"its tokenizer has a token of more than {MAX_TOKEN_LETTERS} letters", "model")
        special = {token.content: token.special for token in added.values()}
        return Exported(msgpack.packb(vocabulary), special, json.dumps(self._decoder))

    def _count(self, text: str, context_tokens: int) -> None:
        begin = counted = 0
        while begin < len(text):
            end = _cut(text, begin)
            counted += len(self._ids(text[begin:end], special=False)) - CUT_TOKENS
            if counted > context_tokens:
                raise ContextExceeded
            begin = end

    def _ids(self, text: str, special: bool) -> Sequence[int]:
        """As the tokenizer's own call gives them, at a third of its time: where in the text each token lies is not asked."""
        try:
            (encoding,) = self._backend.encode_batch_fast([text], add_special_tokens=special)
        except Exception as error:  # whatever a text makes the library raise
            raise Refusal(f"the model's tokenizer fails on this text: {error}", "model") from error
        ids: list[int] = encoding.ids
        return ids


def _cut(text: str, begin: int) -> int:
    """Where the piece from `begin` ends."""
    end = begin + PIECE_LETTERS
    if end >= len(text):
        return len(text)
    space = text.rfind(" ", end - _NEAR_LETTERS, end)
    return space if space > begin else end
