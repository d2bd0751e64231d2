"""From a request for vectors to what the engine is asked: inputs as tokens that fit, and how the model pools them."""

from collections.abc import Sequence
from dataclasses import dataclass

from serving.catalog import Catalog, ServedModel
from serving.embedding.schemas import EmbeddingRequest
from serving.errors import BadRequest, ContextTooLong
from serving.requests.preparing import LETTERS_PER_TOKEN, check_known
from serving.router import Router
from storage_tiers.pooling import Mode


@dataclass(frozen=True)
class Wanted:
    """Inputs that fit their model, as tokens; what becomes of their vectors: cut to `dimensions`, if that is not None, and
    given the length 1 if they are `normalized`."""

    model: ServedModel
    inputs: tuple[tuple[int, ...], ...]
    mode: Mode
    normalized: bool
    dimensions: int | None

    @property
    def tokens(self) -> int:
        return sum(map(len, self.inputs))


class EmbeddingPreparer:
    """Prepares the requests of one front end."""

    def __init__(self, catalog: Catalog, router: Router) -> None:
        self._catalog, self._router = catalog, router

    async def prepare(self, body: EmbeddingRequest, arrived_s: float) -> Wanted:
        """BadRequest if the model makes no vectors, or none of these; what the catalog and its text process raise."""
        inputs = body.inputs()
        texts = [each for each in inputs if isinstance(each, str)]
        model, ready = await self._catalog.find(body.model)
        mode = _mode(model)
        _check_dimensions(model, body.dimensions)
        if not ready or (texts and model.text is not None and not model.text.at_hand):
            letters = sum(len(each) * (1 if isinstance(each, str) else LETTERS_PER_TOKEN) for each in inputs)
            with self._router.announced(model, 1 + letters // LETTERS_PER_TOKEN, arrived_s):
                model = await self._catalog.get(body.model)
                if texts and model.text is not None:
                    await model.text.wake()
        tokens = (
            await self._tokens(model, texts) if texts else [tuple(each) for each in inputs if not isinstance(each, str)]
        )
        if not all(tokens):
            raise BadRequest("input is empty, or an input is: there are no tokens to embed", "input")
        await check_known(model, tokens, "input")
        most, of_what = self._most(model)
        longest = max(map(len, tokens))
        if longest > most:
            raise ContextTooLong(f"an input has {longest} tokens, more than the {most} {of_what}", "input")
        pooling = model.checkpoint.pooling
        return Wanted(model, tuple(tokens), mode, pooling is not None and pooling.normalized, body.dimensions)

    async def _tokens(self, model: ServedModel, texts: Sequence[str]) -> list[tuple[int, ...]]:
        if model.text is None:
            raise BadRequest(f"{model.name} was published without a tokenizer: send the input as tokens", "input")
        try:
            return await model.text.encode(texts, model.context_tokens)
        except ContextTooLong as error:
            raise ContextTooLong(f"an input has more tokens than {model.name} takes", "input") from error

    def _most(self, model: ServedModel) -> tuple[int, str]:
        """How many tokens an input may have, and why no more."""
        kv_tokens = self._router.objectives(model.name).kv_tokens
        bounds = [
            (model.context_tokens, f"tokens of {model.name}'s context"),
            (kv_tokens, "tokens of KV cache that a replica has here (frontend.kv_tokens)"),
        ]
        pooling = model.checkpoint.pooling
        if pooling is not None and pooling.max_tokens is not None:
            bounds.append((pooling.max_tokens, f"that {model.name} embeds (max_seq_length)"))
        return min(bounds)


def _mode(model: ServedModel) -> Mode:
    pooling = model.checkpoint.pooling
    if pooling is None:
        raise BadRequest(
            f"{model.name} does not say how its embeddings are pooled: publish it again from a folder that has "
            "sentence-transformers' modules.json and 1_Pooling/config.json, by mean or last token",
            "model",
        )
    if pooling.mode is None:
        raise BadRequest(
            f"{model.name} makes its embeddings in a way that is not supported: {pooling.fault}; what is supported is the "
            "mean of all tokens or the last token, normalised or not",
            "model",
        )
    return pooling.mode


def _check_dimensions(model: ServedModel, dimensions: int | None) -> None:
    """Vectors are cut where the model was trained for that (Matryoshka), which its configuration says as vLLM reads it."""
    if dimensions is None:
        return
    config = model.checkpoint.config
    given = config.get("matryoshka_dimensions")
    listed = [size for size in given if type(size) is int] if isinstance(given, list) else []
    if not listed and config.get("is_matryoshka") is not True:
        raise BadRequest(
            f"{model.name} does not say that its vectors may be cut (is_matryoshka or matryoshka_dimensions in config.json)",
            "dimensions",
        )
    if listed and dimensions not in listed:
        said = ", ".join(map(str, listed[:20]))
        raise BadRequest(f"{model.name} has vectors of {said} dimensions, not of {dimensions}", "dimensions")
