"""A new home's Prefect begins with tables that are made; one that has any is left as it is."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from firsttoken.prefect_database import begin_with


def test_a_home_without_a_database_gets_a_copy(tmp_path: Path) -> None:
    template, home = tmp_path / "template.db", tmp_path / "home"
    home.mkdir()
    begin_with(template, home)
    assert list(home.iterdir()) == []
    template.write_bytes(b"tables")
    begin_with(template, home)
    assert {file.name: file.read_bytes() for file in home.iterdir()} == {"prefect.db": b"tables"}
    (home / "prefect.db").write_bytes(b"of its own")
    begin_with(template, home)
    assert (home / "prefect.db").read_bytes() == b"of its own"


def test_a_log_of_a_database_that_was_removed_is_not_put_beside_another(tmp_path: Path) -> None:
    """SQLite would write what stands in it into the new one."""
    template, home = tmp_path / "template.db", tmp_path / "home"
    template.write_bytes(b"tables")
    home.mkdir()
    (home / "prefect.db-wal").touch()
    begin_with(template, home)
    assert not (home / "prefect.db").exists()


def test_what_is_made_needs_no_migration(tmp_path: Path) -> None:
    """By Prefect itself, which does none when it is told to make it again."""
    template = tmp_path / "share" / "template.db"
    subprocess.run([sys.executable, "-m", "firsttoken.prefect_database", str(template)], check=True, timeout=200)
    look = (
        "from alembic.script import ScriptDirectory; from prefect.server.database.alembic_commands import alembic_config; "
        "print(ScriptDirectory.from_config(alembic_config()).get_current_head())"
    )
    command, environment = [sys.executable, "-c", look], {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect")}
    looked = subprocess.run(command, env=environment, check=True, timeout=100, capture_output=True, text=True)
    with closing(sqlite3.connect(template)) as database:
        assert database.execute("select version_num from alembic_version").fetchall() == [(looked.stdout.strip(),)]
    assert [file.name for file in template.parent.iterdir()] == ["template.db"]
