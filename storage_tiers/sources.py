"""What can be published: the contract of a source, and the choice of one by looking at what names it."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from storage_tiers.checkpoint import TensorSpec
from storage_tiers.errors import SourceError
from storage_tiers.families import Skeleton
from storage_tiers.folders import Folder, LocalFolder, RemoteFolder
from storage_tiers.remote import ObjectFact, ObjectStore

READ_BYTES = 1 << 20
HUB = "hf://"
_WEIGHTS = re.compile(r"\.(safetensors|bin|gguf)(\.index(\.[^.]+)?\.json)?$")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(@[^/]+)?")


@dataclass(frozen=True)
class Stretch:
    """Bytes of a file that every node can read."""

    url: str
    offset_bytes: int
    size_bytes: int


class Source(Protocol):
    """A model somewhere else, read tensor by tensor. Every failure is a StorageError that says what to do.

    Tensors go by the names that transformers' modules give them, whatever the files call them. `read` may be called from
    several threads at once.
    """

    @property
    def where(self) -> str:
        """What a person calls it."""

    @property
    def default_dtype(self) -> str | None:
        """The type that floating tensors are published in unless told otherwise; None for the one they have."""

    @property
    def workers_at_most(self) -> int | None:
        """How many threads may read at once without needing more memory or room than one; None if that does not matter."""

    def parts(self) -> Mapping[str, ObjectFact]:
        """The files it consists of, as they are now. It is the same source as long as names, sizes and tags are."""

    def config(self) -> dict[str, Any]:
        """The Hugging Face configuration."""

    def generation_config(self) -> dict[str, Any]:
        """The Hugging Face generation configuration, empty if there is none."""

    def tensor_count(self) -> int:
        """How many tensors its files hold: no model has more layers."""

    def tensors(self, skeleton: Skeleton) -> Mapping[str, TensorSpec]:
        """All weights, with the type they are stored in. Must be called before `read`."""

    def read(self, name: str, dtype: str) -> Iterator[memoryview]:
        """The tensor's bytes in type `dtype`, in order, in pieces of a few MiB at most, each good until the next."""

    def stretches(self, name: str) -> tuple[Stretch, ...]:
        """Where the tensor's bytes lie as they are, in order. SourceError if they are made on the way."""

    def files(self, config: Mapping[str, Any]) -> Mapping[str, bytes]:
        """The tokenizer's files, by name; empty if there is none. With `config`, which is the model's, they make the tokens
        that transformers makes at the source."""

    def close(self) -> None:
        """Let go of whatever is held."""


def open_source(where: str, store: ObjectStore) -> Source:
    """The source that `where` names; looks at names only. SourceError if nothing there can be published.

    A path on this machine, ``hf://org/name@revision`` or just ``org/name`` (unless there is such a path), or an fsspec URL;
    each a Hugging Face folder, a folder that holds exactly one GGUF file, or one file in a folder: a GGUF file, or of a
    Hugging Face folder that holds several sets of weights the file, or the index, of the one that is meant. Behind the
    store's own kind of URL it is reached as the store is; other kinds find their options where fsspec looks for them.
    """
    if where.startswith(HUB):
        return _open_hub(where.removeprefix(HUB))
    if "://" in where and not where.startswith("file://"):
        return _open_url(where, store)
    path = Path(where.removeprefix("file://")).expanduser()
    if path.is_file():
        return _named(LocalFolder(path.parent), path.name)
    if path.is_dir():
        return _choose(LocalFolder(path))
    if _REPOSITORY.fullmatch(where):
        return _open_hub(where)
    raise SourceError(f"{where} does not exist")


def _open_hub(where: str) -> Source:
    from storage_tiers.hub_source import HubFolder

    organisation, _, rest = where.partition("/")
    repository, _, file = rest.partition("/")
    repository, _, revision = f"{organisation}/{repository}".partition("@")
    if not _REPOSITORY.fullmatch(repository) or (file and not _WEIGHTS.search(file)) or "/" in file:
        raise SourceError(
            f"{HUB}{where} does not name a model; write {HUB}org/name@revision, or a .gguf file or a file of weights below it"
        )
    folder = HubFolder(repository, revision or None)
    return _named(folder, file) if file else _choose(folder)


def _open_url(where: str, store: ObjectStore) -> Source:
    folder, _, file = where.rstrip("/").rpartition("/")
    named = _WEIGHTS.search(file) is not None
    same = where.partition("://")[0] == store.protocol
    url = folder if named else where.rstrip("/")
    objects = ObjectStore(url, store.options if same else None, store.reader if same else "auto")
    return _named(RemoteFolder(objects), file) if named else _choose(RemoteFolder(objects))


def _named(folder: Folder, file: str) -> Source:
    """The source that takes its weights from one file, or from those that it joins."""
    match = _WEIGHTS.search(file)
    if match is None:
        raise SourceError(
            f"{folder.where}/{file} cannot be published by itself; give a folder, a .gguf file, or the file of weights that "
            "is meant in a folder"
        )
    return _of_kind(match[1], folder, file)


def _of_kind(kind: str, folder: Folder, file: str | None) -> Source:
    if kind == "safetensors":
        from storage_tiers.safetensors_source import SafetensorsSource

        return SafetensorsSource(folder, file)
    if kind == "bin":
        from storage_tiers.torch_source import TorchSource

        return TorchSource(folder, file)
    from storage_tiers.gguf_source import GgufSource

    assert file is not None
    return GgufSource(folder, file)


def _choose(folder: Folder) -> Source:
    """What transformers finds in the folder, safetensors before pickles; else its GGUF file; else what is named oddly."""
    names = sorted(folder.files())
    for kind, stem in (("safetensors", "model"), ("bin", "pytorch_model")):
        if not {f"{stem}.{kind}", f"{stem}.{kind}.index.json"}.isdisjoint(names):
            return _of_kind(kind, folder, None)
    found: dict[str, list[str]] = {}
    for name in names:
        if match := _WEIGHTS.search(name):
            found.setdefault(match[1], []).append(name)
    quantised = found.get("gguf", [])
    if len(quantised) > 1:
        raise SourceError(f"{folder.where} holds several GGUF files ({', '.join(quantised[:5])}); give the path of one")
    if quantised:
        return _of_kind("gguf", folder, quantised[0])
    for kind in ("safetensors", "bin"):
        if kind in found:
            return _of_kind(kind, folder, None)
    if not names:
        raise SourceError(f"{folder.where} is empty or does not exist")
    raise SourceError(f"{folder.where} holds no weights: neither safetensors nor a GGUF file nor pytorch_model.bin")


def float_bytes(name: str, tensor: Any, dtype: str) -> Iterator[memoryview]:
    """A torch tensor's bytes in type `dtype`, in pieces of READ_BYTES at most; converts a piece at a time.

    SourceError, with the tensor's `name`, if the type has no room for one of its numbers.
    """
    import torch

    flat = tensor.detach().reshape(-1)
    target: torch.dtype = getattr(torch, dtype)
    step = READ_BYTES // max(flat.element_size(), target.itemsize)
    for start in range(0, flat.numel(), step):
        piece = flat[start : start + step]
        converted = piece.to(target).contiguous()
        if piece.dtype != target and not is_finite(converted) and is_finite(piece):
            own = str(piece.dtype).removeprefix("torch.")
            raise SourceError(
                f"tensor {name} holds numbers that are too great for {dtype}: publish in {own}, as it is, or in another type"
            )
        yield memoryview(converted.view(torch.uint8).numpy())


def finite_bytes(name: str, dtype: str, pieces: Iterable[memoryview]) -> Iterator[memoryview]:
    """A tensor's bytes as they come. SourceError, with its `name`, at a piece that holds what is no number."""
    import torch

    for piece in pieces:
        if not is_finite(torch.frombuffer(piece, dtype=getattr(torch, dtype))):
            raise SourceError(f"tensor {name} holds NaN or infinite numbers: the weights are damaged, get them anew")
        yield piece


def is_finite(tensor: Any) -> bool:
    """Whether all of a tensor's values are numbers; reads it once, at the memory's speed."""
    least, greatest = tensor.aminmax()  # of a NaN both are NaN
    return math.isfinite(least) and math.isfinite(greatest)
