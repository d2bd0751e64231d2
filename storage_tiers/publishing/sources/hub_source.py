"""A repository on the Hugging Face hub as a folder: pinned to one commit, read by ranges, nothing cached on this machine.

Endpoint, token and proxies are huggingface_hub's own (HF_ENDPOINT, HF_TOKEN, `hf auth login`), and so are its retries.
"""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from storage_tiers.errors import SourceError, StorageError, StoreUnavailable
from storage_tiers.object_store import ObjectFact
from storage_tiers.publishing.sources.folders import REMOTE_PIECE_BYTES, downloaded

_T = TypeVar("_T")
_TIMEOUT_S = 60.0
_RETRIES = 4


class HubFolder:
    """The files at the top of a model repository, at the commit that `revision` (a branch, tag or commit) names at first."""

    is_local = False
    piece_bytes = REMOTE_PIECE_BYTES

    def __init__(self, repository: str, revision: str | None) -> None:
        self._repository, self._revision = repository, revision
        self._under = ""

    @property
    def where(self) -> str:
        revision = f"@{self._revision}" if self._revision else ""
        return f"hf://{self._repository}{revision}/{self._under}".rstrip("/")

    def files(self) -> Mapping[str, ObjectFact]:
        below = {name.removeprefix(self._under): fact for name, fact in self._listing[1].items() if self._has(name)}
        return {name: fact for name, fact in below.items() if "/" not in name}

    def below(self, name: str) -> "HubFolder":
        _ = self._listing  # of the same commit
        found = copy.copy(self)
        found._under = f"{self._under}{name}/"
        return found

    def read(self, name: str) -> bytes:
        buffer = bytearray(self._fact(name).size_bytes)
        self.read_into(name, 0, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, name: str, offset_bytes: int, view: memoryview) -> None:
        if offset_bytes + len(view) > self._fact(name).size_bytes:
            raise SourceError(f"{self.where}/{name} ends before {offset_bytes + len(view)} bytes")
        if len(view):
            data = self._ask(lambda: self._get_range(name, offset_bytes, len(view)))
            if len(data) != len(view):
                raise StoreUnavailable(f"{self.where}/{name}: {len(data)} bytes came where {len(view)} were asked for")
            view[:] = data

    def url(self, name: str) -> str:
        raise SourceError(f"{self.where} is not in place for nodes to read; publish a copy")

    def local(self, names: Sequence[str]) -> AbstractContextManager[Path]:
        return downloaded(self, names)

    @functools.cached_property
    def _listing(self) -> tuple[str, Mapping[str, ObjectFact]]:
        """The commit, and its files; those of one commit never change."""
        from huggingface_hub import HfApi

        info = self._ask(
            lambda: HfApi().model_info(
                self._repository, revision=self._revision, files_metadata=True, timeout=_TIMEOUT_S
            )
        )
        siblings: list[Any] = info.siblings or []
        facts = {s.rfilename: ObjectFact(s.size or 0, str(s.blob_id), None) for s in siblings}
        if not info.sha:
            raise SourceError(f"the hub names no commit for {self.where}")
        return info.sha, facts

    def _has(self, name: str) -> bool:
        return name.startswith(self._under)

    def _fact(self, name: str) -> ObjectFact:
        facts = self.files()
        if name not in facts:
            raise SourceError(f"cannot read {self.where}/{name}: it is not there")
        return facts[name]

    def _get_range(self, name: str, offset_bytes: int, size_bytes: int) -> bytes:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

        end = offset_bytes + size_bytes - 1
        response = http_backoff(
            "GET",
            hf_hub_url(self._repository, self._under + name, revision=self._listing[0]),
            headers={**build_hf_headers(), "Range": f"bytes={offset_bytes}-{end}"},
            timeout=_TIMEOUT_S,
            max_retries=_RETRIES,
            follow_redirects=True,
        )
        hf_raise_for_status(response)
        data: bytes = response.content
        if response.status_code == 200 and len(data) > size_bytes:  # a server that does not know ranges
            return data[offset_bytes : end + 1]
        return data

    def _ask(self, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except StorageError:
            raise
        except Exception as error:  # the client below raises types of its own; they leave here under ours
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> StorageError:
        from huggingface_hub import constants, errors

        if isinstance(error, errors.OfflineModeIsEnabled):
            return SourceError(f"{self.where} is on the hub, and HF_HUB_OFFLINE is set; unset it or give a local path")
        if isinstance(error, errors.GatedRepoError):
            return SourceError(
                f"{self.where} is gated: ask for access on the hub, then log in (`hf auth login`) or set HF_TOKEN"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return SourceError(f"{self._repository} has no revision {self._revision!r} on the hub")
        if isinstance(error, errors.RepositoryNotFoundError):
            return SourceError(
                f"{self._repository} is neither a path here nor a model on the hub ({constants.ENDPOINT}); "
                "if it is private, log in (`hf auth login`) or set HF_TOKEN"
            )
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            return SourceError(f"the hub refuses {self.where} (HTTP {status}); check HF_TOKEN and its permissions")
        said = f"HTTP {status}" if status else f"{type(error).__name__}: {error}"
        return StoreUnavailable(
            f"{self.where} cannot be read from the hub at {constants.ENDPOINT} ({said}); "
            "if you meant a local path, it does not exist"
        )
