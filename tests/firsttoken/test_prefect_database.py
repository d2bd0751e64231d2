"""A new home's Prefect begins with tables that are made; one that has any is left as it is."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import distribution
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
    template = tmp_path / "share" / "template.db"
    subprocess.run([sys.executable, "-m", "firsttoken.prefect_database", str(template)], check=True, timeout=200)
    with closing(sqlite3.connect(template)) as database:
        ((revision,),) = database.execute("select version_num from alembic_version")
        database.execute("select count(*) from flow_run")
    migrations = distribution("prefect").locate_file("prefect/server/database/_migrations/versions/sqlite")
    steps = [file.read_text() for file in Path(str(migrations)).glob("*.py")]
    assert sum(f'revision = "{revision}"' in step for step in steps) == 1
    assert not [step for step in steps if f'down_revision = "{revision}"' in step], "it is the last one"
    assert [file.name for file in template.parent.iterdir()] == ["template.db"]
