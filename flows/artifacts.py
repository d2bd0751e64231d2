"""What flows leave in Prefect's UI for a person to read."""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import httpx
from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.exceptions import PrefectException

Row = Mapping[str, str | int | float]
Show = Callable[[float, str], object]
"""Told how far things are, from 0 to 1, and that in words."""
_TELLS_EVERY_S = 2.0

_log = logging.getLogger(__name__)


def artifact_key(flow: str, subject: str) -> str:
    """The key of a flow's artifact about `subject`, in the letters that Prefect allows: a-z, 0-9 and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", f"{flow}-{subject}".lower()).strip("-")


async def leave_table(flow: str, subject: str, rows: Sequence[Row], description: str) -> None:
    """Leave `rows` as this run's table about `subject`; a later run's table replaces it as the latest."""
    await acreate_table_artifact([dict(row) for row in rows], key=artifact_key(flow, subject), description=description)


async def leave_page(flow: str, subject: str, markdown: str, description: str) -> None:
    """As leave_table, for a page of text."""
    await acreate_markdown_artifact(markdown, key=artifact_key(flow, subject), description=description)


@contextlib.asynccontextmanager
async def bar(flow: str, subject: str) -> AsyncIterator[Show]:
    """A bar in Prefect's UI, about `subject`, that is as far as was told last. It stays behind what it is about where
    Prefect's server is slow or away, and nothing else does."""
    far = _Far()
    artifact = await acreate_progress_artifact(0.0, key=artifact_key(flow, subject))
    telling = asyncio.create_task(_keep_telling(artifact, far))
    try:
        yield far.show
    finally:
        telling.cancel()
        await asyncio.wait({telling})
        await _tell(artifact, far)


@dataclass
class _Far:
    share: float = 0.0
    words: str = ""
    changed: bool = False

    def show(self, share: float, words: str) -> None:
        self.share, self.words, self.changed = share, words, True


async def _keep_telling(artifact: UUID, far: _Far) -> None:
    while True:
        await asyncio.sleep(_TELLS_EVERY_S)
        if far.changed:
            await _tell(artifact, far)


async def _tell(artifact: UUID, far: _Far) -> None:
    far.changed = False
    try:
        await aupdate_progress_artifact(artifact, 100.0 * far.share, far.words)
    except (PrefectException, httpx.HTTPError) as error:
        _log.warning("Prefect does not show how far it is: %r", error)
