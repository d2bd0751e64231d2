"""What an answer shall keep to, as a client asked for it."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Tool:
    """A function that may be called; its arguments are an object by `schema`. `param` is the request's field that says so.
    What the schema asks beyond what can be kept to is refused if `strict`, else passed over."""

    name: str
    schema: dict[str, Any]
    strict: bool
    param: str


@dataclass(frozen=True)
class Form:
    """What a text may be: `kind` is json (of a schema), regex, choice (of texts) or grammar (in Lark or GBNF); `param` is the
    request's field that says so."""

    kind: str
    value: Any
    strict: bool
    param: str


@dataclass(frozen=True)
class Wanted:
    """A text of `form`, any if it is None; or calls of `tools`, and nothing else if one is `required`. With `parallel`
    several may be called at once."""

    form: Form | None = None
    tools: tuple[Tool, ...] = ()
    required: bool = False
    parallel: bool = True

    def written(self) -> str:
        """In JSON, for a text process."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, written: str) -> Self:
        """What was written."""
        parts = json.loads(written)
        form = Form(**parts["form"]) if parts["form"] is not None else None
        return cls(form, tuple(Tool(**tool) for tool in parts["tools"]), parts["required"], parts["parallel"])

    @property
    def param(self) -> str:
        """A field of the request that asks for it."""
        return self.form.param if self.form is not None else "tools"
