"""A folder over HTTP that can keep units to itself: an embedding's, of which it gives out a few bytes, or another whole."""

import contextlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 20
"""Whoever asks for more of an embedding at once wants the unit, not rows."""
_DEADLINE_S = 100.0


class WithholdingStore:
    """What is below `url`/withheld gives no embedding's unit until `release`, and no rows while `refuse_rows`; below
    `url`/open is the same without that. With `unit` it is that unit of which it gives nothing."""

    def __init__(self, folder: Path, unit: str | None = None) -> None:
        self.folder, self.unit, self.url = folder, unit, ""
        self.refuse_rows = False
        self.rows_read = self.units_asked = 0
        self._released = threading.Event()

    def withhold(self) -> None:
        """From now on."""
        self._released.clear()

    def release(self) -> None:
        """Let go of all that was withheld, and withhold nothing more."""
        self._released.set()

    def find(self, path: str, size_bytes: int) -> Path | None:
        """The file for a request, when it may be answered; None if it is refused."""
        kind, _, key = path.strip("/").partition("/")
        if kind == "withheld" and self.unit is not None:
            if key.endswith(f"/{self.unit}/c/0") and not self._released.wait(_DEADLINE_S):
                return None
        elif kind == "withheld" and key.endswith("/embed/c/0"):
            if size_bytes <= MOST_BYTES:
                self.rows_read += 1
                if self.refuse_rows:
                    return None
            else:
                self.units_asked += 1
                if not self._released.wait(_DEADLINE_S):
                    return None
        found = self.folder / key
        return found if found.is_file() else None


class _Handler(BaseHTTPRequestHandler):
    store: WithholdingStore

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = (int(asked[1]), int(asked[2]) + 1) if asked else (0, 0)
        path = self.store.find(self.path, end - start)
        data = b""
        if path is not None:
            with open(path, "rb") as file:
                file.seek(start)
                data = file.read(end - start if asked else -1)
        self.send_response(404 if path is None else 206 if asked else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # a node that was ended does not wait for its answer
            self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def run_withholding_store(folder: Path, unit: str | None = None) -> Iterator[WithholdingStore]:
    """Serve until the block ends."""
    store = WithholdingStore(folder, unit)
    handler = type("Handler", (_Handler,), {"store": store})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        store.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield store
        finally:
            store.release()
            server.shutdown()
            thread.join(timeout=30)
