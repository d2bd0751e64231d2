"""From a request as it was sent to what the engine is asked: prompts as tokens, bounds that fit, and how tokens are drawn."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.wire.requests import Grammar, Sampling
from serving.catalog import Catalog, ServedModel
from serving.errors import BadRequest, ContextTooLong
from serving.requests.responses import renamed
from serving.requests.sampling_defaults import SamplingDefaults
from serving.requests.schemas import COMPLETION_TOKENS, ChatRequest, CompletionRequest, GenerationRequest
from serving.router import Router
from serving.structure.calling import Calling
from serving.structure.formats import BY_NAME
from storage_tiers.pooling import sees_ahead

LETTERS_PER_TOKEN = 4
"""About so many, to decide by before the tokens are known."""


@dataclass(frozen=True)
class Prepared:
    """A request that fits its model: each prompt with the most tokens of its answers, `samplings` for each of its choices.

    `echoes` are the prompts' texts, where answers shall begin with them. Answers keep to the `grammar`, and call tools as
    `calls` has it.
    """

    model: ServedModel
    prompts: tuple[tuple[int, ...], ...]
    limits: tuple[int, ...]
    samplings: tuple[Sampling, ...]
    stop_tokens: tuple[int, ...]
    min_tokens: int
    echoes: tuple[str, ...] = ()
    grammar: Grammar | None = None
    calls: Calling | None = None


class Preparer:
    """Prepares the requests of one front end, with the sampling defaults of models' makers if `as_makers_say`."""

    def __init__(self, catalog: Catalog, router: Router, default_max_tokens: int, as_makers_say: bool) -> None:
        self._catalog, self._router = catalog, router
        self._default_max_tokens, self._as_makers_say = default_max_tokens, as_makers_say

    async def chat(self, body: ChatRequest, arrived_s: float) -> Prepared:
        """BadRequest, and what the catalog and the model's text process raise."""
        messages = [message.plain() for message in body.messages]
        letters, wanted = sum(len(message["content"]) for message in messages), body.wanted
        model = await self._model(body, letters, arrived_s)
        if model.text is None:
            raise BadRequest(f"{model.name} was published without a tokenizer: send tokens to /v1/completions", "model")
        may_call = wanted is not None and bool(wanted.tools)
        prompt = await model.text.encode_chat(messages, body.template_arguments, model.context_tokens, may_call)
        await check_known(model, [prompt], "messages")
        grammar, calls = await self._constrained(model, body, letters, arrived_s, body.chat_template)
        prepared = self._prepared(model, body, [prompt], "messages", self._default_max_tokens)
        return replace(prepared, grammar=grammar, calls=calls if may_call else None)

    async def response(self, body: ChatRequest, arrived_s: float) -> Prepared:
        """The chat that /v1/responses asked for; fields at fault are called as they are there."""
        try:
            return await self.chat(body, arrived_s)
        except BadRequest as error:
            error.param = renamed(error.param)
            raise

    async def completion(self, body: CompletionRequest, arrived_s: float) -> Prepared:
        """Likewise."""
        prompts = body.prompts()
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        wake = bool(texts) or body.echo
        letters = sum(map(_letters, prompts))
        model = await self._model(body, letters, arrived_s, wake)
        if model.text is None and wake:
            field, rest = (
                ("prompt", "send the prompt as tokens") if texts else ("echo", "there is no text to begin with")
            )
            raise BadRequest(f"{model.name} was published without a tokenizer: {rest}", field)
        if texts and model.text is not None:
            tokens = await model.text.encode(texts, model.context_tokens)
        else:
            tokens = [tuple(prompt) for prompt in prompts if not isinstance(prompt, str)]
        await check_known(model, tokens, "prompt")
        echoes = await _echoes(model, texts, tokens) if body.echo else ()
        grammar, _ = await self._constrained(model, body, letters, arrived_s)
        return replace(self._prepared(model, body, tokens, "prompt", COMPLETION_TOKENS, echoes), grammar=grammar)

    async def _model(self, body: GenerationRequest, letters: int, arrived_s: float, wake: bool = True) -> ServedModel:
        """The model for a prompt of so many letters. While its tokenizer is read, where that is needed, it starts already."""
        model, ready = await self._catalog.find(body.model)
        _check_speaks(model)
        _check_tokens_of(body, model)
        if ready and (model.text is None or model.text.at_hand or not wake):
            return model
        with self._router.announced(model, 1 + letters // LETTERS_PER_TOKEN, arrived_s):
            model = await self._catalog.get(body.model)
            if model.text is not None:
                await model.text.wake()
            return model

    async def _constrained(
        self, model: ServedModel, body: GenerationRequest, letters: int, arrived_s: float, template: str | None = None
    ) -> tuple[Grammar | None, Calling | None]:
        """What answers keep to, if they shall keep to something, and how calls are written in them. While that is found out
        the model starts already."""
        wanted = body.wanted
        if wanted is None:
            return None, None
        if model.text is None:
            raise BadRequest(f"{model.name} was published without a tokenizer: its answers are no text", wanted.param)
        with self._router.announced(model, 1 + letters // LETTERS_PER_TOKEN, arrived_s):
            constrained = await model.text.constrain(wanted, template)
            words = await model.text.words(_vocabulary(model), model.stop_tokens)
        return Grammar(constrained.grammar, words), Calling(BY_NAME[constrained.calls], wanted.tools, wanted.required)

    def _prepared(
        self,
        model: ServedModel,
        body: GenerationRequest,
        prompts: Sequence[tuple[int, ...]],
        field: str,
        default_tokens: int,
        echoes: tuple[str, ...] = (),
    ) -> Prepared:
        if not all(prompts):
            raise BadRequest(f"{field} is empty: there are no tokens to go on from", field)
        defaults = model.sampling if self._as_makers_say else SamplingDefaults()
        if defaults.max_new_tokens is not None:
            default_tokens = min(default_tokens, defaults.max_new_tokens)
        stop_tokens = (*(() if body.ignore_eos else model.stop_tokens), *body.stop_token_ids)
        return Prepared(
            model=model,
            prompts=tuple(prompts),
            limits=tuple(self._limit(model, len(prompt), body, field, default_tokens) for prompt in prompts),
            samplings=tuple(body.samplings(defaults)),
            stop_tokens=stop_tokens,
            min_tokens=body.min_tokens,
            echoes=echoes,
        )

    def _limit(
        self, model: ServedModel, prompt_tokens: int, body: GenerationRequest, field: str, default_tokens: int
    ) -> int:
        """How many tokens may be generated; ContextTooLong if the prompt, or with it what is wished for, does not fit."""
        kv_tokens = self._router.objectives(model.name).kv_tokens
        most, of_what = model.context_tokens, f"tokens of {model.name}'s context"
        if kv_tokens < most:
            most, of_what = kv_tokens, "tokens of KV cache that a replica has here (frontend.kv_tokens)"
        room = most - prompt_tokens
        if room < 1:
            raise ContextTooLong(
                f"the prompt has {prompt_tokens} tokens: together with at least one of answer more than the {most} {of_what}",
                field,
            )
        wanted_field, wanted = body.wanted_tokens
        if wanted is not None and wanted > room:
            raise ContextTooLong(
                f"the prompt has {prompt_tokens} tokens and {wanted_field} is {wanted}: "
                f"together more than the {most} {of_what}",
                wanted_field,
            )
        limit = min(room, max(default_tokens, body.min_tokens)) if wanted is None else wanted
        if body.min_tokens > limit:
            raise BadRequest(
                f"min_tokens is {body.min_tokens}, and the answer may have at most {limit} tokens", "min_tokens"
            )
        return limit


def _check_speaks(model: ServedModel) -> None:
    """BadRequest if the model generates nothing that makes sense."""
    pooling = model.checkpoint.pooling
    if pooling is not None and pooling.without_output:
        raise BadRequest(
            f"{model.name} has no output matrix, so that it generates nothing: it makes vectors, at /v1/embeddings",
            "model",
        )
    if sees_ahead(model.checkpoint.config):
        raise BadRequest(
            f"{model.name}'s tokens attend to those behind them, as its config.json says: it generates nothing", "model"
        )


def _check_tokens_of(body: GenerationRequest, model: ServedModel) -> None:
    """BadRequest if a field other than the prompt has tokens that the model does not have."""
    vocabulary = _vocabulary(model)
    for field, tokens in (("logit_bias", body.logit_bias), ("stop_token_ids", body.stop_token_ids)):
        if any(token >= vocabulary for token in tokens):
            raise BadRequest(f"{field} has tokens outside of the model's vocabulary of {vocabulary}", field)


async def check_known(model: ServedModel, prompts: Sequence[tuple[int, ...]], field: str) -> None:
    """BadRequest if a prompt has a token that the model does not have: tokenizers may know more than their models."""
    vocabulary = _vocabulary(model)
    for prompt in prompts:
        if prompt and not (min(prompt) >= 0 and max(prompt) < vocabulary):
            token = next(token for token in prompt if not 0 <= token < vocabulary)
            written = "" if model.text is None or token < 0 else (await model.text.answers()).token(token).text
            raise BadRequest(
                f"{field} has token {token} ({written!r}), which {model.name} does not have: it is outside of the model's "
                f"vocabulary of {vocabulary}",
                field,
            )


async def _echoes(model: ServedModel, texts: Sequence[str], prompts: Sequence[tuple[int, ...]]) -> tuple[str, ...]:
    """The prompts as text: as they were sent, or decoded as an answer would be."""
    if texts or model.text is None:
        return tuple(texts)
    answers = await model.text.answers()

    def decoded(prompt: tuple[int, ...]) -> str:
        decoder = answers.decoder(())
        return "".join(map(decoder.push, prompt)) + decoder.flush()

    return tuple([await asyncio.to_thread(decoded, prompt) for prompt in prompts])


def _letters(prompt: str | list[int]) -> int:
    return len(prompt) * (1 if isinstance(prompt, str) else LETTERS_PER_TOKEN)


def _vocabulary(model: ServedModel) -> int:
    return int(model.checkpoint.config["vocab_size"])
