"""What flows leave in Prefect's UI for a person to read."""

import re
from collections.abc import Mapping, Sequence

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact

Row = Mapping[str, str | int | float]


def artifact_key(flow: str, subject: str) -> str:
    """The key of a flow's artifact about `subject`, in the letters that Prefect allows: a-z, 0-9 and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", f"{flow}-{subject}".lower()).strip("-")


async def leave_table(flow: str, subject: str, rows: Sequence[Row], description: str) -> None:
    """Leave `rows` as this run's table about `subject`; a later run's table replaces it as the latest."""
    await acreate_table_artifact([dict(row) for row in rows], key=artifact_key(flow, subject), description=description)


async def leave_page(flow: str, subject: str, markdown: str, description: str) -> None:
    """As leave_table, for a page of text."""
    await acreate_markdown_artifact(markdown, key=artifact_key(flow, subject), description=description)
