"""Why a field of a request is refused, in our words: whatever checks the fields, its own words mean nothing to clients."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from serving.errors import BadRequest

_SHOWN_LETTERS = 200
_REFUSED = "refused"
_NOWHERE = ("body", "query", "[key]")
"""Parts of an error's place that clients did not write; alternatives, which are named <so>, are others."""
_WHOLE, _NUMBER, _TRUTH, _OBJECT = "a whole number", "a number", "true or false", "an object"
_KINDS = {
    "string_type": "a text", "int_type": _WHOLE, "int_parsing": _WHOLE, "int_from_float": _WHOLE, "float_type": _NUMBER,
    "float_parsing": _NUMBER, "finite_number": "a finite number", "bool_type": _TRUTH, "bool_parsing": _TRUTH,
    "list_type": "a list", "dict_type": _OBJECT, "model_type": _OBJECT, "model_attributes_type": _OBJECT,
}  # fmt: skip
_SENTENCES = {
    **{kind: f"it is not {said}" for kind, said in _KINDS.items()},
    "extra_forbidden": "there is no such field",
    "missing": "it is needed, and is not there",
    "int_parsing_size": "it is a number beyond all bounds",
    "greater_than": "it is not above {gt}",
    "greater_than_equal": "it is less than {ge}",
    "less_than": "it is not below {lt}",
    "less_than_equal": "it is more than {le}",
    "too_long": "it has more than {max_length} entries",
    "too_short": "it has fewer entries than {min_length}",
    "string_too_long": "it has more than {max_length} letters",
    "string_too_short": "it has fewer letters than {min_length}",
    "string_pattern_mismatch": "it does not match {pattern}",
    "literal_error": "it is not {expected}",
    "none_required": "it is not supported: leave it out",
    "prompt_kind": "it is not a text, a list of texts, tokens, or a list of lists of tokens",
}
_OTHERWISE = "it is not of the kind that is taken here"


def refusal(field: str, sentence: str) -> PydanticCustomError:
    """What a validator of a whole object raises to refuse one of its fields."""
    return PydanticCustomError(_REFUSED, "{sentence}", {"sentence": sentence, "field": field})


def complaint(error: Mapping[str, Any]) -> BadRequest:
    """What to tell of an error as pydantic describes it; `param` is the field's path, as in messages.0.content."""
    context = error.get("ctx", {})
    place = [str(part) for part in error["loc"] if part not in _NOWHERE]
    if error["type"] == _REFUSED:
        place.append(context["field"])
    param = ".".join(part for part in place if not part.startswith("<"))[:_SHOWN_LETTERS] or None
    said = _said(error["type"], context)
    return BadRequest(f"{param}: {said}" if param else said, param)


def _said(kind: str, context: Mapping[str, Any]) -> str:
    if kind == _REFUSED:
        return str(context["sentence"])
    if kind == "value_error":
        return str(context["error"])
    return _SENTENCES.get(kind, _OTHERWISE).format(**context)
