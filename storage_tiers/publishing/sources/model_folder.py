"""What Hugging Face puts beside the weights: configuration, tokenizer, and the index that joins several files."""

import os
import re
from collections.abc import Mapping
from typing import Any

from storage_tiers.bounded_json import parse_json
from storage_tiers.errors import SourceError
from storage_tiers.object_store import ObjectFact
from storage_tiers.pooling import Pooling
from storage_tiers.publishing.sources.folders import Folder, read_small
from storage_tiers.publishing.sources.pointers import check_pointer
from storage_tiers.publishing.sources.pooling import pooling_files, pooling_of
from storage_tiers.schema import FILES_LIMIT_BYTES
from storage_tiers.tokenizers import (
    TEMPLATE,
    TEMPLATES,
    TOKENIZER,
    converted,
    judge_of,
    neutral,
    settled,
    with_templates,
)

_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "tokenizer.model",
)  # fmt: skip
_VOCABULARIES = (
    "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tiktoken.model", "tekken.json",
)  # fmt: skip
_BESIDE = frozenset(
    {*_TOKENIZER, *_VOCABULARIES, "merges.txt", "bpe.codes", "config.json", "generation_config.json"}
)  # fmt: skip
_JSON_LIMIT_BYTES = 32 << 20
"""The largest of them joins a hundred thousand tensors."""


class ModelFolder:
    """A folder as save_pretrained fills it, with weights in files that end as `single` does, joined by `index` if several.

    `named` is the file of weights, or the index, that the caller has chosen in it, if any.
    """

    def __init__(self, folder: Folder, single: str, index: str, named: str | None = None) -> None:
        self.folder = folder
        self._single, self._index, self._named = single, index, named
        self._suffix = os.path.splitext(single)[1]

    def parts(self) -> Mapping[str, ObjectFact]:
        """All files that the model consists of. It is the same model as long as they are."""
        facts = self.folder.files()
        chosen = self._chosen()
        index = {chosen} if chosen.endswith(".json") else set()
        names = {name for name in facts if _is_beside(name)} | index | set(self.weight_files())
        templates = {f"{TEMPLATES}/{name}": fact for name, fact in self._templates().items()}
        present = {name: facts[name] for name in sorted(names) if name in facts}
        return {**present, **templates, **pooling_files(self.folder)}

    def config(self) -> dict[str, Any]:
        """config.json, without what would load code."""
        if "config.json" not in self.folder.files():
            raise SourceError(f"{self.folder.where} has no config.json")
        config = self._json("config.json")
        config.pop("auto_map", None)
        return config

    def generation_config(self) -> dict[str, Any]:
        """generation_config.json, empty if there is none."""
        present = "generation_config.json" in self.folder.files()
        return self._json("generation_config.json") if present else {}

    def pooling(self, config: Mapping[str, Any]) -> Pooling | None:
        """How texts become vectors, if the folder says so."""
        return pooling_of(self.folder, config)

    def tokenizer(self, config: Mapping[str, Any]) -> Mapping[str, bytes]:
        """The tokenizer's files, a slow one converted to a fast one; empty if there is none. With `config` they make the
        tokens that transformers makes in the folder itself, or SourceError says where not."""
        where = self.folder.where
        present = sorted(name for name in self.folder.files() if _is_beside(name))
        if not any(name == TOKENIZER or name in _VOCABULARIES for name in present):
            return {}
        files = {
            name: self._file(name, FILES_LIMIT_BYTES)
            for name in present
            if name not in ("config.json", "generation_config.json")
        }
        below = self.folder.below(TEMPLATES)
        templates = {name.removesuffix(TEMPLATE): _text(below, name) for name in self._templates()}
        with self.folder.local(present) as path:
            judge = judge_of(path, where)
        if TOKENIZER in files:
            usual = {name: data for name, data in files.items() if name in _TOKENIZER}
            candidates = [with_templates(usual, templates), with_templates(files, templates)]
        else:
            fast = converted(judge, templates, where)
            candidates = [fast, neutral(fast)]
        return settled(candidates, config, judge, where)

    def weight_files(self) -> list[str]:
        """Names of the files that hold the weights, all of which are there."""
        chosen = self._chosen()
        if not chosen.endswith(".json"):
            return [chosen]
        names, present = set(self._weight_map(chosen).values()), self.folder.files()
        absent = sorted(name for name in names if name not in present)
        if absent:
            raise SourceError(f"{chosen} names {', '.join(absent[:5])}, which {self.folder.where} does not hold")
        return sorted(names)

    def check_index(self, found: Mapping[str, str]) -> None:
        """SourceError unless every tensor is in the file that the index says; `found` maps tensors to files."""
        chosen = self._chosen()
        for name, file in self._weight_map(chosen).items() if chosen.endswith(".json") else ():
            if found.get(name) != file:
                raise SourceError(f"{chosen} says that {file} holds {name}, but it does not")

    def _chosen(self) -> str:
        """The file of weights, or the index of several, that the model is taken from. SourceError if that is not clear.

        As transformers has it, a whole file outweighs an index whose files are gone; where both are there, somebody
        has to choose.
        """
        present, where = self.folder.files(), self.folder.where
        if self._named is not None:
            if self._named not in present:
                raise SourceError(f"{where}/{self._named} does not exist")
            return self._named
        if self._single in present and self._index in present:
            joined = set(self._weight_map(self._index).values()) - {self._single}
            if joined.isdisjoint(present):
                return self._single
            raise SourceError(
                f"{where} holds weights twice: {self._single}, and {len(joined & present.keys())} files that {self._index} "
                f"joins. Publish {where}/{self._single} or {where}/{self._index}, whichever is meant"
            )
        for name in (self._single, self._index):
            if name in present:
                return name
        others = sorted(
            name for name in present if re.search(rf"{re.escape(self._suffix)}(\.index(\.[^.]+)?\.json)?$", name)
        )
        if len(others) > 1:
            kind = self._suffix.removeprefix(".")
            raise SourceError(
                f"{where} holds {len(others)} {kind} files ({', '.join(others[:5])}) but no {self._index} that joins them; "
                "give the path of the one that is meant"
            )
        if not others:
            raise SourceError(f"{where} holds no weights any more")
        return others[0]

    def _weight_map(self, index: str) -> dict[str, str]:
        """Tensors to the files that hold them, as the index says."""
        weights = self._json(index).get("weight_map")
        if not isinstance(weights, dict) or not weights or not all(map(_is_file_name, weights.values())):
            raise SourceError(f"{self.folder.where}/{index} has no weight_map from tensors to files beside it")
        return weights

    def _templates(self) -> Mapping[str, ObjectFact]:
        found = self.folder.below(TEMPLATES).files()
        return {name: fact for name, fact in found.items() if name.endswith(TEMPLATE)}

    def _file(self, name: str, limit_bytes: int) -> bytes:
        data = read_small(self.folder, name, limit_bytes)
        check_pointer(data, f"{self.folder.where}/{name}")
        return data

    def _json(self, name: str) -> dict[str, Any]:
        where = f"{self.folder.where}/{name}"
        try:
            value = parse_json(self._file(name, _JSON_LIMIT_BYTES))
        except ValueError as error:
            raise SourceError(f"cannot read {where}: {error}") from error
        if not isinstance(value, dict):
            raise SourceError(f"cannot read {where}: it is not a JSON object")
        return value


def _is_beside(name: str) -> bool:
    """Whether a file has part in the configuration or the tokenizer; tokenizer.json may be there for several versions."""
    return name in _BESIDE or (name.startswith("tokenizer.") and name.endswith(".json"))


def _text(folder: Folder, name: str) -> str:
    try:
        return read_small(folder, name, FILES_LIMIT_BYTES).decode()
    except UnicodeDecodeError as error:
        raise SourceError(f"{folder.where}/{name} is no text: {error}") from error


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and value not in ("", ".", "..") and "/" not in value and os.sep not in value
