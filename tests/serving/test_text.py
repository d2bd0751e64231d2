"""Text that comes out token by token, and where it is cut off."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from serving.prompts.tokenizing import Refusal
from serving.text import StopStrings, TokenText
from tests.serving.tokenizers import CHATML, LocalText, byte_files, files_of

_FEW_LETTERS = st.text("abc", max_size=12)
_STOPS = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=4)


def _pushed(pieces: Sequence[str], stops: Sequence[str]) -> tuple[str, bool]:
    """What is shown of an answer that comes in `pieces`, and whether a stop string ended it."""
    cutter = StopStrings(stops)
    shown = ""
    for piece in pieces:
        shown += cutter.push(piece)
        if cutter.hit:
            return shown, True
    return shown + cutter.flush(), False


def _cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The same by definition: letter by letter, until the text ends with a stop string; the longest of them goes."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(_FEW_LETTERS, _STOPS, st.lists(st.integers(0, 12), max_size=6))
@example("abcd", ["abcd", "bc"], [])
@example("abcd", ["abcd", "bc"], [1, 2, 3])
def test_however_the_text_is_split_it_is_cut_at_the_same_place(text: str, stops: list[str], cuts: list[int]) -> None:
    """Given a stop string within another, it depended on the pieces which of them ended the text."""
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(bounds)]
    assert _pushed(pieces, stops) == _cut(text, stops)


@given(_FEW_LETTERS, _STOPS)
def test_nothing_is_shown_that_must_be_taken_back(text: str, stops: list[str]) -> None:
    whole, _ = _cut(text, stops)
    cutter = StopStrings(stops)
    shown = ""
    for letter in text:
        shown += cutter.push(letter)
        assert whole.startswith(shown)
        if cutter.hit:
            break


def test_a_stop_string_in_pieces_is_held_back_and_cut_off() -> None:
    stops = StopStrings(["\n\nUser:"])
    assert [stops.push(piece) for piece in ["Hello", " there\n", "\nUs", "er: hi"]] == ["Hello", " there", "", ""]
    assert stops.hit


def test_what_only_looked_like_a_stop_string_is_shown_after_all() -> None:
    stops = StopStrings(["STOP"])
    assert [stops.push(piece) for piece in ["a ST", "EP", " ST"]] == ["a ", "STEP", " "]
    assert (stops.flush(), stops.hit) == ("ST", False)


def test_without_stop_strings_everything_is_shown_at_once() -> None:
    stops = StopStrings(["", ""])
    assert (stops.push("text"), stops.flush(), stops.hit) == ("text", "", False)


# ---- tokenizers


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> LocalText:
    return LocalText(tmp_path_factory.mktemp("tokenizer"), byte_files(chat_template=CHATML))


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20))
def test_tokens_decoded_one_by_one_give_the_text(text: LocalText, written: str) -> None:
    decoder = text.decoder(())
    assert "".join(decoder.push(token) for token in text.encode(written)) == written


def test_a_character_comes_out_with_its_last_byte(text: LocalText) -> None:
    decoder = text.decoder(())
    assert [decoder.push(token) for token in text.encode("é🙂x")] == ["", "é", "", "", "", "🙂", "x"]


def test_special_tokens_are_not_text(text: LocalText) -> None:
    decoder = text.decoder(())
    assert [decoder.push(token) for token in (*text.encode("a"), 256, *text.encode("b"))] == ["a", "", "b"]


def test_the_prompt_is_not_repeated(text: LocalText) -> None:
    decoder = text.decoder(text.encode("prompt "))
    assert [decoder.push(token) for token in text.encode("ok")] == ["o", "k"]


def test_answers_are_decoded_side_by_side(text: LocalText) -> None:
    one, other = text.decoder(()), text.decoder(())
    first, second = text.encode("é")
    assert [one.push(first), other.push(first), one.push(second), other.push(second)] == ["", "", "é", "é"]


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20))
def test_the_bytes_of_a_texts_tokens_are_the_texts(text: LocalText, written: str) -> None:
    assert b"".join(text.token(token).data or b"" for token in text.encode(written)) == written.encode()


def test_a_token_by_itself(text: LocalText) -> None:
    (letter,), (first, second) = text.encode("b"), text.encode("é")
    assert [text.token(token) for token in (letter, first, second)] == [
        TokenText("b", b"b"), TokenText("\\xc3", b"\xc3"), TokenText("\\xa9", b"\xa9"),
    ]  # fmt: skip
    assert text.token(256) == TokenText("<end>", None)
    assert text.token(99999) == TokenText("token_id:99999", None)


def test_a_token_of_a_vocabulary_with_marked_spaces_and_spelled_bytes(tmp_path: Path) -> None:
    """Llama's first tokenizers: at the start of a text the space of its first word is dropped, within one it is not."""
    vocabulary = {"<unk>": 0, "▁Paris": 1, "is": 2, "<0xF0>": 3, "▁": 4, "\ufffd": 5, "<0x41>": 6}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    text = LocalText(tmp_path, files_of(tokenizer))
    assert [text.token(token).data for token in range(1, 7)] == [b" Paris", b"is", b"\xf0", b" ", b"\xef\xbf\xbd", b"A"]


def test_a_conversation_goes_through_the_models_own_template(text: LocalText) -> None:
    tokens = text.encode_chat([{"role": "user", "content": "hi"}])
    assert tokens == text.encode("<user>hi<answer>")


def test_a_model_without_a_template_says_what_to_use_instead(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="/v1/completions"):
        LocalText(tmp_path, byte_files()).encode_chat([{"role": "user", "content": "hi"}])


def test_what_the_template_refuses_is_a_bad_request(tmp_path: Path) -> None:
    strict = LocalText(tmp_path, byte_files(chat_template="{{ raise_exception('roles must alternate') }}"))
    with pytest.raises(Refusal, match="refuses these messages: roles must alternate"):
        strict.encode_chat([{"role": "user", "content": "hi"}])


def test_a_template_can_read_nothing_but_the_messages(tmp_path: Path) -> None:
    """It comes with the model, from whoever published that; it runs in a sandbox."""
    spy = LocalText(tmp_path, byte_files(chat_template="{{ messages.__class__.__mro__[1].__subclasses__() }}"))
    with pytest.raises(Refusal):
        spy.encode_chat([{"role": "user", "content": "hi"}])
