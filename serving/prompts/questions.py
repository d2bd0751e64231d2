"""What the front end asks a model's text process, and what that answers: length-prefixed msgpack on a stream socket."""

import struct
from dataclasses import dataclass, fields
from typing import Any, BinaryIO

import msgpack

MAX_FRAME_BYTES = 256 << 20
LENGTH = struct.Struct(">I")


@dataclass(frozen=True)
class Load:
    """The first message: the folder that has the tokenizer's files. Answered by Ready or Refused."""

    folder: str


@dataclass(frozen=True)
class Encode:
    """Texts that shall be tokens, with what the tokenizer adds at their start."""

    texts: tuple[str, ...]
    context_tokens: int


@dataclass(frozen=True)
class EncodeChat:
    """A conversation that shall be tokens. `arguments` are what the chat template gets beside the messages; the tools in them
    are told to a model that `may_call` them, by whatever means."""

    messages: tuple[dict[str, Any], ...]
    arguments: dict[str, Any]
    context_tokens: int
    may_call: bool = False


@dataclass(frozen=True)
class Constrain:
    """A grammar for what is `wanted` of an answer (serving.structure.wanted, in JSON) is asked for. Calls are written as
    the chat template of this name has it. `param` is the request's field to blame if that takes too long."""

    wanted: str
    chat_template: str | None
    param: str


@dataclass(frozen=True)
class Export:
    """What is needed to decode tokens is asked for."""


Request = Load | Encode | EncodeChat | Constrain | Export


@dataclass(frozen=True)
class Ready:
    """The tokenizer is read."""


@dataclass(frozen=True)
class Rendered:
    """The chat template is done; the tokens follow with the next message."""


@dataclass(frozen=True)
class Encoded:
    """Each text's tokens, four bytes each in this machine's order."""

    tokens: tuple[bytes, ...]


@dataclass(frozen=True)
class TooLong:
    """A text has more tokens than the context; how many more was not counted."""


@dataclass(frozen=True)
class Refused:
    """It cannot be done; `param` is the request's field at fault."""

    reason: str
    param: str | None


@dataclass(frozen=True)
class Exported:
    """What answers are decoded with: each token's number as msgpack, those that were added, whether special, by what they
    are called, and the decoder as JSON."""

    vocabulary: bytes
    added: dict[str, bool]
    decoder: str


@dataclass(frozen=True)
class Constrained:
    """What an answer is to keep to, in llguidance's words; `calls` is the format of its calls of tools, by name."""

    grammar: str
    calls: str


Answer = Ready | Rendered | Encoded | TooLong | Refused | Exported | Constrained
_KINDS = {
    kind.__name__: kind
    for kind in (
        Load, Encode, EncodeChat, Constrain, Export, Ready, Rendered, Encoded, TooLong, Refused, Exported, Constrained
    )
}  # fmt: skip


def frame(message: Request | Answer) -> bytes:
    """`message` as it goes over the stream."""
    body: bytes = msgpack.packb([type(message).__name__, *(getattr(message, part.name) for part in fields(message))])
    return LENGTH.pack(len(body)) + body


def unframe(body: bytes) -> Any:
    """The message in a frame's bytes behind its length."""
    name, *values = msgpack.unpackb(body)
    return _KINDS[name](*values)


def read_frame(stream: BinaryIO) -> Any:
    """The next message, None at the stream's end. Blocks."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    body = stream.read(length)
    return unframe(body) if len(body) == length else None
