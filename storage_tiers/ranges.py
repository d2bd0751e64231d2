"""A faster door to ranges of objects than fsspec's, for the stores that have one: obstore, for S3.

Both doors read the same objects with the same options; which one is used is the setting store.reader.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from storage_tiers.errors import StorageError

CONNECT_TIMEOUT, REQUEST_TIMEOUT = timedelta(seconds=5), timedelta(seconds=60)
SILENCE_TIMEOUT = timedelta(seconds=10)
"""A server that sends nothing for so long is given up on; one that is slow may take REQUEST_TIMEOUT."""
READERS = ("auto", "fsspec", "obstore")
RangeReader = Callable[[str, int, int], memoryview]
"""(object's path as fsspec gives it, start, end) -> its bytes, fewer if it ends before. FileNotFoundError,
PermissionError or another OSError if they cannot be had."""


def open_range_reader(url: str, options: Mapping[str, Any], reader: str) -> RangeReader | None:
    """The faster door for `url`, None if fsspec's shall do. StorageError if `reader` asks for one that there is not."""
    if reader not in READERS:
        raise StorageError(f"store.reader {reader!r} is none of {', '.join(READERS)}")
    if reader == "fsspec":
        return None
    if not url.startswith(("s3://", "s3a://")):
        if reader == "obstore":
            raise StorageError(f"store.reader 'obstore' reads s3:// only, not {url}")
        return None
    known = {"key", "secret", "token", "endpoint_url", "anon", "client_kwargs"}
    if unknown := set(options) - known:
        if reader == "obstore":
            raise StorageError(f"store.reader 'obstore' does not know the options {', '.join(sorted(unknown))}")
        return None
    return _open_s3(url.split("://", 1)[1].split("/", 1)[0], options)


def _open_s3(bucket: str, options: Mapping[str, Any]) -> RangeReader:
    import obstore
    from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
    from obstore.store import S3Store

    client_kwargs = options.get("client_kwargs") or {}
    endpoint = options.get("endpoint_url") or client_kwargs.get("endpoint_url")
    config = {
        "access_key_id": options.get("key"),
        "secret_access_key": options.get("secret"),
        "session_token": options.get("token"),
        "endpoint": endpoint,
        "region": client_kwargs.get("region_name") or ("us-east-1" if endpoint else None),
        "skip_signature": options.get("anon") or None,
    }
    given: dict[str, Any] = {name: value for name, value in config.items() if value is not None}
    plain = bool(endpoint and endpoint.startswith("http://"))
    store = S3Store(
        bucket,
        client_options={
            "allow_http": plain,
            "connect_timeout": CONNECT_TIMEOUT,
            "read_timeout": SILENCE_TIMEOUT,
            "timeout": REQUEST_TIMEOUT,
        },
        retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=10)},  # the transfer tries again itself
        virtual_hosted_style_request=False,
        **given,
    )

    def read(path: str, start: int, end: int) -> memoryview:
        key = path.split("/", 1)[1]
        try:
            return memoryview(obstore.get_range(store, key, start=start, end=end))
        except (FileNotFoundError, NotFoundError) as error:
            raise FileNotFoundError(path) from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise PermissionError(_in_short(error)) from error
        except BaseError as error:
            raise OSError(_in_short(error)) from error

    return read


def _in_short(error: Exception) -> str:
    """What obstore says, without the dump of its own state that it appends."""
    return str(error).partition("\n")[0]
