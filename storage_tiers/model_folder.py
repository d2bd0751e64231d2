"""What Hugging Face puts beside the weights: configuration, tokenizer, and the index that joins several files."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage_tiers.bounded_json import parse_json
from storage_tiers.errors import SourceError
from storage_tiers.folders import Folder, LocalFolder, read_small
from storage_tiers.remote import ObjectFact
from storage_tiers.schema import FILES_LIMIT_BYTES

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "tokenizer.model",
)  # fmt: skip
_JSON_LIMIT_BYTES = 32 << 20
"""The largest of them joins a hundred thousand tensors."""
_SLOW_TOKENIZERS = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_BESIDE = (
    *TOKENIZER_FILES, *_SLOW_TOKENIZERS, "config.json", "generation_config.json", "merges.txt", "added_tokens.json",
)  # fmt: skip


class ModelFolder:
    """A folder as save_pretrained fills it, with weights in files that end in `suffix`, joined by `index` if several."""

    def __init__(self, folder: Folder, single: str, index: str) -> None:
        self.folder = folder
        self._single, self._index = single, index
        self._suffix = os.path.splitext(single)[1]

    def parts(self) -> Mapping[str, ObjectFact]:
        """All files that the model consists of. It is the same model as long as they are."""
        facts = self.folder.files()
        names = {*_BESIDE, self._index, *self.weight_files()}
        return {name: facts[name] for name in sorted(names) if name in facts}

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

    def tokenizer(self) -> Mapping[str, bytes]:
        """The tokenizer's files, a slow one converted to a fast one; empty if there is none."""
        present = [name for name in self.folder.files() if name in _BESIDE]
        if "tokenizer.json" not in present and any(name in _SLOW_TOKENIZERS for name in present):
            with self.folder.local(present) as path:
                return convert_tokenizer(path)
        return read_tokenizer(self.folder)

    def weight_files(self) -> list[str]:
        """Names of the files that hold the weights, all of which are there."""
        present = self.folder.files()
        if self._index in present:
            names = set(self.weight_map().values())
        else:
            names = {name for name in present if name.endswith(self._suffix)}
            if self._single in names:
                names = {self._single}
            if len(names) > 1:
                kind = self._suffix.removeprefix(".")
                raise SourceError(
                    f"{self.folder.where} holds {len(names)} {kind} files but no {self._index} that joins them"
                )
        absent = sorted(name for name in names if name not in present)
        if absent:
            raise SourceError(f"{self._index} names {', '.join(absent[:5])}, which {self.folder.where} does not hold")
        return sorted(names)

    def weight_map(self) -> dict[str, str]:
        """Tensors to the files that hold them, as the index says; empty if there is none."""
        if self._index not in self.folder.files():
            return {}
        weights = self._json(self._index).get("weight_map")
        if not isinstance(weights, dict) or not weights or not all(map(_is_file_name, weights.values())):
            raise SourceError(f"{self.folder.where}/{self._index} has no weight_map from tensors to files beside it")
        return weights

    def check_index(self, found: Mapping[str, str]) -> None:
        """SourceError unless every tensor is in the file that the index says; `found` maps tensors to files."""
        for name, file in self.weight_map().items():
            if found.get(name) != file:
                raise SourceError(f"{self._index} says that {file} holds {name}, but it does not")

    def _json(self, name: str) -> dict[str, Any]:
        where = f"{self.folder.where}/{name}"
        try:
            value = parse_json(read_small(self.folder, name, _JSON_LIMIT_BYTES))
        except ValueError as error:
            raise SourceError(f"cannot read {where}: {error}") from error
        if not isinstance(value, dict):
            raise SourceError(f"cannot read {where}: it is not a JSON object")
        return value


def read_tokenizer(folder: Folder) -> dict[str, bytes]:
    """The tokenizer files in `folder`, by name."""
    present: Sequence[str] = [name for name in TOKENIZER_FILES if name in folder.files()]
    return {name: read_small(folder, name, FILES_LIMIT_BYTES) for name in present}


def convert_tokenizer(path: Path, **options: str) -> dict[str, bytes]:
    """The tokenizer that transformers finds in the folder `path`, saved again as a fast one."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="firsttoken-tokenizer-") as converted:
        try:
            AutoTokenizer.from_pretrained(path, trust_remote_code=False, **options).save_pretrained(converted)
        except Exception as error:  # whatever a damaged or unknown tokenizer makes transformers raise
            raise SourceError(
                f"cannot convert the tokenizer in {path} ({type(error).__name__}: {error}); "
                "save it with transformers' save_pretrained, so that there is a tokenizer.json"
            ) from error
        return read_tokenizer(LocalFolder(Path(converted)))


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and value not in ("", ".", "..") and "/" not in value and os.sep not in value
