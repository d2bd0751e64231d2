"""Commands that deal with models: put them into the store, list them, talk to them."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firsttoken.commands.options import (
    MOST_TOKENS,
    AsJson,
    Config,
    finite,
    load,
    open_store,
    print_json,
    stderr,
    stdout,
)
from storage_tiers.threads import WORKERS

if TYPE_CHECKING:
    from firsttoken.frontend import Frontend, Piece, Sampling
    from firsttoken.settings import Settings
    from storage_tiers.model_store import ModelStore

MaxTokens = Annotated[int | None, typer.Option(min=1, max=MOST_TOKENS, help="Stop after that many tokens.")]
Temperature = Annotated[
    float | None, typer.Option(min=0.0, max=2.0, callback=finite, help="0 always takes the likeliest token.")
]
TopP = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, callback=finite, help="Draw from the likeliest tokens of this total.")
]
TopK = Annotated[int | None, typer.Option(min=1, max=2**31 - 1, help="Draw from that many likeliest tokens.")]
MinP = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, callback=finite, help="Least probability, as a part of the likeliest token's."),
]
Seed = Annotated[int | None, typer.Option(min=-(2**63), max=2**63 - 1, help="The same seed gives the same answer.")]
Stop = Annotated[list[str] | None, typer.Option(help="Stop before this text; may be given several times.")]
Model = Annotated[str, typer.Argument(help="Name of a published model; see `firsttoken models`.", show_default=False)]


def publish(
    source: Annotated[
        str,
        typer.Argument(
            help="A Hugging Face folder (safetensors or torch) or a GGUF file, here or at a URL such as s3://...;"
            " or a model of the hub: org/name, hf://org/name@revision. In a folder with several sets of weights, the"
            " file of the one that is meant, or its index.",
            show_default=False,
        ),
    ],
    name: Annotated[str, typer.Option(help="The name that requests will ask for.", show_default=False)],
    dtype: Annotated[
        str | None, typer.Option(help="Store weights as float32, bfloat16 or float16 (default: as they are).")
    ] = None,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place", help="Leave safetensors where they are, where every node must reach them, and store an index."
        ),
    ] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Units that are written at once.")] = WORKERS,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Publish a model: convert it once into the store, from where every node loads it.

    Does nothing if just that is published; goes on where an interrupted run ended.

    Example: firsttoken publish ./SmolLM2-135M-Instruct.Q4_1.gguf --name smollm2
    """
    from firsttoken.terminal import publish_with_progress

    settings = load(config)
    store = open_store(settings)
    started_s = time.monotonic()
    checkpoint = publish_with_progress(source, name, store, stderr(), dtype=dtype, in_place=in_place, workers=workers)
    seconds = time.monotonic() - started_s
    if as_json:
        print_json(_describe(checkpoint) | {"seconds": round(seconds, 3)})
        return
    typer.echo(
        f"{checkpoint.name}: {checkpoint.layers} layers, {checkpoint.dtype},"
        f" {checkpoint.size_bytes / 1e6:,.0f} MB in {settings.store.url} after {seconds:.1f} s",
        err=True,
    )


def models(context: typer.Context, as_json: AsJson = False, config: Config = None) -> None:
    """List the published models, or look after them. Needs the store only, no running platform.

    One that cannot be opened is listed with the reason; exit status 1 if none can.
    """
    if context.invoked_subcommand is not None:
        return
    from firsttoken.terminal import model_table

    settings = load(config)
    store = open_store(settings)
    found = [_described(store, name) for name in store.list()]
    if as_json:
        print_json(found)
    elif found:
        stdout().print(model_table(found))
    else:
        typer.echo(f"no models in {settings.store.url}: see `firsttoken publish --help`", err=True)
    if found and all("error" in model for model in found):
        raise typer.Exit(1)


def _described(store: "ModelStore", name: str) -> dict[str, Any]:
    """The model, or why it cannot be opened, as `error`."""
    from storage_tiers.errors import StorageError

    try:
        return _describe(store.open(name))
    except StorageError as error:
        return {"name": name, "error": str(error)}


def _describe(checkpoint: Any) -> dict[str, Any]:
    return {
        "name": checkpoint.name,
        "version": checkpoint.version,
        "dtype": checkpoint.dtype,
        "layers": checkpoint.layers,
        "size_bytes": checkpoint.size_bytes,
    }


def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="The text to continue.", show_default=False)],
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    seed: Seed = None,
    stop: Stop = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Continue a text; the model is started if it is cold.

    Example: firsttoken generate smollm2 "Once upon a time" --max-tokens 32 --temperature 0
    """
    from firsttoken.frontend import Sampling

    settings = load(config)
    sampling = Sampling(max_tokens, temperature, top_p, top_k, min_p, seed, tuple(stop) if stop else None)

    def ask(frontend: "Frontend") -> "AsyncIterator[Piece]":
        return frontend.complete(model, prompt, sampling)

    answer = asyncio.run(_show(settings, ask, quiet=as_json))
    if as_json:
        print_json(vars(answer))


def chat(
    model: Model,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Ask just this and end.", show_default=False)
    ] = None,
    system: Annotated[str | None, typer.Option(help="How the model should behave.", show_default=False)] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    seed: Seed = None,
    stop: Stop = None,
    config: Config = None,
) -> None:
    """Talk to a model; it is started if it is cold. Ctrl-C ends an answer, Ctrl-D the conversation.

    Example: firsttoken chat smollm2 -m "What is the capital of France?"
    """
    from firsttoken.frontend import Sampling

    settings = load(config)
    sampling = Sampling(max_tokens, temperature, top_p, top_k, min_p, seed, tuple(stop) if stop else None)
    conversation = [{"role": "system", "content": system}] if system else []
    if message is not None:
        conversation.append({"role": "user", "content": message})
        asyncio.run(_answer(settings, model, conversation, sampling))
        return
    while (line := _ask_person()) is not None:
        if not line.strip():
            continue
        conversation.append({"role": "user", "content": line})
        try:
            text = asyncio.run(_answer(settings, model, conversation, sampling))
        except KeyboardInterrupt:
            typer.echo()
            conversation.pop()
            continue
        conversation.append({"role": "assistant", "content": text})


def _ask_person() -> str | None:
    while True:
        try:
            return input("> ")
        except EOFError:
            typer.echo()
            return None
        except UnicodeDecodeError:
            typer.echo("that was not UTF-8 text: say it again", err=True)


async def _answer(settings: "Settings", model: str, conversation: list[dict[str, str]], sampling: "Sampling") -> str:
    def ask(frontend: "Frontend") -> "AsyncIterator[Piece]":
        return frontend.chat(model, conversation, sampling)

    return (await _show(settings, ask, quiet=False)).text


@dataclass(frozen=True)
class Answer:
    """A whole answer; `ttft_s` is None if there was no token."""

    text: str
    finish_reason: str | None
    usage: Any
    ttft_s: float | None


async def _show(settings: "Settings", ask: Any, *, quiet: bool) -> Answer:
    """Stream an answer to standard output (unless `quiet`), with notes on a cold start while it lasts."""
    from firsttoken.reached import frontend_of
    from firsttoken.terminal import Waiting

    texts: list[str] = []
    finish_reason, usage, ttft_s = None, None, None
    started_s = time.monotonic()
    with Waiting(stderr()) as waiting:
        async with frontend_of(settings, settings.frontend.request_timeout_s) as frontend:
            async for piece in ask(frontend):
                if piece.note:
                    waiting.note(piece.note)
                if piece.text:
                    ttft_s = ttft_s or time.monotonic() - started_s
                    waiting.over()
                    texts.append(piece.text)
                    if not quiet:
                        typer.echo(piece.text, nl=False)
                finish_reason = piece.finish_reason or finish_reason
                usage = piece.usage or usage
    if not quiet:
        typer.echo()
    return Answer("".join(texts), finish_reason, usage, ttft_s)
