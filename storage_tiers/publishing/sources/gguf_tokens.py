"""The tokenizer of a GGUF file, and what ends an answer: what its metadata says under tokenizer.* and general.sampling.*.

transformers builds a tokenizer of the vocabulary; what it passes over is put right here, as llama.cpp's src/llama-vocab.cpp
has it, or refused by name.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from storage_tiers.errors import SourceError, UnsupportedModel
from storage_tiers.tokenizers import NEUTRAL_CLASS, TOKENIZER, TOKENIZER_CONFIG

_ENDS = frozenset({
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>",
    "<eos>", "<turn|>", "<|tool_response>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "[e~[",
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<|file_sep|>",
})  # fmt: skip
"""Tokens that end an answer by how they are written, as llama.cpp has it."""
_END_KEYS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_SAMPLING = {
    "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "temp": "temperature", "penalty_repeat": "repetition_penalty",
}  # fmt: skip
_GPT2_SPLITS = frozenset({
    "gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum", "modern-bert",
    "exaone4", "mpt", "olmo", "jais", "trillion", "granite-docling",
})  # fmt: skip
_DIGIT_SPLITS = frozenset({
    "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2",
})  # fmt: skip
_WHOLE_FIRST = frozenset({
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano", "tekken",
})  # fmt: skip
"""What takes a word that is a token as it is, without merging, and starts a text with bos if not told otherwise."""
_COMPOSED = frozenset({"qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "qwen35"})
"""What composes letters and their accents first (NFC)."""
_SILENT = frozenset({
    "model", "pre", "tokens", "scores", "token_type", "merges", "token_type_count", "added_tokens",
    "bos_token_id", "eos_token_id", "eos_token_ids", "eot_token_id", "eom_token_id", "unknown_token_id", "padding_token_id",
    "seperator_token_id", "separator_token_id", "cls_token_id", "mask_token_id", "prefix_token_id", "suffix_token_id",
    "middle_token_id", "fim_pre_token_id", "fim_suf_token_id", "fim_mid_token_id", "fim_pad_token_id", "fim_rep_token_id",
    "fim_sep_token_id", "add_bos_token", "add_eos_token", "add_space_prefix",
})  # fmt: skip
"""Keys below tokenizer.ggml that are read here, or that name tokens that only others need."""


class GgufTokens:
    """Reads the metadata of a file: all keys and values. SourceError if its vocabulary is none."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata
        texts: Any = metadata.get("tokenizer.ggml.tokens") or []
        types: Any = metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(texts)
        if not (isinstance(texts, list) and isinstance(types, list) and len(types) == len(texts) == len(set(texts))):
            raise SourceError("its vocabulary has tokens twice, or not a type for each; download the file again")
        self._texts: list[str] = texts
        self._types: list[int] = types
        self._kind = metadata.get("tokenizer.ggml.model")
        self._split = metadata.get("tokenizer.ggml.pre")

    @property
    def present(self) -> bool:
        """Whether there is a tokenizer."""
        return self._kind not in (None, "none", "no_vocab")

    def token(self, name: str) -> int | None:
        """The token that a key names. SourceError if there is no such token."""
        number = self._ggml(f"{name}_token_id")
        if number is None and self._kind == "llama":
            number = {"bos": 1, "eos": 2}.get(name) if len(self._texts) > 2 else None
        return None if number is None else self._known(number, name)

    def _known(self, number: object, name: str) -> int:
        if type(number) is not int or number < 0 or (self._texts and number >= len(self._texts)):
            raise SourceError(
                f"tokenizer.ggml.{name}_token_id is {number!r}, which is none of {len(self._texts):,} tokens"
            )
        return number

    def generation_config(self) -> dict[str, Any]:
        """What ends an answer, and how the model's makers want it to be sampled."""
        found: dict[str, Any] = {}
        ends = list(dict.fromkeys([*self._named_ends(), *self._written_ends()]))
        if ends:
            found["eos_token_id"] = ends[0] if len(ends) == 1 else ends
        if (bos := self.token("bos")) is not None:
            found["bos_token_id"] = bos
        given = {
            key.removeprefix("general.sampling."): value
            for key, value in self._metadata.items()
            if key.startswith("general.sampling.")
        }
        for name in ("mirostat", "xtc_probability"):
            if given.get(name):
                self._refuse(f"general.sampling.{name}")
        sampling = {ours: _plain(given[theirs]) for theirs, ours in _SAMPLING.items() if theirs in given}
        return found | ({"do_sample": sampling.get("temperature") != 0} if sampling else {}) | sampling

    def files(self, path: Path) -> dict[str, bytes]:
        """The tokenizer of the file at `path`, as files that are opened just as they say."""
        from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

        self._check()
        try:
            made, _ = convert_gguf_tokenizer(*get_gguf_tokenizer(str(path))[:2])
        except Exception as error:  # whatever odd metadata makes transformers raise
            raise SourceError(
                f"no tokenizer can be made of its metadata ({type(error).__name__}: {error}); "
                "publish the original safetensors"
            ) from error
        document = self._put_right(json.loads(made.to_str()))
        return {
            TOKENIZER: json.dumps(document, ensure_ascii=False).encode(),
            TOKENIZER_CONFIG: json.dumps(self._settings(), ensure_ascii=False).encode(),
        }

    def _named_ends(self) -> Iterator[int]:
        for name in _END_KEYS:
            if (token := self.token(name)) is not None:
                yield token
        several = self._ggml("eos_token_ids")
        yield from (self._known(token, "eos") for token in (several if isinstance(several, list) else []))

    def _written_ends(self) -> Iterator[int]:
        """Not where it is a tag of HTML or of a conversation of several parts that only looks so."""
        written = {text: number for number, text in enumerate(self._texts) if text in _ENDS}
        if {"<|return|>", "<|call|>"} <= written.keys() or ({"<|calls|>", "<|flush|>"} <= written.keys()):
            written.pop("<|end|>", None)
        yield from (number for number in written.values() if self._is_control(number))

    def _is_control(self, number: int) -> bool:
        """Whether a token steers; some files do not say so of those that end answers."""
        text = self._texts[number]
        return self._types[number] == _CONTROL or (text in _ENDS and text != "</s>")

    def _check(self) -> None:
        """Refuse what would be made, but wrongly."""
        if self._kind not in ("llama", "gpt2"):
            self._refuse("tokenizer.ggml.model")
        if self._kind == "gpt2" and self._split not in _known_splits():
            self._refuse("tokenizer.ggml.pre")
        for key, value in self._metadata.items():
            if key.startswith("tokenizer.ggml.") and key.removeprefix("tokenizer.ggml.") not in _SILENT and value:
                self._refuse(key)

    def _refuse(self, key: str) -> None:
        value = repr(self._metadata.get(key))[:80]
        raise UnsupportedModel(f"{key} ({value}) cannot be carried over from GGUF; publish the original safetensors")

    def _put_right(self, document: dict[str, Any]) -> dict[str, Any]:
        """tokenizer.json as transformers has made it, with what it passes over."""
        model = document["model"]
        if self._split in _WHOLE_FIRST and self._kind == "gpt2":
            model["ignore_merges"] = True
        if self._split in _DIGIT_SPLITS and self._kind == "gpt2":
            digits = {"type": "Digits", "individual_digits": True}
            document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, document["pre_tokenizer"]]}
        if self._split in _COMPOSED and self._kind == "gpt2":
            document["normalizer"] = {"type": "NFC"}
        if self._kind == "llama":
            self._put_spaces_right(document)
        document["post_processor"] = self._ends_of_texts()
        self._put_added_right(document)
        return document

    def _put_spaces_right(self, document: dict[str, Any]) -> None:
        """Whether a text starts with a space that is not there."""
        gemma = str(self._metadata.get("general.architecture")).startswith("gemma")
        if gemma and self._ggml("add_space_prefix"):
            self._refuse("tokenizer.ggml.add_space_prefix")
        if gemma or self._ggml("add_space_prefix") in (None, True):
            return
        if document["pre_tokenizer"] is not None:
            document["pre_tokenizer"]["prepend_scheme"] = "never"
        if document["normalizer"] is not None:
            parts = document["normalizer"]["normalizers"]
            document["normalizer"]["normalizers"] = [part for part in parts if part["type"] != "Prepend"]
        parts = document["decoder"]["decoders"]
        document["decoder"]["decoders"] = [part for part in parts if part["type"] != "Strip"]

    def _put_added_right(self, document: dict[str, Any]) -> None:
        """Control tokens are whole and special, however they are written; Phi-3's take the spaces behind them along.

        transformers spells in bytes what is not written in letters of bytes, also where it is no part of a text.
        """
        vocabulary: dict[str, int] = document["model"]["vocab"]
        strips = self._kind == "llama" and self._metadata.get("general.architecture") == "phi3"
        added = {token["id"]: token for token in document["added_tokens"]}
        named = {number: text for text, number in vocabulary.items()}
        for number, (text, kind) in enumerate(zip(self._texts, self._types, strict=True)):
            steers = self._is_control(number)
            if steers or kind == _UNKNOWN or (kind == _USER_DEFINED and self._kind == "gpt2"):
                if named.get(number) != text:
                    vocabulary.pop(named.get(number, ""), None)
                    vocabulary[text] = number
                added[number] = {
                    "id": number, "content": text, "single_word": False, "lstrip": False, "normalized": False,
                    "rstrip": strips and text not in ("<unk>", "<s>", "<|endoftext|>"),
                    "special": steers or kind == _UNKNOWN,
                }  # fmt: skip
        document["added_tokens"] = [added[number] for number in sorted(added)]

    def _ends_of_texts(self) -> dict[str, Any]:
        """What a text gets in front and behind."""
        starts = self._kind == "llama" or self._split in _WHOLE_FIRST
        adds = {"bos": self._ggml("add_bos_token"), "eos": self._ggml("add_eos_token")}
        wanted = {"bos": starts if adds["bos"] is None else adds["bos"], "eos": bool(adds["eos"])}
        pieces: dict[str, list[dict[str, Any]]] = {"bos": [], "eos": []}
        special: dict[str, Any] = {}
        for name, number in (("bos", self.token("bos")), ("eos", self.token("eos"))):
            if wanted[name] and number is not None:
                text = self._texts[number]
                pieces[name] = [{"SpecialToken": {"id": text, "type_id": 0}}]
                special[text] = {"id": text, "ids": [number], "tokens": [text]}
        one = [*pieces["bos"], {"Sequence": {"id": "A", "type_id": 0}}, *pieces["eos"]]
        two = [*pieces["bos"], {"Sequence": {"id": "B", "type_id": 1}}, *pieces["eos"]]
        return {"type": "TemplateProcessing", "single": one, "pair": [*one, *two], "special_tokens": special}

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"tokenizer_class": NEUTRAL_CLASS, "clean_up_tokenization_spaces": False}
        for name in ("bos", "eos", "unknown", "padding"):
            if (number := self.token(name)) is not None:
                settings[f"{ {'unknown': 'unk', 'padding': 'pad'}.get(name, name) }_token"] = self._texts[number]
        prefix = "tokenizer.chat_template"
        templates = {
            key.removeprefix(prefix).removeprefix(".") or "default": value
            for key, value in self._metadata.items()
            if key == prefix or key.startswith(f"{prefix}.")
        }
        if set(templates) == {"default"}:
            settings["chat_template"] = templates["default"]
        elif templates:
            settings["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()]
        return settings

    def _ggml(self, name: str) -> Any:
        return self._metadata.get(f"tokenizer.ggml.{name}")


def _known_splits() -> frozenset[str]:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    return _GPT2_SPLITS | _DIGIT_SPLITS | frozenset(GGUF_PRE_TOKENIZER_SPLITS)


def _plain(value: Any) -> Any:
    """A number as it was meant: 0.6 is stored as 0.60000002384185791."""
    return round(value, 6) if isinstance(value, float) else value
