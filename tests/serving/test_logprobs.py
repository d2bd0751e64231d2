"""Log probabilities in step with the text: what waits, what a stop string cuts off, and OpenAI's two shapes."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.wire.requests import TokenLogprobs
from serving.logprobs import Entry, InStep, chat_json, completion_json
from serving.text import StopStrings

_HALF = TokenLogprobs(-0.5)
_PIECES = st.lists(st.text("abc", max_size=3), max_size=10)


def _answered(pieces: list[str], stops: list[str]) -> list[tuple[str, tuple[Entry, ...], bool]]:
    """What each step of an answer shows; the token that completes pieces[i] is i. The last step says if it was cut."""
    cutter, in_step = StopStrings(stops), InStep()
    steps = []
    for index, piece in enumerate(pieces):
        in_step.push(index, _HALF, piece)
        shown = cutter.push(piece)
        ended = index == len(pieces) - 1 and not cutter.hit
        shown += cutter.flush() if ended else ""
        steps.append((shown, in_step.show(shown, ended), cutter.hit))
        if cutter.hit:
            break
    return steps


@given(_PIECES, st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_a_token_is_told_if_and_only_if_it_begins_before_the_cut(pieces: list[str], stops: list[str]) -> None:
    steps = _answered(pieces, stops)
    text = "".join(shown for shown, _, _ in steps)
    cut = bool(steps) and steps[-1][2]
    begins = [0, *accumulate(map(len, pieces))]
    expected = [index for index in range(len(pieces)) if not cut or begins[index] < len(text)]
    told = [entry for _, entries, _ in steps for entry in entries]
    assert [entry.token for entry in told] == expected
    assert [entry.offset for entry in told] == begins[: len(told)]


@given(_PIECES, st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_a_token_comes_with_the_first_letter_of_its_text(pieces: list[str], stops: list[str]) -> None:
    steps = _answered(pieces, stops)
    before = 0
    for index, (shown, entries, _) in enumerate(steps):
        after = before + len(shown)
        last = index == len(steps) - 1
        assert all(before <= entry.offset < after or (last and entry.offset == after) for entry in entries)
        before = after


def test_parts_of_a_character_wait_for_its_last_byte() -> None:
    in_step = InStep()
    for token, text in enumerate(["é", "", "", "🙂"]):
        in_step.push(token, _HALF, text)
    assert [(entry.token, entry.offset) for entry in in_step.show("é", False)] == [(0, 0)]
    assert in_step.show("", False) == ()
    assert [(entry.token, entry.offset) for entry in in_step.show("🙂", False)] == [(1, 1), (2, 1), (3, 1)]


def test_without_a_tokenizer_tokens_go_by_their_numbers() -> None:
    entry = Entry(5, TokenLogprobs(-0.5, ((5, -0.5), (7, -1.0))), 0)
    assert chat_json([entry], None) == {
        "content": [
            {
                "token": "token_id:5",
                "logprob": -0.5,
                "bytes": None,
                "top_logprobs": [
                    {"token": "token_id:5", "logprob": -0.5, "bytes": None},
                    {"token": "token_id:7", "logprob": -1.0, "bytes": None},
                ],
            }
        ],
        "refusal": None,
    }


@pytest.mark.parametrize(("top", "told"), [((), {5: -3.0}), (((7, -1.0),), {7: -1.0, 5: -3.0})])
def test_a_completion_tells_the_chosen_token_beside_the_likeliest(
    top: tuple[tuple[int, float], ...], told: dict[int, float]
) -> None:
    body = completion_json([Entry(5, TokenLogprobs(-3.0, top), 2)], None)
    assert body == {
        "tokens": ["token_id:5"],
        "token_logprobs": [-3.0],
        "top_logprobs": [{f"token_id:{token}": logprob for token, logprob in told.items()}],
        "text_offset": [2],
    }


def test_what_is_impossible_is_a_number_all_the_same() -> None:
    """JSON has no infinity, and no "not a number"."""
    for value in (float("-inf"), -1e9, float("nan")):
        entry = Entry(5, TokenLogprobs(value, ((7, value),)), 0)
        assert completion_json([entry], None)["token_logprobs"] == [-9999.0]
        assert chat_json([entry], None)["content"][0]["top_logprobs"][0]["logprob"] == -9999.0
