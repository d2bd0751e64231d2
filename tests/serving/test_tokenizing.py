"""Prompts as tokens: those of transformers, whatever the tokenizer, and no more of a text than the context asks for."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from serving.prompts import tokenizing
from serving.prompts.tokenizing import CUT_TOKENS, ContextExceeded
from tests.serving.tokenizers import MANY, LocalText, byte_tokenizer, files_of

SAID = ["the cat sat on the mat and the dog ate the cake", "naïve café, 30 % of 12,000!", "aaaa bbbb abab", "x" * 40]


def _trained(tokenizer: Tokenizer, trainer: object) -> Tokenizer:
    tokenizer.train_from_iterator(SAID * 5, trainer)
    return tokenizer


def byte_pairs() -> Tokenizer:
    """As GPT-2 and Llama 3 have them, with a token at the start of every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<start>"], initial_alphabet=alphabet, show_progress=False
    )
    _trained(tokenizer, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A", special_tokens=[("<start>", 0)])
    return tokenizer


def whole_text() -> Tokenizer:
    """As Llama's first: the whole text is one word, unknown characters in a row are one token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return _trained(
        tokenizer, trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>"], show_progress=False)
    )


def word_pieces() -> Tokenizer:
    """As BERT: what lies between words is dropped, an unknown word is one token however long."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _trained(tokenizer, trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]"], show_progress=False))


def unigrams() -> Tokenizer:
    """As T5."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=100, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    return _trained(tokenizer, trainer)


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "bytes": byte_tokenizer, "byte pairs": byte_pairs, "whole text": whole_text, "word pieces": word_pieces,
    "unigrams": unigrams,
}  # fmt: skip
_LETTERS = st.text(st.sampled_from("the cat mno ab x,é🙂\n\u4e2d  "), max_size=300)


@pytest.fixture(scope="module", params=list(KINDS))
def text(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalText, Path]:
    """A tokenizer of each kind, with tokens that its configuration adds, and the folder that transformers reads it from."""
    folder = tmp_path_factory.mktemp("tokenizer")
    added = {"900": {"content": "<tool>", "special": False}, "901": {"content": "<hidden>", "special": True}}
    added = {key: {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, **value}
             for key, value in added.items()}  # fmt: skip
    return LocalText(folder, files_of(KINDS[request.param](), added_tokens_decoder=added)), folder


@given(_LETTERS)
def test_tokens_are_those_of_transformers(text: tuple[LocalText, Path], written: str) -> None:
    local, folder = text
    tokenizer = _transformers(folder)
    written = f"{written}<tool>{written}<hidden>"
    assert local.encode(written) == tokenizer(written)["input_ids"]
    plain = list(local.prompts.encode(written, MANY, special=False))
    assert plain == tokenizer(written, add_special_tokens=False)["input_ids"]


@given(_LETTERS)
def test_what_was_exported_decodes_as_transformers_does(text: tuple[LocalText, Path], written: str) -> None:
    local, folder = text
    backend = _transformers(folder).backend_tokenizer
    tokens = local.encode(f"{written}<tool>a<hidden>")
    exported = local.answers._tokenizer
    for skip in (True, False):
        assert exported.decode(tokens, skip_special_tokens=skip) == backend.decode(tokens, skip_special_tokens=skip)
    assert [exported.id_to_token(token) for token in range(950)] == [backend.id_to_token(token) for token in range(950)]


def _transformers(folder: Path) -> AutoTokenizer:
    if folder not in _READ:
        _READ[folder] = AutoTokenizer.from_pretrained(folder)
    return _READ[folder]


_READ: dict[Path, AutoTokenizer] = {}


# ---- how much of a text is made into tokens


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that texts of a few hundred letters are counted in pieces."""
    monkeypatch.setattr(tokenizing, "SHORT_LETTERS", 8)
    monkeypatch.setattr(tokenizing, "LETTERS_PER_TOKEN", 0)
    monkeypatch.setattr(tokenizing, "PIECE_LETTERS", 150)
    monkeypatch.setattr(tokenizing, "CUT_TOKENS", 8)


@pytest.mark.usefixtures("small_pieces")
@given(_LETTERS.map(lambda written: written * 5))
def test_no_text_that_fits_is_refused(text: tuple[LocalText, Path], written: str) -> None:
    local, folder = text
    tokens = _transformers(folder)(written)["input_ids"]
    for context_tokens in (len(tokens), len(tokens) + 1, 2 * len(tokens)):
        assert list(local.prompts.encode(written, context_tokens)) == tokens


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("written", ["the cat " * 4000, "a b," * 9000])
def test_of_a_text_that_is_far_too_long_a_few_pieces_are_looked_at(
    text: tuple[LocalText, Path], written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, _ = text
    looked_at: list[int] = []
    made = local.prompts._ids

    def noting(piece: str, special: bool) -> object:
        looked_at.append(len(piece))
        return made(piece, special)

    monkeypatch.setattr(local.prompts, "_ids", noting)
    with pytest.raises(ContextExceeded):
        local.prompts.encode(written, 32)
    assert sum(looked_at) < len(written) / 4


def test_a_text_of_just_the_contexts_tokens_is_taken_whatever_its_length(tmp_path: Path) -> None:
    """One token of 100 letters, 4,000 times: far more letters than texts have that fit, and yet it does."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["x" * 100])
    local = LocalText(tmp_path, files_of(tokenizer))
    written = "x" * 100 * 4000
    assert len(local.prompts.encode(written, 4000)) == 4000
    assert len(local.prompts.encode(written, 3999)) == 4000  # the caller has the number for his error
    with pytest.raises(ContextExceeded):
        local.prompts.encode(written, 4000 - 7 * CUT_TOKENS)
