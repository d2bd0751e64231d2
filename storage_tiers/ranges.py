"""A faster door to ranges of objects than fsspec's, for the stores that have one: S3, straight into memory.

Both doors read the same objects with the same options; which one is used is the setting store.reader.
"""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from storage_tiers.errors import StorageError

READERS = ("auto", "fsspec", "direct")
RangeReader = Callable[[str, int, memoryview], int]
"""(object's path as fsspec gives it, offset, where its bytes go) -> how many came, fewer if the object ends before.
FileNotFoundError, PermissionError or another OSError if they cannot be had."""
_OPTIONS = {"key", "secret", "token", "endpoint_url", "anon", "client_kwargs"}
_CLIENT_OPTIONS = {"endpoint_url", "region_name", "verify"}


def open_range_reader(url: str, options: Mapping[str, Any], reader: str) -> RangeReader | None:
    """The faster door for `url`, None if fsspec's shall do. StorageError if `reader` asks for one that there is not."""
    if reader not in READERS:
        raise StorageError(f"store.reader {reader!r} is none of {', '.join(READERS)}")
    if reader == "fsspec":
        return None
    if not url.startswith(("s3://", "s3a://")):
        if reader == "direct":
            raise StorageError(f"store.reader 'direct' reads s3:// only, not {url}")
        return None
    unknown = set(options) - _OPTIONS | set(options.get("client_kwargs") or {}) - _CLIENT_OPTIONS
    if unknown:
        if reader == "direct":
            raise StorageError(f"store.reader 'direct' does not know the options {', '.join(sorted(unknown))}")
        return None
    from storage_tiers.s3 import S3Ranges, behind_proxy

    client = options.get("client_kwargs") or {}
    endpoint = options.get("endpoint_url") or client.get("endpoint_url") or "https://s3.amazonaws.com"
    if reader == "auto" and behind_proxy(urlsplit(endpoint)):
        return None
    return S3Ranges(url.split("://", 1)[1].split("/", 1)[0], options)
