"""The demo, act by act: one node, a pipeline, the pipeline becoming one replica in the middle of an answer, warm."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, RenderableType

from firsttoken.demo.counting import PROMPT, count
from firsttoken.demo.ground import demo_settings, empty, leave_alone, measured, take_back
from firsttoken.demo.listening import Heard, listen
from firsttoken.demo.model import MODEL, published
from firsttoken.errors import DemoBroken
from firsttoken.frontend import ColdStart, Frontend, Sampling
from firsttoken.home import urls
from firsttoken.local import Platform, platform
from firsttoken.operator_key import operator_key
from firsttoken.settings import Settings
from firsttoken.terminal import Steps, ledger_table, seconds_since, url_table
from firsttoken.views.demo import comparison, expected_table, introduction, pause_table
from firsttoken.views.explanation import start_table
from firsttoken.views.moves import move_table
from firsttoken.views.tables import node_names
from storage_tiers.checkpoint import Checkpoint

QUESTION = "What is the capital of France? Answer in one sentence."
_SAMPLING = Sampling(max_tokens=48, temperature=0.0)


def run_demo(settings: Settings, console: Console) -> None:
    """Publish, start, show, stop. Raises as soon as any of it fails; KeyboardInterrupt if a signal ended it, when all has
    stopped."""
    started_s = time.monotonic()
    checkpoint = published(settings, console)  # not within the loop, which would keep a Ctrl-C until this is done
    shown = asyncio.run(_run(demo_settings(settings), console, checkpoint))
    if not shown:
        console.print(f"\nAll stopped, after {seconds_since(started_s)} and before the demo's end.", highlight=False)
        raise KeyboardInterrupt
    console.print(f"\nAll stopped. The demo took {seconds_since(started_s)}.", highlight=False)


async def _run(settings: Settings, console: Console, checkpoint: Checkpoint) -> bool:
    """Whether it came to its end."""
    with Steps(console) as steps:
        async with platform(settings, steps, move_ports=True) as running:
            return bool(await running.during(_show(running, console, steps, checkpoint)))


async def _show(running: Platform, console: Console, steps: Steps, checkpoint: Checkpoint) -> bool:
    settings = running.settings
    await running.ready()
    steps.settle()
    key = operator_key(settings)
    async with Frontend(settings.frontend_url, settings.frontend.request_timeout_s, key) as frontend:
        show = _Show(frontend, settings, console, checkpoint)
        await show.begin()
        alone, one = await show.on_one_node()
        together, many = await show.as_a_pipeline()
        show.compare({"one node": one, f"{len(many.nodes)} nodes": many}, alone.text == together.text)
        if len(many.nodes) > 1:
            await show.become_one()
        await show.warm()
        await show.explain()
    return True


class _Show:
    """What the acts have in common."""

    def __init__(self, frontend: Frontend, settings: Settings, console: Console, checkpoint: Checkpoint) -> None:
        self._frontend, self._settings = frontend, settings
        self._console, self._checkpoint = console, checkpoint
        self._acts = 0

    async def begin(self) -> None:
        """What is here, and by what it is held up."""
        self._print("", url_table(urls(self._settings)), "", introduction(self._checkpoint, self._settings))
        await measured(self._frontend)

    async def on_one_node(self) -> tuple[Heard, ColdStart]:
        """A cold start as it is without us: whoever serves the model fetches all of it."""
        drained = await leave_alone(self._frontend, self._settings)
        await empty(self._settings, self._frontend, self._checkpoint)
        self._act("Cold, on one node", f"Drained: {node_names(drained)}. Nobody has a byte of the model.")
        heard, start = await self._cold()
        await take_back(self._frontend, drained)
        return heard, start

    async def as_a_pipeline(self) -> tuple[Heard, ColdStart]:
        """The same where the planner wants it."""
        await empty(self._settings, self._frontend, self._checkpoint)
        self._act("Cold, as the planner wants it", "All nodes are there again, and nobody has a byte of the model:")
        explained = await self._frontend.explain(MODEL, 1)
        self._print("", expected_table(explained["now"]), "")
        return await self._cold()

    def compare(self, starts: Mapping[str, ColdStart], same: bool) -> None:
        """Both side by side."""
        self._print("", comparison(starts, same))
        if not same:
            raise DemoBroken("the pipeline's answer is not that of the one node")

    async def become_one(self) -> None:
        """Requests go on elsewhere while they are answered."""
        self._act(
            "The pipeline becomes one replica in the middle of an answer",
            "By itself it does so once that pays; here it is ordered, as by "
            f"`firsttoken consolidate {MODEL}`, while the model counts on:",
        )
        self._question(PROMPT)
        counted = await count(self._frontend, self._console)
        self._print("", move_table(counted.move), pause_table(counted))
        if not counted.unbroken:
            raise DemoBroken(f"the numbers do not follow one another: {counted.heard.text}")

    async def warm(self) -> None:
        """The first question again."""
        self._act("Warm", "The same replica is asked what the others were.")
        await self._ask(None)

    async def explain(self) -> None:
        """What was predicted, and where the time went."""
        starts = await self._frontend.cold_starts(MODEL, limit=2)
        self._act("What was predicted, and where the time went", f"As by `firsttoken explain {MODEL}`:")
        self._print(start_table(starts))
        for start in reversed(starts):
            self._print("", ledger_table(start))

    async def _cold(self) -> tuple[Heard, ColdStart]:
        chosen = _chosen(await self._frontend.explain(MODEL, 1))
        heard = await self._ask(chosen["prediction"]["ttft_s"] if chosen and chosen["prediction"] else None)
        (start,) = await self._frontend.cold_starts(MODEL, limit=1)
        return heard, start

    async def _ask(self, expected_s: float | None) -> Heard:
        self._question(QUESTION)
        pieces = self._frontend.chat(MODEL, [{"role": "user", "content": QUESTION}], _SAMPLING)
        heard = await listen(pieces, self._console, expected_s)
        self._console.print(f"first token after {heard.ttft_s:.2f} s", style="bold", highlight=False)
        return heard

    def _act(self, title: str, circumstances: str) -> None:
        self._acts += 1
        self._console.print(f"\n{self._acts}. {title}", style="bold cyan", highlight=False)
        self._console.print(circumstances, style="dim", highlight=False)

    def _question(self, text: str) -> None:
        self._console.print(f"> {text}", markup=False, highlight=False)

    def _print(self, *parts: RenderableType) -> None:
        for part in parts:
            self._console.print(part, highlight=False)


def _chosen(explained: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((each for each in explained["now"]["candidates"] if each["chosen"]), None)
