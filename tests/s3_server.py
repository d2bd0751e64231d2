"""A real S3 server on loopback, in a process of its own; its buckets are folders."""

import contextlib
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_START_DEADLINE_S = 60.0
_LISTENING = re.compile(r"running on (http://[0-9.]+:\d+)")


@dataclass(frozen=True)
class S3Server:
    """Where the server listens, and whom it lets in."""

    endpoint_url: str
    key: str
    secret: str
    folder: Path

    @property
    def options(self) -> dict[str, Any]:
        """What ObjectStore passes to s3fs."""
        return {"key": self.key, "secret": self.secret, "endpoint_url": self.endpoint_url}

    def bucket(self, name: str) -> str:
        """Make the bucket and return its URL."""
        (self.folder / name).mkdir(exist_ok=True)
        return f"s3://{name}"


@contextlib.contextmanager
def run_s3_server(folder: Path) -> Iterator[S3Server]:
    """Serve the folders in `folder` as buckets until the block ends. TimeoutError if the server does not start."""
    key, secret = "test-key", "test-secret"
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--factory",
        "nanio.app:build_app",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    ]
    process = subprocess.Popen(
        [*command, "--no-access-log"],
        env=os.environ | {"NANIO_DATA_DIR": str(folder), "NANIO_ACCESS_KEY": key, "NANIO_SECRET_KEY": secret},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    found: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_watch, args=(process.stderr, found), daemon=True)
    reader.start()
    try:
        try:
            endpoint = found.get(timeout=_START_DEADLINE_S)
        except queue.Empty:
            endpoint = None
        if endpoint is None:
            raise TimeoutError("the S3 server did not start")
        yield S3Server(endpoint, key, secret, folder)
    finally:
        process.terminate()
        process.wait(timeout=30)
        reader.join(timeout=30)
        process.stderr.close()


def _watch(log: IO[str], found: "queue.Queue[str | None]") -> None:
    """Report the address once, keep the pipe empty, report None at its end."""
    for line in log:
        if match := _LISTENING.search(line):
            found.put(match[1])
    found.put(None)
