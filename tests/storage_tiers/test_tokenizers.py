"""The tokenizer that travels with a model makes the tokens that transformers makes in the model's own folder."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from transformers import AutoTokenizer

from storage_tiers.errors import SourceError
from storage_tiers.model_store import ModelStore
from storage_tiers.publishing.publish import publish
from storage_tiers.tokenizers import judge_of, open_tokenizer, settled
from tests.storage_tiers.tokenizers import byte_tokenizer, save_tokenizer, train_sentencepiece
from tests.tiny import make_tiny

_TEXTS = (
    "HELLO in 2023 and 2024", "hello world", "  two spaces", "it's\n\nthe fox's end", "中文 😀", "<|bos|>hello<|eos|> x",
)  # fmt: skip
_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"


def _opened(store: ModelStore, name: str = "model") -> Any:
    """The tokenizer as whoever serves the model has it."""
    checkpoint = store.open(name)
    files = {file.name: store.read_file(name, file) for file in checkpoint.files}
    return open_tokenizer(files, checkpoint.config)


def _same(store: ModelStore, source: Path, texts: tuple[str, ...] = _TEXTS) -> bool:
    ours, theirs = _opened(store), AutoTokenizer.from_pretrained(source)
    return all(ours(text)["input_ids"] == theirs(text)["input_ids"] for text in texts)


def _refused(source: Path, store: ModelStore, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        publish(str(source), "model", store)
    assert store.list() == []


def _digits_and_capitals() -> Tokenizer:
    tokenizer = byte_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}{1,3}|[A-Z]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


@pytest.mark.parametrize("named", ["GPT2Tokenizer", "LlamaTokenizer", "Qwen2TokenizerFast", None])
@pytest.mark.parametrize("family", ["olmo2", "granite", "llama", "qwen2", "gpt_neox"])
def test_its_class_is_chosen_by_the_configuration_too(
    family: str, named: str | None, tmp_path: Path, store: ModelStore
) -> None:
    """transformers overrules tokenizer_config.json for some families; without config.json it made other tokens of the same
    files, and answers were quietly bad."""
    source = make_tiny(family, tmp_path / "source", vocab_size=320)
    settings = {"tokenizer_class": named} if named else {}
    save_tokenizer(source, _digits_and_capitals(), **settings, bos_token="<|bos|>", eos_token="<|eos|>")
    if named is None:
        (source / "tokenizer_config.json").unlink()
    publish(str(source), "model", store)
    assert _same(store, source)


def test_tokens_that_stand_in_a_file_of_their_own_are_kept(tmp_path: Path, store: ModelStore) -> None:
    """Old fine-tunes have added_tokens.json beside a tokenizer.json that does not know of them."""
    source = make_tiny("llama", tmp_path / "source", vocab_size=330)
    tokenizer = byte_tokenizer()
    save_tokenizer(source, tokenizer)
    first = tokenizer.get_vocab_size()
    (source / "added_tokens.json").write_text(json.dumps({"<|turn|>": first, "<tool>": first + 1}))
    publish(str(source), "model", store)
    assert _same(store, source, ("x<|turn|>y", "<tool> hello"))
    assert _opened(store)("<|turn|>")["input_ids"] == [first]


@pytest.mark.parametrize("prefix_space", [True, False])
def test_a_sentencepiece_model_alone_is_enough(prefix_space: bool, tmp_path: Path, store: ModelStore) -> None:
    """Vicuna and others bring tokenizer.model and nothing else; the reader of such files was not installed."""
    source = make_tiny("llama", tmp_path / "source", vocab_size=330)
    train_sentencepiece(source, prefix_space=prefix_space)
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>"}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    publish(str(source), "model", store)
    assert _same(store, source)
    assert _opened(store)("hello")["input_ids"][0] == 1


def test_a_converted_tokenizer_keeps_all_its_templates(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source", vocab_size=330)
    train_sentencepiece(source)
    named = [{"name": "default", "template": "a {{ messages }}"}, {"name": "tool_use", "template": "b {{ messages }}"}]
    settings = {"tokenizer_class": "LlamaTokenizer", "chat_template": named}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    publish(str(source), "model", store)
    assert _opened(store).chat_template == {each["name"]: each["template"] for each in named}


def test_a_sentencepiece_model_makes_the_tokens_of_sentencepiece(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source", vocab_size=330)
    judge = train_sentencepiece(source)
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    publish(str(source), "model", store)
    ours = _opened(store)
    for text in ("hello world", "HELLO in 2023", "lower  lowest", "naïve 😀"):
        assert ours(text, add_special_tokens=False)["input_ids"] == judge.encode(text)


def test_where_two_tokenizers_differ_is_said(tmp_path: Path) -> None:
    for name, tokenizer in (("one", byte_tokenizer()), ("two", _digits_and_capitals())):
        (tmp_path / name).mkdir()
        save_tokenizer(tmp_path / name, tokenizer)
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    judge = judge_of(tmp_path / "two", "two")
    with pytest.raises(SourceError, match=r"in two would not make the tokens .*: 'HELLO .*' becomes \[.*\] instead"):
        settled([files], {"model_type": "llama"}, judge, "two")


@pytest.mark.parametrize("text", ["{", "", "[]", '{"model": {}}', "<html>not found</html>"])
def test_a_damaged_tokenizer_is_refused(text: str, tmp_path: Path, store: ModelStore) -> None:
    """It was published, found sound, and every request of the model ended in a plain 500."""
    source = make_tiny("llama", tmp_path / "source", vocab_size=320)
    save_tokenizer(source, byte_tokenizer())
    (source / "tokenizer.json").write_text(text)
    _refused(source, store, "cannot open the tokenizer in .*source")


def test_a_sentencepiece_model_that_is_none_is_refused(tmp_path: Path, store: ModelStore) -> None:
    make_tiny("llama", tmp_path / "source")
    (tmp_path / "source/tokenizer.model").write_bytes(b"no sentencepiece model")
    (tmp_path / "source/tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    _refused(tmp_path / "source", store, "cannot open the tokenizer")


@pytest.mark.parametrize(
    "file",
    [
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "tokenizer.model", "config.json",
        "generation_config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
    ],
)  # fmt: skip
def test_a_pointer_to_a_file_is_not_the_file(file: str, tmp_path: Path, store: ModelStore) -> None:
    """A clone without Git LFS has a few lines of text in place of every large file."""
    source = make_tiny("llama", tmp_path / "source", vocab_size=320, shards=3 if "index" in file else 1)
    save_tokenizer(source, byte_tokenizer())
    if file == "pytorch_model.bin":
        (source / "model.safetensors").unlink()
    (source / file).write_text(_POINTER)
    _refused(source, store, f"{re.escape(file)} is a Git LFS pointer, not the file itself: run `git lfs pull`")


def test_a_pointer_to_a_gguf_file_is_not_the_file(tmp_path: Path, store: ModelStore) -> None:
    (tmp_path / "model.gguf").write_text(_POINTER)
    _refused(tmp_path / "model.gguf", store, "model.gguf is a Git LFS pointer")


def test_a_decoder_that_nobody_would_serve_is_refused(tmp_path: Path, store: ModelStore) -> None:
    """It runs on every token of every answer."""
    tokenizer = byte_tokenizer()
    tokenizer.decoder = decoders.Replace(Regex("(a*)*b"), "")
    source = make_tiny("llama", tmp_path / "source", vocab_size=320)
    save_tokenizer(source, tokenizer)
    _refused(source, store, "its tokenizer's decoder replaces a regular expression")


def test_more_tokens_than_the_model_has_are_published(tmp_path: Path, store: ModelStore) -> None:
    """Many fine-tunes add [PAD] to the tokenizer only."""
    tokenizer = byte_tokenizer()
    source = make_tiny("llama", tmp_path / "source", vocab_size=tokenizer.get_vocab_size())
    tokenizer.add_special_tokens([AddedToken("[PAD]", special=True)])
    save_tokenizer(source, tokenizer, pad_token="[PAD]")
    publish(str(source), "model", store)
    assert _same(store, source, ("hello [PAD]",))


def test_templates_are_compiled_and_a_fault_is_named_by_its_line(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source", vocab_size=320)
    bad = "{% for m in messages %}\n{{ m['content'] }}\n{% endif %}"
    save_tokenizer(source, byte_tokenizer(), chat_template=bad)
    _refused(source, store, r"the chat template in .*source is no template: .*endif.* \(line 3\)")
    named = [{"name": "default", "template": "{{ messages }}"}, {"name": "tool_use", "template": bad}]
    save_tokenizer(source, byte_tokenizer(), chat_template=named)
    _refused(source, store, r"the chat template 'tool_use' in .*source is no template: .* \(line 3\)")
    save_tokenizer(source, byte_tokenizer(), chat_template=7)
    _refused(source, store, "the chat template in .*source is no template")
    save_tokenizer(source, byte_tokenizer())
    (source / "chat_template.jinja").write_text("{{ unfinished")
    _refused(source, store, r"is no template: .*\(line 1\)")
    (source / "chat_template.jinja").write_text("{{ messages | tojson }}{% generation %}{% endgeneration %}{% break %}")
    _refused(source, store, "is no template .*break")
    (source / "chat_template.jinja").write_text("{{ messages | tojson }}{% generation %}{% endgeneration %}")
    publish(str(source), "model", store)


@pytest.mark.parametrize("default", [True, False])
def test_templates_in_a_folder_of_their_own_travel_along(default: bool, tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source", vocab_size=320)
    save_tokenizer(source, byte_tokenizer(), chat_template="stands back")
    if default:
        (source / "chat_template.jinja").write_text("plain {{ messages }}")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates/tool_use.jinja").write_text("tools {{ messages }}")
    first = publish(str(source), "model", store)
    assert _opened(store).chat_template == AutoTokenizer.from_pretrained(source).chat_template
    assert _opened(store).chat_template["tool_use"] == "tools {{ messages }}"
    (source / "additional_chat_templates/tool_use.jinja").write_text("other {{ messages }}")
    assert publish(str(source), "model", store).version != first.version
    (source / "additional_chat_templates/tool_use.jinja").write_bytes(b"\xff")
    with pytest.raises(SourceError, match=r"tool_use.jinja is no text"):
        publish(str(source), "model", store)


def test_a_tokenizer_without_any_vocabulary_is_none(tmp_path: Path, store: ModelStore) -> None:
    source = make_tiny("llama", tmp_path / "source")
    (source / "tokenizer_config.json").write_text("{}")
    assert publish(str(source), "model", store).files == ()
