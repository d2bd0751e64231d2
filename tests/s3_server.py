"""A real S3 server on loopback, in a process of its own; its buckets are folders."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bucket_server import serve_buckets


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
    with serve_buckets(folder) as options:
        yield S3Server(options["endpoint_url"], options["key"], options["secret"], folder)
