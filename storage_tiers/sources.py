"""What can be published: the contract of a source, and the choice of one by looking at the path."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from storage_tiers.checkpoint import TensorSpec
from storage_tiers.errors import SourceError
from storage_tiers.families import Skeleton

READ_BYTES = 16 << 20
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "tokenizer.model",
)  # fmt: skip


class Source(Protocol):
    """A model somewhere else, read tensor by tensor. Every failure is a SourceError that says what to do.

    Tensors go by the names that transformers' modules give them, whatever the files call them.
    """

    @property
    def parts(self) -> tuple[Path, ...]:
        """The files it consists of. It is the same source as long as their names, sizes and times are."""

    @property
    def default_dtype(self) -> str | None:
        """The type that floating tensors are published in unless told otherwise; None for the one they have."""

    def config(self) -> dict[str, Any]:
        """The Hugging Face configuration."""

    def generation_config(self) -> dict[str, Any]:
        """The Hugging Face generation configuration, empty if there is none."""

    def tensors(self, skeleton: Skeleton) -> Mapping[str, TensorSpec]:
        """All weights, with the type they are stored in. Must be called before `read`."""

    def read(self, name: str, dtype: str) -> Iterator[memoryview]:
        """The tensor's bytes in type `dtype`, in order, in pieces of READ_BYTES at most."""

    def files(self) -> Mapping[str, bytes]:
        """The tokenizer's files, by name; empty if there is none."""


def open_source(where: str) -> Source:
    """The source at a local path: a Hugging Face folder, a GGUF file, or a folder that holds exactly one.

    Looks at names only. SourceError if nothing there can be published.
    """
    from storage_tiers.gguf_source import GgufSource
    from storage_tiers.safetensors_source import SafetensorsSource

    if "://" in where:
        raise SourceError(f"{where} is not a local path; download the model first and give the folder")
    path = Path(where).expanduser()
    if path.is_file():
        if path.suffix == ".gguf":
            return GgufSource(path)
        hint = "give the folder that it lies in" if path.suffix == ".safetensors" else "give a folder or a .gguf file"
        raise SourceError(f"{where} cannot be published as a single file; {hint}")
    if not path.is_dir():
        raise SourceError(f"{where} does not exist")
    names = sorted(entry.name for entry in path.iterdir())
    if any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
        return SafetensorsSource(path)
    quantised = [name for name in names if name.endswith(".gguf")]
    if len(quantised) > 1:
        raise SourceError(f"{where} holds several GGUF files ({', '.join(quantised[:5])}); give the path of one")
    if quantised:
        return GgufSource(path / quantised[0])
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        raise SourceError(
            f"{where} holds pickled weights only, which we do not read because unpickling runs code; "
            "convert them to safetensors (load with transformers, then save_pretrained)"
        )
    raise SourceError(f"{where} holds no weights: neither safetensors nor a GGUF file")


def float_bytes(tensor: Any, dtype: str) -> Iterator[memoryview]:
    """A torch tensor's bytes in type `dtype`, in pieces of READ_BYTES at most; converts a piece at a time."""
    import torch

    flat = tensor.detach().reshape(-1)
    target: torch.dtype = getattr(torch, dtype)
    step = READ_BYTES // max(flat.element_size(), target.itemsize)
    for start in range(0, flat.numel(), step):
        yield memoryview(flat[start : start + step].to(target).contiguous().view(torch.uint8).numpy())
