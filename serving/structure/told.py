"""Tools, and calls of them, told in messages: for a model whose chat template has no words for them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_CALL, _CALL_END = "<tool_call>", "</tool_call>"
_WITH_TOOLS = "You are a helpful assistant with some tools."
"""Phi-4-mini's own."""
_TOLD = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def told(
    messages: Sequence[Mapping[str, Any]], tools: Iterable[Mapping[str, Any]], with_system: bool = True
) -> list[dict[str, Any]]:
    """The messages with their calls and results as text, and `tools` told at their start; by the first of a user where the
    template takes no system message."""
    found = _in_a_row(_plain(message) for message in messages)
    rows = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    if not rows:
        return found
    said = _TOLD.format(tools=rows)
    if with_system and (not found or found[0]["role"] != "system"):
        return [{"role": "system", "content": said}, *found]
    if with_system:
        return [{**found[0], "content": f"{found[0]['content']}\n\n{said}"}, *found[1:]]
    first = next((index for index, message in enumerate(found) if message["role"] == "user"), None)
    if first is None:
        return [{"role": "user", "content": said}, *found]
    return [*found[:first], {**found[first], "content": f"{said}\n\n{found[first]['content']}"}, *found[first + 1 :]]


def told_beside(messages: Sequence[Mapping[str, Any]], tools: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages as Phi-4-mini's template takes them: `tools` a text in JSON beside that of the system message; calls and
    results between tokens of its own, which are called as roles are."""
    found = list(map(_between_tokens, messages))
    rows = [tool["function"] for tool in tools]
    if not rows:
        return found
    if not found or found[0]["role"] != "system":
        found.insert(0, {"role": "system", "content": _WITH_TOOLS})
    return [{**found[0], "tools": json.dumps(rows, ensure_ascii=False)}, *found[1:]]


def _between_tokens(message: Mapping[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {**message, "role": "tool_response"}
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    calls = ", ".join(_object(call["function"]) for call in message.get("tool_calls", ()))
    return {**rest, "content": f"{message['content']}<|tool_call|>[{calls}]<|/tool_call|>"} if calls else rest


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = [_written(call["function"]) for call in message.get("tool_calls", ())]
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**rest, "content": "\n".join(filter(None, (message["content"], *calls)))}


def _written(function: Mapping[str, Any]) -> str:
    return f"{_CALL}\n{_object(function)}\n{_CALL_END}"


def _object(function: Mapping[str, Any]) -> str:
    arguments = function["arguments"]
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'{{"name": {json.dumps(function["name"])}, "arguments": {written or "{}"}}}'


def _in_a_row(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results that follow one another, and what a user says to them, as one turn: many templates take no two of a role."""
    found = list[dict[str, Any]]()
    results = False
    for message in messages:
        result = message["role"] == "user" and message["content"].startswith("<tool_response>\n")
        if results and message["role"] == "user":
            found[-1] = {**found[-1], "content": f"{found[-1]['content']}\n{message['content']}"}
        else:
            found.append(message)
            results = result
    return found
