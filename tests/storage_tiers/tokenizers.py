"""Tokenizers made for tests, and folders that hold them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

_CORPUS = ["in 2023 and 2024 the 2023 2024 years HELLO hello hello world how are you, it's the fox's end\n\n"] * 5


def byte_tokenizer(specials: Sequence[str] = ("<|bos|>", "<|eos|>"), vocabulary: int = 320) -> Tokenizer:
    """A byte-level one, trained on a few words, with `specials` as its last tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(specials), initial_alphabet=letters, special_tokens=[], show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in specials])
    return tokenizer


def save_tokenizer(folder: Path, tokenizer: Tokenizer, **settings: Any) -> None:
    """Put it into a folder, with `settings` in tokenizer_config.json beside the class that takes it as it is."""
    tokenizer.save(str(folder / "tokenizer.json"))
    plain = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(plain | settings))


def train_sentencepiece(folder: Path, *, prefix_space: bool = True) -> Any:
    """Train a byte-pair model with byte fallback, as Llama's is, to `folder`/tokenizer.model; its own reader."""
    import sentencepiece

    (folder / "corpus.txt").write_text("\n".join(_CORPUS + ["lower lowest newer wider  two spaces"] * 5))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=330,
        byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=prefix_space,
        remove_extra_whitespaces=False, split_digits=True, num_threads=1, minloglevel=3,
    )  # fmt: skip
    (folder / "corpus.txt").unlink()
    (folder / "tokenizer.vocab").unlink()
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
