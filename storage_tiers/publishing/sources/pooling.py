"""What a source says of embeddings: sentence-transformers' modules in a Hugging Face folder, a key in a GGUF file.

Nothing of it keeps a model from being published: what we do not know makes no vectors, and says why.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage_tiers.bounded_json import parse_json
from storage_tiers.errors import SourceError
from storage_tiers.object_store import ObjectFact
from storage_tiers.pooling import Mode, Pooling, sees_ahead
from storage_tiers.publishing.sources.folders import Folder, read_small

MODULES = "modules.json"
_TRANSFORMER_CONFIG = "sentence_bert_config.json"
_CONFIG = "config.json"
_LIMIT_BYTES = 1 << 20
_FLAG = "pooling_mode_"
_MODES: Mapping[str, Mode] = {"mean": "mean", "mean_tokens": "mean", "last": "last", "lasttoken": "last"}
_GGUF_MODES: Mapping[int, Mode] = {1: "mean", 3: "last"}
_SAID = 80
_MOST_MODULES = 16
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


@dataclass(frozen=True)
class _Module:
    kind: str
    path: str


class _Odd(Exception):
    """What is said is nothing that we do; the text says what."""


def pooling_files(folder: Folder) -> dict[str, ObjectFact]:
    """The files that `pooling_of` reads, by their paths below the folder."""
    present = folder.files()
    if MODULES not in present:
        return {}
    found = {name: present[name] for name in (MODULES, _TRANSFORMER_CONFIG) if name in present}
    try:
        paths = [module.path for module in _modules(folder) if module.kind == "Pooling" and module.path]
    except _Odd:
        return found
    for path in paths:
        fact = folder.below(path).files().get(_CONFIG)
        found |= {f"{path}/{_CONFIG}": fact} if fact is not None else {}
    return found


def pooling_of(folder: Folder, config: Mapping[str, Any]) -> Pooling | None:
    """What sentence-transformers makes of the model, whose configuration is `config`; None if the folder says nothing."""
    if MODULES not in folder.files():
        return None
    try:
        return _pooling(folder, config)
    except _Odd as error:
        return Pooling(None, fault=str(error))


def gguf_pooling(kind: object) -> Pooling | None:
    """What llama.cpp makes of a model with this `pooling_type`, vectors of length 1 as its server gives them; None if the
    file says nothing."""
    if kind in (None, 0):
        return None
    mode = _GGUF_MODES.get(kind) if type(kind) is int else None
    return Pooling(None, fault=f"its pooling_type is {_short(kind)}") if mode is None else Pooling(mode, True)


def _pooling(folder: Folder, config: Mapping[str, Any]) -> Pooling:
    modules = _modules(folder)
    kinds = [module.kind for module in modules]
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown:
        raise _Odd(f"{MODULES} has a module {unknown[0]}")
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise _Odd(f"{MODULES} has the modules {', '.join(kinds)[:_SAID]}, in this order")
    if sees_ahead(config):
        raise _Odd("its tokens attend to those behind them, which a decoder's do not")
    if modules[0].path:
        raise _Odd(f"{MODULES} has its model in a folder of its own")
    given = _object(folder, _TRANSFORMER_CONFIG) if _TRANSFORMER_CONFIG in folder.files() else {}
    if given.get("do_lower_case"):
        raise _Odd("its texts are made lower case first (do_lower_case)")
    limit = given.get("max_seq_length")
    max_tokens = limit if type(limit) is int and limit > 0 else None
    return Pooling(_mode(folder.below(modules[1].path)), "Normalize" in kinds, max_tokens)


def _mode(folder: Folder) -> Mode:
    given = _object(folder, _CONFIG)
    named = given.get("pooling_mode")
    if named is None:
        modes = [name.removeprefix(_FLAG) for name, on in given.items() if name.startswith(_FLAG) and on]
    else:
        modes = [str(mode) for mode in named] if isinstance(named, list) else [str(named)]
    if len(modes) != 1:
        raise _Odd(f"it is pooled by {' and '.join(modes)[:_SAID]}" if modes else "its pooling is by nothing")
    if modes[0] not in _MODES:
        raise _Odd(f"it is pooled by {modes[0][:_SAID]}")
    return _MODES[modes[0]]


def _modules(folder: Folder) -> list[_Module]:
    """In their order. Classes of sentence-transformers go by their own names, others by their whole ones."""
    given = _json(folder, MODULES)
    entries = given if isinstance(given, list) else []
    found = []
    for entry in entries[: _MOST_MODULES + 1]:
        kind, path = (entry.get("type"), entry.get("path", "")) if isinstance(entry, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str) or (path and not _FOLDER.fullmatch(path)):
            raise _Odd(f"{MODULES} does not name modules and their folders")
        own = kind.rpartition(".")[2] if kind.startswith("sentence_transformers.") else kind
        found.append(_Module(own[:_SAID], path))
    if not 0 < len(found) <= _MOST_MODULES:
        raise _Odd(f"{MODULES} does not name modules and their folders")
    return found


def _object(folder: Folder, name: str) -> Mapping[str, Any]:
    value = _json(folder, name)
    if not isinstance(value, dict):
        raise _Odd(f"{name} of its pooling is no object")
    return value


def _json(folder: Folder, name: str) -> Any:
    try:
        return parse_json(read_small(folder, name, _LIMIT_BYTES))
    except (ValueError, SourceError) as error:
        raise _Odd(f"{name} of its pooling cannot be read ({str(error)[:_SAID]})") from error


def _short(value: object) -> str:
    return str(value)[:_SAID] if type(value) is int else type(value).__name__
