"""An S3 server in a process of its own, on any address, also in a network namespace; its buckets are folders."""

import contextlib
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from benchmarks.needs import need

_START_S, _STOP_S = 60.0, 30.0
_LISTENING = re.compile(r"running on (http://[0-9.]+:\d+)")
_KEY, _SECRET = "bench-key", "bench-secret"


@contextlib.contextmanager
def serve_buckets(folder: Path, host: str = "127.0.0.1", prefix: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Serve until the block ends; gives what s3fs takes as options. `prefix` goes before the command.

    Absent if the server is not installed, TimeoutError if it does not start.
    """
    need("nanio", "dev")
    command = [*prefix, sys.executable, "-m", "uvicorn", "--factory", "nanio.app:build_app"]
    process = subprocess.Popen(
        [*command, "--host", host, "--port", "0", "--no-access-log"],
        env=os.environ | {"NANIO_DATA_DIR": str(folder), "NANIO_ACCESS_KEY": _KEY, "NANIO_SECRET_KEY": _SECRET},
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
            endpoint = found.get(timeout=_START_S)
        except queue.Empty:
            endpoint = None
        if endpoint is None:
            raise TimeoutError("the S3 server did not start")
        yield {"key": _KEY, "secret": _SECRET, "endpoint_url": endpoint}
    finally:
        process.terminate()
        process.wait(_STOP_S)
        reader.join(_STOP_S)
        process.stderr.close()


def _watch(log: IO[str], found: "queue.Queue[str | None]") -> None:
    """Report the address once, keep the pipe empty, report None at its end."""
    for line in log:
        if match := _LISTENING.search(line):
            found.put(match[1])
    found.put(None)
