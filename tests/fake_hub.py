"""A hub on loopback that serves folders as model repositories, the way the real one answers its clients."""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_INFO = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?")
_RESOLVE = re.compile(r"(?P<cdn>/cdn)?/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass
class FakeHub:
    """Folders in `folder`/org/name are repositories. Large files are redirected to another path, as to a CDN."""

    folder: Path
    url: str = ""
    token: str = "hf_test"
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    failures_left: int = 0
    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    largest_answer_bytes: int = 0

    def commit(self, repository: str) -> str:
        """The commit that main names: it changes with the files."""
        stats = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted((self.folder / repository).iterdir())]
        return hashlib.sha1(repr(stats).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.hub.failures_left and "/resolve/" in path:
            self.hub.failures_left -= 1
            self._answer(503)
        elif match := _INFO.fullmatch(path):
            self._info(match["repo"], match["revision"] or "main")
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(match["repo"], match["revision"], match["file"], cdn=bool(match["cdn"]))
        else:
            self._answer(404)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def _allowed(self, repo: str, revision: str) -> bool:
        authorised = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if not (self.hub.folder / repo).is_dir() or (repo in self.hub.private and not authorised):
            self._answer(401, error="RepoNotFound")
        elif revision not in ("main", "v1", self.hub.commit(repo)):
            self._answer(404, error="RevisionNotFound")
        else:
            return True
        return False

    def _info(self, repo: str, revision: str) -> None:
        if self._allowed(repo, revision):
            top = self.hub.folder / repo
            siblings = [
                {
                    "rfilename": str(path.relative_to(top)),
                    "size": path.stat().st_size,
                    "blobId": f"{path.stat().st_mtime_ns:x}",
                }
                for path in sorted(top.rglob("*"))
                if path.is_file()
            ]
            siblings.append({"rfilename": "original/consolidated.00.pth", "size": 7, "blobId": "0"})
            body = {"id": repo, "sha": self.hub.commit(repo), "siblings": siblings}
            self._answer(200, json.dumps(body).encode())

    def _resolve(self, repo: str, revision: str, file: str, *, cdn: bool) -> None:
        if not cdn and not self._allowed(repo, revision):
            return
        if not cdn and repo in self.hub.gated:
            self._answer(403, error="GatedRepo")
            return
        path = self.hub.folder / repo / file
        if not path.is_file():
            self._answer(404, error="EntryNotFound")
        elif file.endswith((".safetensors", ".gguf", ".bin")) and not cdn:
            self._answer(302, location=f"{self.hub.url}/cdn/{repo}/resolve/{revision}/{file}")
        else:
            self._send(path)

    def _send(self, path: Path) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        size = path.stat().st_size
        start, end = (int(asked[1]), min(int(asked[2]), size - 1)) if asked else (0, size - 1)
        with open(path, "rb") as opened:
            opened.seek(start)
            data = opened.read(end - start + 1)
        self.hub.ranges.append((path.name, start, end))
        self.hub.largest_answer_bytes = max(self.hub.largest_answer_bytes, len(data))
        self._answer(206 if asked else 200, data)

    def _answer(self, status: int, body: bytes = b"", error: str = "", location: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if error:
            self.send_header("X-Error-Code", error)
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def run_fake_hub(folder: Path) -> Iterator[FakeHub]:
    """Serve until the block ends."""
    hub = FakeHub(folder)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = False  # closing waits for them
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join(timeout=30)
