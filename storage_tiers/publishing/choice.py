"""What can be published: the choice of a source by looking at what names it."""

import re
from pathlib import Path

from storage_tiers.errors import SourceError
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.sources.folders import Folder, LocalFolder, RemoteFolder
from storage_tiers.publishing.sources.source import Source

HUB = "hf://"
_WEIGHTS = re.compile(r"\.(safetensors|bin|gguf)(\.index(\.[^.]+)?\.json)?$")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(@[^/]+)?")


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
    from storage_tiers.publishing.sources.hub_source import HubFolder

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
        from storage_tiers.publishing.sources.safetensors_source import SafetensorsSource

        return SafetensorsSource(folder, file)
    if kind == "bin":
        from storage_tiers.publishing.sources.torch_source import TorchSource

        return TorchSource(folder, file)
    from storage_tiers.publishing.sources.gguf_source import GgufSource

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
