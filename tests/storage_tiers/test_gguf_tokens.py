"""The tokenizer of a GGUF file makes the tokens of the one that the file was made from, and its turns end."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from storage_tiers.checkpoint import Checkpoint
from storage_tiers.errors import SourceError, UnsupportedModel
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from storage_tiers.tokenizers import open_tokenizer
from tests.storage_tiers.tokenizers import byte_tokenizer, train_sentencepiece
from tests.tiny_gguf import make_tiny_gguf

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_TEXTS = (
    "HELLO in 2023 and 2024", "hello world", "  two   spaces", "it's\n\nthe FOX'S end", "cafe\u0301 中文 😀",
    "x<|bos|>hello<|eos|> y", "<|bos|>\nhello",
)  # fmt: skip


def _publish(metadata: Mapping[str, Any], tmp_path: Path, store: ModelStore, architecture: str = "llama") -> Checkpoint:
    rows = max(256, len(metadata.get("tokenizer.ggml.tokens", ())))
    tied = architecture == "gemma2"
    file = make_tiny_gguf(architecture, tmp_path / "model.gguf", vocabulary=rows, tied=tied, metadata=dict(metadata))
    return publish(str(file), "model", store)


def _opened(store: ModelStore, checkpoint: Checkpoint) -> Any:
    files = {file.name: store.read_file("model", file) for file in checkpoint.files}
    return open_tokenizer(files, checkpoint.config)


def _keys_of(tokenizer: Tokenizer, split: str | None, **more: Any) -> dict[str, Any]:
    """What llama.cpp's converter writes of a byte-level tokenizer."""
    texts = [text for text, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    added = {number: token.special for number, token in tokenizer.get_added_tokens_decoder().items()}
    types = [
        _NORMAL if number not in added else _CONTROL if added[number] else _USER_DEFINED for number in range(len(texts))
    ]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    found = {
        "model": "gpt2", "pre": split, "tokens": texts, "token_type": types, "merges": [" ".join(pair) for pair in merges],
        "bos_token_id": tokenizer.token_to_id("<|bos|>"), "eos_token_id": tokenizer.token_to_id("<|eos|>"),
    } | more  # fmt: skip
    return {f"tokenizer.ggml.{key}": value for key, value in found.items() if value is not None}


def _split_by(tokenizer: Tokenizer, split: str) -> None:
    """Let it split texts as the original of that name does."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split not in GGUF_PRE_TOKENIZER_SPLITS)
    first: Any = pre_tokenizers.Digits(individual_digits=True)
    if split in GGUF_PRE_TOKENIZER_SPLITS:
        first = pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[split]), "isolated")
    tokenizer.pre_tokenizer = level if split == "gpt-2" else pre_tokenizers.Sequence([first, level])
    if split == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    if split == "llama-bpe":
        tokenizer.model.ignore_merges = True
        number = tokenizer.token_to_id("<|bos|>")
        tokenizer.post_processor = processors.TemplateProcessing("<|bos|> $A", None, [("<|bos|>", number)])


def _original(*more: str) -> Tokenizer:
    return byte_tokenizer(("<|bos|>", "<|eos|>", *more), vocabulary=340)


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
@pytest.mark.parametrize("split", ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken"])
def test_a_byte_level_tokenizer_is_the_same_after_the_way_through_gguf(
    split: str, architecture: str, tmp_path: Path, store: ModelStore
) -> None:
    """What splits a text, what takes words whole and what starts it is said by one word (tokenizer.ggml.pre)."""
    original = _original()
    keys = _keys_of(original, split, add_bos_token=False if split == "tekken" else None)
    ours = _opened(store, _publish(keys, tmp_path, store, architecture))
    _split_by(original, split)
    for text in _TEXTS:
        assert ours(text)["input_ids"] == original.encode(text).ids


def test_a_word_that_no_merges_lead_to_is_one_token(tmp_path: Path, store: ModelStore) -> None:
    """Llama 3's tokenizer looks whole words up first."""
    keys = _keys_of(_original(), "llama-bpe", add_bos_token=False)
    keys["tokenizer.ggml.tokens"].append("lower")
    keys["tokenizer.ggml.token_type"].append(_NORMAL)
    ours = _opened(store, _publish(keys, tmp_path, store))
    assert ours("lower")["input_ids"] == [len(keys["tokenizer.ggml.tokens"]) - 1]


def test_control_tokens_are_whole_in_whatever_letters(tmp_path: Path, store: ModelStore) -> None:
    """DeepSeek writes its tokens in letters that are no bytes': they were cut to pieces, and bos was no token at all."""
    bar, space = "\uff5c", "\u2581"
    begin, user, spaces = f"<{bar}begin{space}of{space}sentence{bar}>", f"<{bar}User{bar}>", "   "
    original = _original(begin, user)
    original.add_tokens([AddedToken(spaces, special=False, normalized=False)])
    keys = _keys_of(original, "qwen2", bos_token_id=original.token_to_id(begin), add_bos_token=True)
    ours = _opened(store, _publish(keys, tmp_path, store, "qwen2"))
    assert ours.bos_token == begin
    expected = [original.token_to_id(name) for name in (begin, user)]
    assert ours(user)["input_ids"] == expected
    assert ours(f"{begin}{user}{spaces}", add_special_tokens=False)["input_ids"] == [
        *expected,
        original.token_to_id(spaces),
    ]
    assert ours.decode(expected, skip_special_tokens=True) == ""
    assert ours.bos_token_id == expected[0]


@pytest.mark.parametrize("bos", [None, False])
@pytest.mark.parametrize(
    ("architecture", "prefix_space"),
    [("llama", True), ("llama", False), ("phi3", True), ("phi3", False), ("gemma2", False)],
)
def test_a_sentencepiece_tokenizer_makes_the_tokens_of_sentencepiece(
    architecture: str, prefix_space: bool, bos: bool | None, tmp_path: Path, store: ModelStore
) -> None:
    """transformers puts a space in front of every text, whatever the file says (tokenizer.ggml.add_space_prefix)."""
    original = train_sentencepiece(tmp_path, prefix_space=prefix_space)
    keys = _keys_of_sentencepiece(original, add_bos_token=bos, add_space_prefix=None if prefix_space else False)
    ours = _opened(store, _publish(keys, tmp_path, store, architecture))
    for text in ("hello world", "HELLO in 2023", "lower lowest", "naïve 😀", "two  spaces"):
        assert ours(text)["input_ids"] == [1] * (bos is None) + original.encode(text)
        assert ours.decode(original.encode(text)) == text


def _keys_of_sentencepiece(original: Any, **more: Any) -> dict[str, Any]:
    pieces = range(original.get_piece_size())
    types = [
        _UNKNOWN
        if original.is_unknown(i)
        else _CONTROL
        if original.is_control(i)
        else _BYTE
        if original.is_byte(i)
        else 1
        for i in pieces
    ]
    found = {
        "model": "llama", "pre": "default", "tokens": [original.id_to_piece(i) for i in pieces], "token_type": types,
        "scores": [original.get_score(i) for i in pieces],
    } | more  # fmt: skip
    return {f"tokenizer.ggml.{key}": value for key, value in found.items() if value is not None}


def test_the_tokens_of_phi_3_take_the_spaces_behind_them_along(tmp_path: Path, store: ModelStore) -> None:
    """Its template writes a line break behind each, which the model has never seen."""
    original = train_sentencepiece(tmp_path)
    keys = _keys_of_sentencepiece(original)
    keys["tokenizer.ggml.tokens"] += ["<|user|>", "<|endoftext|>"]
    keys["tokenizer.ggml.token_type"] += [_CONTROL, _CONTROL]
    keys["tokenizer.ggml.scores"] += [-1000.0, -1000.0]
    user, end = len(keys["tokenizer.ggml.tokens"]) - 2, len(keys["tokenizer.ggml.tokens"]) - 1
    ours = _opened(store, _publish(keys, tmp_path, store, "phi3"))
    assert ours("<|user|>\n", add_special_tokens=False)["input_ids"] == [user]
    assert ours("<|endoftext|>\n", add_special_tokens=False)["input_ids"][0] == end
    assert len(ours("<|endoftext|>\n", add_special_tokens=False)["input_ids"]) > 1


@pytest.mark.parametrize(
    ("more", "specials", "ends"),
    [
        ({}, (), ["<|eos|>"]),
        ({"eot": "<|turn|>"}, ("<|turn|>",), ["<|eos|>", "<|turn|>"]),
        ({"eot": "<|turn|>", "eom": "<|call|>"}, ("<|call|>", "<|turn|>"), ["<|eos|>", "<|turn|>", "<|call|>"]),
        ({}, ("<|im_start|>", "<|im_end|>"), ["<|eos|>", "<|im_end|>"]),
        ({}, ("<end_of_turn>", "</s>"), ["<|eos|>", "<end_of_turn>", "</s>"]),
        ({}, ("<|end|>", "<|return|>", "<|call|>"), ["<|eos|>", "<|return|>", "<|call|>"]),
    ],
)
def test_a_turn_ends_with_every_token_that_llama_cpp_ends_it_with(
    more: dict[str, str], specials: tuple[str, ...], ends: list[str], tmp_path: Path, store: ModelStore
) -> None:
    """Chat models end a turn with another token than a text; answers went on with the user's next turn."""
    original = _original(*specials)
    keys = _keys_of(original, "gpt-2") | {
        f"tokenizer.ggml.{name}_token_id": original.token_to_id(text) for name, text in more.items()
    }
    found = _publish(keys, tmp_path, store).generation_config["eos_token_id"]
    assert set([found] if isinstance(found, int) else found) == {original.token_to_id(text) for text in ends}


def test_a_tag_of_html_ends_nothing(tmp_path: Path, store: ModelStore) -> None:
    """Gemma's vocabulary has </s>, the end of a text that is struck through, which llama.cpp takes for an end."""
    original = _original()
    original.add_tokens([AddedToken("</s>", special=False)])
    eos = _publish(_keys_of(original, "gpt-2"), tmp_path, store).generation_config["eos_token_id"]
    assert eos == original.token_to_id("<|eos|>")


def test_how_its_makers_want_it_sampled_is_kept(tmp_path: Path, store: ModelStore) -> None:
    given = {"top_k": 20, "top_p": 0.95, "min_p": 0.05, "temp": 0.6, "penalty_repeat": 1.05, "sequence": "top_k;temp"}
    metadata = {f"general.sampling.{name}": value for name, value in given.items()}
    assert _publish(metadata, tmp_path, store).generation_config == {
        "eos_token_id": 2, "do_sample": True, "top_k": 20, "top_p": 0.95, "min_p": 0.05, "temperature": 0.6,
        "repetition_penalty": 1.05,
    }  # fmt: skip


def test_templates_of_several_names_are_kept(tmp_path: Path, store: ModelStore) -> None:
    more = {"tokenizer.chat_template": "a {{ messages }}", "tokenizer.chat_template.tool_use": "b {{ messages }}"}
    keys = _keys_of(_original(), "gpt-2") | more | {"tokenizer.chat_templates": ["tool_use"]}
    ours = _opened(store, _publish(keys, tmp_path, store))
    assert ours.chat_template == {"default": "a {{ messages }}", "tool_use": "b {{ messages }}"}
    assert ours.eos_token == "<|eos|>"


@pytest.mark.parametrize(
    ("change", "message", "kind"),
    [
        ({"tokenizer.ggml.pre": None}, r"tokenizer.ggml.pre \(None\) cannot be carried over", UnsupportedModel),
        ({"tokenizer.ggml.pre": "default"}, r"tokenizer.ggml.pre \('default'\) cannot", UnsupportedModel),
        ({"tokenizer.ggml.pre": "something-new"}, "tokenizer.ggml.pre .*publish the original", UnsupportedModel),
        ({"tokenizer.ggml.model": "t5"}, "tokenizer.ggml.model", UnsupportedModel),
        ({"tokenizer.ggml.suppress_tokens": [1, 2]}, "tokenizer.ggml.suppress_tokens", UnsupportedModel),
        ({"tokenizer.ggml.add_sep_token": True}, "tokenizer.ggml.add_sep_token", UnsupportedModel),
        ({"tokenizer.ggml.something_new": 7}, "tokenizer.ggml.something_new", UnsupportedModel),
        ({"general.sampling.mirostat": 2}, "general.sampling.mirostat", UnsupportedModel),
        ({"tokenizer.ggml.eot_token_id": 5000}, "eot_token_id is 5000, which is none of", SourceError),
        ({"tokenizer.ggml.eos_token_ids": [1, 5000]}, "eos_token_id is 5000", SourceError),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, "has tokens twice", SourceError),
        ({"tokenizer.ggml.tokens": "nonsense"}, "has tokens twice", SourceError),
        ({"tokenizer.ggml.bos_token_id": "1"}, "bos_token_id is '1'", SourceError),
        ({"general.sampling.temp": "hot"}, "temperature 'hot'", SourceError),
        ({"tokenizer.ggml.token_type": [1, 1]}, "not a type for each", SourceError),
        ({"tokenizer.ggml.merges": ["nonsense"]}, "no tokenizer can be made", SourceError),
        ({"tokenizer.chat_template": "{{ unfinished"}, "the chat template in .*is no template", SourceError),
    ],
)
def test_what_cannot_be_carried_over_is_refused_by_its_name(
    change: dict[str, Any], message: str, kind: type[SourceError], tmp_path: Path, store: ModelStore
) -> None:
    keys = {key: value for key, value in (_keys_of(_original(), "gpt-2") | change).items() if value is not None}
    with pytest.raises(kind, match=message):
        _publish(keys, tmp_path, store)
    assert store.list() == []
