"""Text that comes out token by token, against one decode of everything, for random rows of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from serving.decoding import BYTE_OF_LETTER, Decoding, TokenDecoder, letters_bytes, spelled_byte

_LETTER_OF_BYTE = {byte: letter for letter, byte in BYTE_OF_LETTER.items()}
_UNKNOWN = 5000


def _letters(data: bytes) -> str:
    return "".join(_LETTER_OF_BYTE[byte] for byte in data)


def _byte_level() -> Tokenizer:
    """Every byte, words, and tokens that end or begin within characters; one special token and one that is text."""
    cut = ["🌶".encode()[:2], "🌶".encode()[2:], "é".encode()[1:] + b"t", b" " + "中".encode()[:1], "\ufffd".encode()[1:]]
    words = [bytes([byte]) for byte in range(256)] + [b"he", b"hello", b" a", b"\n\n", "é".encode(), *cut]
    vocabulary = {_letters(word): number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _with_added(tokenizer)


def _byte_fallback(strip: bool = True) -> Tokenizer:
    """As Llama's and Gemma's first: marked spaces, and unknown characters spelled in bytes."""
    vocabulary = {"<unk>": 0} | {f"<0x{byte:02X}>": 1 + byte for byte in range(256)}
    for word in ("▁", "▁hello", "llo", "▁▁", "!", "é", "\ufffd", "▁é", "\n"):
        vocabulary[word] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    row = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*row, decoders.Strip(" ", 1, 0)] if strip else row)
    return _with_added(tokenizer)


def _word_pieces() -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate(("[UNK]", "do", "##ing", "n't", ".", "a", "##b"))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    return _with_added(tokenizer)


def _metaspace() -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate(("<unk>", "▁", "▁a", "b", "▁▁", "c▁"))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    return _with_added(tokenizer)


def _word_ends() -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate(("a", "a</w>", "b", "b</w>"))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], end_of_word_suffix="</w>"))
    tokenizer.decoder = decoders.BPEDecoder()
    return _with_added(tokenizer)


def _looking_ahead() -> Tokenizer:
    """A decoder that changes the text by what follows: nothing is sure before the end."""
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, " ": 2}, merges=[]))
    row = [decoders.Fuse(), decoders.Replace("ab", "c"), decoders.Replace("cc", "d")]
    tokenizer.decoder = decoders.Sequence(row)
    return _with_added(tokenizer)


def _with_added(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.add_tokens([AddedToken("<é tool>", special=False, normalized=False)])
    return tokenizer


TOKENIZERS = {
    "byte level": _byte_level(), "byte fallback": _byte_fallback(), "byte fallback, spaces kept": _byte_fallback(False),
    "word pieces": _word_pieces(), "metaspace": _metaspace(), "word ends": _word_ends(), "none": Tokenizer(models.BPE()),
    "looking ahead": _looking_ahead(),
}  # fmt: skip
TOKENIZERS["none"].add_tokens(["x", "y z"])


def _stream(tokenizer: Tokenizer, prompt: Sequence[int], answer: Sequence[int]) -> list[str]:
    decoder = TokenDecoder.behind(Decoding(tokenizer), prompt)
    return [*(decoder.push(token) for token in answer), decoder.flush()]


@dataclass
class _Letter:
    """A character, and whether a token of the answer had a part in it."""

    text: str
    answers: bool


def _characters(tokenizer: Tokenizer, prompt: Sequence[int], answer: Sequence[int]) -> list[_Letter]:
    """All characters by definition: of the bytes of a row of tokens that spell bytes, with who gave the last of each."""
    spelled = list[tuple[int, bool]]()
    found = list[_Letter]()

    def end_row(fallback: bool) -> None:
        data = bytes(byte for byte, _ in spelled)
        text = data.decode("utf-8", "replace")
        if fallback and "\ufffd" in text and text.encode() != data:
            found.extend(_Letter("\ufffd", answers) for _, answers in spelled)
        else:
            at = 0
            for letter in text:
                width = _width(data[at:]) if letter == "\ufffd" else len(letter.encode())
                at += width
                found.append(_Letter(letter, spelled[at - 1][1]))
        spelled.clear()

    fallback = not isinstance(tokenizer.decoder, decoders.ByteLevel)
    for index, token in enumerate((*prompt, *answer)):
        written = tokenizer.id_to_token(token)
        if written is None or written == "<end>":
            continue
        answers = index >= len(prompt)
        if not fallback:
            spelled += [(byte, answers) for byte in letters_bytes(written)]
        elif (byte := spelled_byte(written)) is not None:
            spelled.append((byte, answers))
        else:
            end_row(fallback)
            found += [_Letter(letter, answers) for letter in written.replace("▁", " ")]
    end_row(fallback)
    return found


def _width(data: bytes) -> int:
    """How many bytes one U+FFFD stands for at the start of `data`: the longest beginning of a character, or one byte."""
    if data.startswith("\ufffd".encode()):
        return 3
    whole = data.decode("utf-8", "replace")
    return next(n for n in range(1, len(data) + 1) if data[n:].decode("utf-8", "replace") == whole[1:])


def _expected(tokenizer: Tokenizer, prompt: Sequence[int], answer: Sequence[int]) -> str:
    whole = tokenizer.decode([*prompt, *answer], skip_special_tokens=True)
    before = tokenizer.decode(list(prompt), skip_special_tokens=True)
    if whole.startswith(before):
        return whole[len(before) :]
    if tokenizer is TOKENIZERS["looking ahead"]:
        same = next((n for n in range(min(len(before), len(whole))) if before[n] != whole[n]), len(whole))
        return whole[same:]
    letters = _characters(tokenizer, prompt, answer)
    assert "".join(letter.text for letter in letters).lstrip(" ") == whole.lstrip(" ")
    return "".join(letter.text for letter in letters if letter.answers)


@st.composite
def _rows(draw: st.DrawFn) -> tuple[Tokenizer, list[int], list[int]]:
    tokenizer = TOKENIZERS[draw(st.sampled_from(sorted(TOKENIZERS)))]
    size = tokenizer.get_vocab_size()
    some = st.integers(0, size - 1) | st.integers(max(0, size - 16), size) | st.just(_UNKNOWN)
    if size > 256:  # bytes of real characters, so that some are whole
        characters = st.sampled_from("é中🌶\ufffd\n ")
        byte = tokenizer.token_to_id if isinstance(tokenizer.decoder, decoders.ByteLevel) else None
        spell = (lambda b: byte(_LETTER_OF_BYTE[b])) if byte else (lambda b: tokenizer.token_to_id(f"<0x{b:02X}>"))
        some = some | characters.flatmap(lambda c: st.sampled_from([spell(b) for b in c.encode()]))
        whole = characters.map(lambda c: [spell(b) for b in c.encode()])
        row = st.lists(whole | some.map(lambda token: [token]), max_size=8).map(lambda parts: list(chain(*parts)))
    else:
        row = st.lists(some, max_size=8)
    tokens = draw(row)
    cut = draw(st.integers(0, len(tokens)))
    return tokenizer, tokens[:cut], tokens[cut:]


@settings(max_examples=1000, deadline=None)
@given(_rows())
def test_pieces_joined_are_what_one_decode_of_all_tokens_gives_behind_the_prompt(
    row: tuple[Tokenizer, list[int], list[int]],
) -> None:
    """A prompt that ended within a character came back as a part of the answer; a newline and half a character, spelled
    in bytes, ended the request; what was left at an answer's end was lost."""
    tokenizer, prompt, answer = row
    assert "".join(_stream(tokenizer, prompt, answer)) == _expected(tokenizer, prompt, answer)


@settings(max_examples=200, deadline=None)
@given(_rows())
def test_without_a_prompt_the_text_is_what_transformers_gives(row: tuple[Tokenizer, list[int], list[int]]) -> None:
    tokenizer, prompt, answer = row
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    tokens = [token for token in (*prompt, *answer) if token != _UNKNOWN]
    assert "".join(_stream(tokenizer, (), tokens)) == theirs.decode(tokens, skip_special_tokens=True)


@settings(max_examples=300, deadline=None)
@given(_rows(), st.integers(0, 20))
def test_a_long_prompt_is_looked_at_from_its_end_only(row: tuple[Tokenizer, list[int], list[int]], times: int) -> None:
    """A few tokens of context stand for all that came before."""
    tokenizer, prompt, answer = row
    long = [*prompt * times, *prompt]
    assert "".join(_stream(tokenizer, long, answer)) == _expected(tokenizer, long, answer)


def _ids(tokenizer: Tokenizer, *written: str) -> list[int]:
    found = [tokenizer.token_to_id(token) for token in written]
    assert None not in found
    return found


def test_a_character_that_the_prompt_began_is_the_answers() -> None:
    tokenizer = TOKENIZERS["byte level"]
    first, second = _ids(tokenizer, _letters("🌶".encode()[:2]), _letters("🌶".encode()[2:]))
    prompt = [*_ids(tokenizer, "hello"), first]
    assert _stream(tokenizer, prompt, [second, *_ids(tokenizer, "!")]) == ["🌶", "!", ""]


def test_a_prompt_that_ends_with_a_replacement_character_is_not_repeated() -> None:
    tokenizer = TOKENIZERS["byte level"]
    prompt = _ids(tokenizer, "hello", *(_letters(bytes([byte])) for byte in "\ufffd".encode()))
    assert _stream(tokenizer, prompt, _ids(tokenizer, "O", "K")) == ["O", "K", ""]


def test_a_row_of_spelled_bytes_is_shown_when_it_is_over() -> None:
    """The decoder shows a newline and half a character, in bytes, as two replacement characters."""
    tokenizer = TOKENIZERS["byte fallback"]
    pieces = _stream(tokenizer, _ids(tokenizer, "▁hello"), _ids(tokenizer, "<0x0A>", "<0xE4>", "▁hello", "!"))
    assert pieces == ["", "", "\ufffd\ufffd hello", "!", ""]


def test_what_waits_at_the_end_is_shown() -> None:
    tokenizer = TOKENIZERS["byte level"]
    assert _stream(tokenizer, (), _ids(tokenizer, "hello", _letters("🌶".encode()[:2]))) == ["hello", "", "\ufffd"]


@pytest.mark.parametrize("written", ["<0xGG>", "<0x1>", "<0x-1>", "0x41", "<0x 1>", "<0x_1>", "<0x++>", "<0xe>>"])
def test_what_only_looks_like_a_spelled_byte_is_none(written: str) -> None:
    assert spelled_byte(written) is None


@example("<0xe4>")
@example("<0x+4>")
@given(st.integers(0, 255).map(lambda byte: f"<0x{byte:02X}>"))
def test_spelled_bytes_are_read_as_the_decoder_reads_them(written: str) -> None:
    data = decoders.ByteFallback().decode([written, "<0x41>"])
    byte = spelled_byte(written)
    assert byte is not None
    assert data == bytes([byte, 0x41]).decode("utf-8", "replace") or data == "\ufffd\ufffd"
