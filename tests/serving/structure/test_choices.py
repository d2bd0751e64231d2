"""A choice that calls tools, from its tokens on."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.wire.requests import Grammar, Sampling, Submit, TokenLogprobs, Tokens
from serving.answering.answerer import Answerer
from serving.answering.ask import Ask
from serving.metrics import Metrics
from serving.structure.calling import Calling
from serving.structure.formats import BY_NAME, PLAIN, CallFormat
from serving.structure.wanted import Tool
from serving.text import AnswerText
from tests.serving.tokenizers import LocalText, byte_tokenizer, files_of

_CALL = '<tool_call>{"name":"f","arguments":{"a":"x.y"}}</tool_call>'
_END = "<end>"
_TOOLS = (Tool("f", {"properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}, False, "tools.0"),)


class _Saying:
    """A ticket of these tokens, so many at once."""

    name, cold = "r.0", False

    def __init__(self, tokens: Sequence[int], finish: str, at_once: int) -> None:
        self._tokens, self._finish, self._at_once = tokens, finish, at_once

    async def tokens(self) -> AsyncGenerator[Tokens]:
        for begin in range(0, len(self._tokens), self._at_once):
            part = tuple(self._tokens[begin : begin + self._at_once])
            last = begin + self._at_once >= len(self._tokens)
            yield Tokens("r.0", part, self._finish if last else None, (TokenLogprobs(-1.0),) * len(part))


def _answered(
    folder: Path, said: str, finish: str, form: CallFormat | None = PLAIN, at_once: int = 1, **fields: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The choice as a whole, and the deltas of a stream of it."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(["[TOOL_CALLS]"])
    text = LocalText(folder, files_of(tokenizer, eos_token=_END))
    end = text.encode(_END)[0]
    sampling = Sampling(temperature=0.0, logprobs=0)
    submit = Submit("r.0", (1,), 1, 999, (end,), sampling, grammar=Grammar("start: /.*/", "of these words"))

    async def both() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        async def answers() -> AnswerText:
            return text.answers

        model = SimpleNamespace(name="m", text=SimpleNamespace(answers=answers, token=text.token))
        asked = Ask(
            "c-1", "chat.completion", model, (submit,), 1, fields.get("stops", ()),  # type: ignore[arg-type]
            asyncio.get_running_loop().time(), False, False, calls=None if form is None else Calling(form, _TOOLS),
        )  # fmt: skip
        answerer = Answerer(Metrics(), 3600.0, lambda *_: None)
        tickets: Any = [_Saying(text.encode(said), finish, at_once)]
        (whole,) = (await answerer.whole(asked, tickets))["choices"]
        events = [event async for event in answerer.events(asked, tickets)]
        parsed = [json.loads(event[6:]) for event in events if event.startswith(b"data: {")]
        return whole, [event["choices"][0] for event in parsed]

    return asyncio.run(both())


def _joined(deltas: list[dict[str, Any]]) -> tuple[str, list[Any], str | None]:
    """Text, calls and end of a stream."""
    text = "".join(delta["delta"].get("content", "") for delta in deltas)
    calls: list[list[str]] = []
    for piece in (piece for delta in deltas for piece in delta["delta"].get("tool_calls", ())):
        if "id" in piece:
            calls.append([piece["function"]["name"], ""])
        calls[piece["index"]][1] += piece["function"]["arguments"]
    return text, calls, deltas[-1]["finish_reason"]


@pytest.mark.parametrize("at_once", [1, 7, 500])
@pytest.mark.parametrize(
    ("said", "finish", "text", "arguments", "end"),
    [
        (f"{_CALL}{_END}", "stop", None, ['{"a":"x.y"}'], "tool_calls"),
        (_CALL, "stop", None, ['{"a":"x.y"}'], "tool_calls"),
        (f"Well,\n{_CALL}\n{_CALL}{_END}", "stop", "Well,", ['{"a":"x.y"}'] * 2, "tool_calls"),
        (_CALL[:42], "length", None, ['{"a":"x'], "length"),
        (f"Well, <tool{_END}", "stop", "Well, <tool", None, "stop"),
        ("Well, <tool", "length", "Well, <tool", None, "length"),
    ],
)
def test_calls_are_told_apart_from_text(
    said: str, finish: str, text: str | None, arguments: list[str] | None, end: str, at_once: int, tmp_path: Path
) -> None:
    whole, deltas = _answered(tmp_path, said, finish, at_once=at_once)
    calls = whole["message"].get("tool_calls")
    assert whole["message"]["content"] == text
    assert ([call["function"]["arguments"] for call in calls] if calls else calls) == arguments
    assert whole["finish_reason"] == end
    assert _joined(deltas) == (text or "", [["f", each] for each in arguments or ()], end)
    told = "".join(entry["token"] for entry in whole["logprobs"]["content"] if entry["bytes"] is not None)
    assert told == (text or "")


def test_a_mark_that_is_no_text_is_seen_and_not_shown(tmp_path: Path) -> None:
    said = f'Well, [TOOL_CALLS][{{"name": "f", "arguments": {{}}}}]{_END}'
    whole, deltas = _answered(tmp_path, said, "stop", BY_NAME["mistral"])
    assert whole["message"]["content"] == "Well,"
    assert _joined(deltas) == ("Well,", [["f", "{}"]], "tool_calls")


@pytest.mark.parametrize("at_once", [1, 9, 500])
def test_values_that_stand_one_by_one_are_one_object_in_json_whole_and_streamed(at_once: int, tmp_path: Path) -> None:
    called = (
        '<tool_call>\n<function=f>\n<parameter=a>\n"é\\\n</parameter>\n<parameter=b>\n7\n</parameter>\n</function>\n'
    )
    said = f"Well,\n{called}</tool_call>\n<tool_call>\n<function=f>\n</function>\n</tool_call>{_END}"
    whole, deltas = _answered(tmp_path, said, "stop", BY_NAME["qwen-xml"], at_once)
    arguments = [call["function"]["arguments"] for call in whole["message"]["tool_calls"]]
    assert list(map(json.loads, arguments)) == [{"a": '"é\\', "b": 7}, {}]
    assert _joined(deltas) == ("Well,", [["f", each] for each in arguments], "tool_calls")
    assert [entry["token"] for entry in whole["logprobs"]["content"]] == list("Well,")


def test_a_stop_string_is_looked_for_in_text_alone(tmp_path: Path) -> None:
    whole, _ = _answered(tmp_path, f"{_CALL}{_END}", "stop", stops=("x.", "f"))
    assert whole["finish_reason"] == "tool_calls"
    whole, deltas = _answered(tmp_path, f"So. {_CALL}{_END}", "stop", stops=(".",), at_once=500)
    assert (whole["message"]["content"], whole["finish_reason"]) == ("So", "stop")
    assert _joined(deltas) == ("So", [], "stop")


def test_what_a_grammar_ends_keeps_its_last_token(tmp_path: Path) -> None:
    """A grammar that lets nothing follow ends an answer with a token that is text; one that ends answers is none."""
    whole, _ = _answered(tmp_path, '{"a":1}', "stop", None)
    assert whole["message"]["content"] == '{"a":1}'
    whole, _ = _answered(tmp_path, '{"a":1}' + _END, "stop", None)
    assert whole["message"]["content"] == '{"a":1}'
