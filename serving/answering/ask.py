"""A request that is being answered: prompts as tokens, a Submit for each choice, and how its answer is to be written."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from cluster.wire.requests import Submit
from serving.catalog import ServedModel
from serving.requests.preparing import Prepared
from serving.requests.schemas import GenerationRequest
from serving.structure.calling import Calling


@dataclass(frozen=True)
class Ask:
    """A validated request: prompts as tokens, one Submit for each choice in order; `arrived_s` in monotonic seconds.

    `echoes` are what each prompt's answers begin with, if they shall. Nobody waits for the first token after `deadline_s`.
    What is `echoed` the answer says again of the request, in a shape that does. Calls of tools in it are such as `calls`
    has them; None: it has none.
    """

    id: str
    kind: str
    model: ServedModel
    submits: tuple[Submit, ...]
    choices_per_prompt: int
    stops: tuple[str, ...]
    arrived_s: float
    with_token_ids: bool
    with_usage: bool
    echoes: tuple[str, ...] = ()
    deadline_s: float = inf
    echoed: Mapping[str, Any] = field(default_factory=dict)
    calls: Calling | None = None

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts, each once however many choices it has."""
        return sum(submit.prompt_tokens for submit in self.submits[:: self.choices_per_prompt])

    def echo(self, choice: int) -> str:
        """What a choice's text begins with."""
        return self.echoes[choice // self.choices_per_prompt] if self.echoes else ""


_PREFIXES = {"chat.completion": "chatcmpl-", "text_completion": "cmpl-", "response": "resp_"}


def request_id(kind: str) -> str:
    """A new one."""
    return _PREFIXES[kind] + uuid.uuid4().hex


def ask(
    name: str,
    kind: str,
    prepared: Prepared,
    body: GenerationRequest,
    arrived_s: float,
    deadline_s: float,
    echoed: Mapping[str, Any],
) -> Ask:
    """Every prompt with every sampling, prompts in the outer order, as OpenAI numbers choices."""
    submits = [
        Submit(
            f"{name}.{p}.{i}",
            prompt,
            len(prompt),
            limit,
            prepared.stop_tokens,
            sampling,
            min_tokens=prepared.min_tokens,
            grammar=prepared.grammar,
        )
        for p, (prompt, limit) in enumerate(zip(prepared.prompts, prepared.limits, strict=True))
        for i, sampling in enumerate(prepared.samplings)
    ]
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    choices, stops = len(prepared.samplings), tuple(body.stop)
    return Ask(
        name, kind, prepared.model, tuple(submits), choices, stops, arrived_s, body.return_token_ids, with_usage,
        prepared.echoes, deadline_s, echoed, prepared.calls,
    )  # fmt: skip
