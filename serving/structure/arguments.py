"""A call's arguments read out of what a model writes, as an object in JSON, piece by piece."""

import json
import re
from collections.abc import Callable

from serving.structure.letters import BLANKS, Letters, Reading
from serving.structure.parameters import CONTAINERS, STRING, Parameter, Parameters, quoted
from serving.structure.values import Values

Say = Callable[[str], None]
"""Is told the next piece."""
_WORD = re.compile("[-+.0-9A-Za-z]*")
"""As far as a value may be a number or one of JSON's words; with any other letter it is a string."""


def read_json(letters: Letters, say: Say) -> Reading:
    """A value in JSON, up to its end; of a number or a word that is where a blank or a tag begins."""
    yield from letters.blanks()
    depth, within, escaped, nested = 0, False, False, False
    while True:
        letter = yield from letters.peek()
        if not nested and not within and (letter in BLANKS or letter == "<"):
            return
        letters.skip(1)
        say(letter)
        if within:
            within = escaped or letter != '"'
            escaped = letter == "\\" and not escaped
        elif letter == '"':
            within = True
        else:
            depth += (letter in "{[") - (letter in "}]")
            nested = nested or depth > 0
        if nested and not within and depth <= 0:
            return


def read_values(letters: Letters, values: Values, parameters: Parameters, say: Say) -> Reading:
    """Values by name. They are quoted where a tool's `parameters` have strings."""
    say("{")
    between = ""
    while (yield from letters.stands(values.opening)):
        yield from letters.expect((values.opening,))
        name, whole = "", False
        while not whole:
            more, whole = yield from letters.before(values.named[0])
            name += more
        yield from letters.expect(values.named[1:])
        say(f"{between}{json.dumps(name, ensure_ascii=False)}: ")
        yield from _read_value(letters, values, parameters.named(name), say)
        between = ", "
    say("}")


def _read_value(letters: Letters, values: Values, parameter: Parameter | None, say: Say) -> Reading:
    types = parameter.types if parameter is not None else frozenset({STRING})
    within = STRING not in types
    if not within and parameter is not None and not parameter.anything and types & CONTAINERS:
        within = (yield from letters.peek()) in "{["
    if within:
        yield from read_json(letters, say)
        yield from letters.expect((values.closing,))
    elif parameter is None or types == {STRING}:
        yield from _read_string(letters, values, say)
    else:
        text, whole = "", False
        while not whole and (parameter.anything or _WORD.fullmatch(text)):
            more, whole = yield from letters.before(values.closing, values.lines)
            text += more
        if whole:
            say(parameter.in_json(text))
        else:
            yield from _read_string(letters, values, say, text)


def _read_string(letters: Letters, values: Values, say: Say, text: str = "") -> Reading:
    """A string, whose beginning was read already."""
    say(f'"{quoted(text)[1:-1]}')
    whole = False
    while not whole:
        text, whole = yield from letters.before(values.closing, values.lines)
        say(quoted(text)[1:-1])
    say('"')
