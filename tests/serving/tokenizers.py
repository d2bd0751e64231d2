"""Tokenizers made for tests, and one at work in this process."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from serving.decoding import TokenDecoder
from serving.prompts.tokenizing import PromptTokenizer
from serving.text import AnswerText, TokenText

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"
)
MANY = 1 << 30


def byte_tokenizer() -> Tokenizer:
    """One token a byte, and 256 for the end of a text."""
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(BYTES)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


def files_of(tokenizer: Tokenizer, **config: Any) -> dict[str, bytes]:
    """What is published with a model that has this tokenizer."""
    plain = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    return {"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": json.dumps(plain).encode()}


def byte_files(**config: Any) -> dict[str, bytes]:
    """Those of `byte_tokenizer`."""
    return files_of(byte_tokenizer(), eos_token="<end>", **config)


class LocalText:
    """A model's text without a process of its own."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            (folder / name).write_bytes(data)
        self.prompts = PromptTokenizer(folder)
        self.answers = AnswerText(self.prompts.export())

    def encode(self, text: str) -> list[int]:
        return list(self.prompts.encode(text, MANY))

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        return list(self.prompts.encode(self.prompts.render(messages, {}), MANY, special=False))

    def decoder(self, prompt: Sequence[int]) -> TokenDecoder:
        return self.answers.decoder(prompt)

    def token(self, token: int) -> TokenText:
        return self.answers.token(token)
