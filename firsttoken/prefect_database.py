"""What a new home's Prefect server begins with: a database made when firsttoken was installed, if there is one.

Prefect makes its tables by a long row of migrations, which takes seconds. It looks all the same whether there are more to do,
and does them. Run as ``python -m firsttoken.prefect_database [PATH]`` this makes what new homes begin with.
"""

import asyncio
import os
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

_NAME = "prefect.db"


def template() -> Path:
    """Where it lies if there is one: in the environment that this Python runs in, for the Prefect that is installed there."""
    return Path(sys.prefix) / "share" / "firsttoken" / f"prefect-{version('prefect')}.db"


def begin_with(template: Path, folder: Path) -> None:
    """Put a copy of `template`, if it is there, into Prefect's `folder`, if nothing of a database is there."""
    if not template.exists() or any(folder.glob(f"{_NAME}*")):
        return
    partial = folder / f".{_NAME}"
    shutil.copyfile(template, partial)
    os.replace(partial, folder / _NAME)


def make(template: Path) -> None:
    """By Prefect, which must not have been imported yet."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / _NAME
        os.environ |= {
            "PREFECT_HOME": folder,
            "PREFECT_PROFILE": "ephemeral",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{made}",
        }
        asyncio.run(_migrate())
        template.parent.mkdir(parents=True, exist_ok=True)
        partial = template.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        with closing(sqlite3.connect(made)) as source, closing(sqlite3.connect(partial)) as copy:
            source.backup(copy)
        os.replace(partial, template)


async def _migrate() -> None:
    from prefect.server.database import provide_database_interface

    database = provide_database_interface()
    await database.create_db()
    await (await database.engine()).dispose()


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else template())
