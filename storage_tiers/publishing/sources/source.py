"""The contract of a source: a model as others store it, read tensor by tensor."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from storage_tiers.checkpoint import TensorSpec
from storage_tiers.object_store import ObjectFact
from storage_tiers.pooling import Pooling
from storage_tiers.publishing.families import Skeleton


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

    def pooling(self, config: Mapping[str, Any]) -> Pooling | None:
        """How the model's makers have texts become vectors; None if they say nothing. `config` is the model's."""

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
