"""A text process: works for one model, on one request at a time, with a bound on its memory; it may be ended at any time."""

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.prompts.questions import (
    Answer,
    Constrain,
    Encode,
    EncodeChat,
    Encoded,
    Export,
    Ready,
    Refused,
    Rendered,
    Request,
    TooLong,
    frame,
    read_frame,
)
from serving.prompts.tokenizing import ContextExceeded, PromptTokenizer, Refusal
from serving.structure.wanted import Wanted

_LOAD_BYTES = 1 << 30
_WORK_BYTES = 512 << 20
_GRAMMAR_BYTES = 64 << 20
"""What its memory may grow by: while it reads its tokenizer (one of 256,000 tokens takes about 0.3 GB) and, from there on,
for a request (a million letters take about 0.15 GB); for a grammar, which a stage keeps with some others, less."""


def answer(sock: socket.socket) -> None:
    """Answer what comes over `sock` until it closes."""
    with sock, sock.makefile("rb") as stream:
        load = read_frame(stream)
        if load is None:
            return
        _limit(_LOAD_BYTES)
        try:
            tokenizer = PromptTokenizer(Path(load.folder))
        except Refusal as error:
            sock.sendall(frame(Refused(str(error), error.param)))
            return
        _limit(_WORK_BYTES)
        sock.sendall(frame(Ready()))
        while (request := read_frame(stream)) is not None:
            sock.sendall(frame(_answer(sock, tokenizer, request)))


def _answer(sock: socket.socket, tokenizer: PromptTokenizer, request: Request) -> Answer:
    try:
        match request:
            case Encode(texts, context_tokens):
                return Encoded(tuple(tokenizer.encode(text, context_tokens).tobytes() for text in texts))
            case EncodeChat(messages, arguments, context_tokens, may_call):
                text = tokenizer.render(messages, arguments, may_call)
                sock.sendall(frame(Rendered()))
                return Encoded((tokenizer.encode(text, context_tokens, special=False).tobytes(),))
            case Constrain(wanted, chat_template):
                with _held_to(_GRAMMAR_BYTES):
                    return tokenizer.constrain(Wanted.read(wanted), chat_template)
            case Export():
                return tokenizer.export()
            case _:
                return Refused(f"{type(request).__name__} is no request", None)
    except Refusal as error:
        return Refused(str(error), error.param)
    except ContextExceeded:
        return TooLong()


def _limit(more_bytes: int) -> None:
    """Let this process's memory grow by so much from here."""
    lines = Path("/proc/self/status").read_text().splitlines()
    used_kib = next(int(line.split()[1]) for line in lines if line.startswith("VmData:"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, ((used_kib << 10) + more_bytes, hard))


@contextmanager
def _held_to(more_bytes: int) -> Iterator[None]:
    """Let it grow by so much, and then as before."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    _limit(more_bytes)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
