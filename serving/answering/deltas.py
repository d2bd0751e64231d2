"""What an answer consists of: pieces as they come, and what they are together."""

from dataclasses import dataclass, field

from serving.logprobs import Entry


@dataclass(frozen=True)
class CallPiece:
    """A piece of a tool call, the `index`-th of its choice: with the first come `id` and `name`, None with those that only go
    on; `arguments` are a piece of their JSON."""

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True)
class Delta:
    """What one step adds to a choice: text, maybe empty, and tokens; `finish` with the last.

    `logprobs` belong to the text: they may be of tokens that came before. None if they were not asked for.
    """

    choice: int
    text: str
    tokens: tuple[int, ...]
    finish: str | None = None
    logprobs: tuple[Entry, ...] | None = None
    calls: tuple[CallPiece, ...] = ()


@dataclass
class Call:
    """A tool call as far as it came; `arguments` are JSON once the answer is whole."""

    id: str
    name: str
    arguments: str = ""


@dataclass
class Answered:
    """All deltas of one choice together. `entries` are empty if no log probabilities were asked for."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    finish: str | None = None

    def add(self, delta: Delta) -> None:
        """The next one."""
        self.text += delta.text
        self.tokens += delta.tokens
        self.entries += delta.logprobs or ()
        self.finish = delta.finish or self.finish
        for piece in delta.calls:
            if piece.id is not None:
                self.calls.append(Call(piece.id, piece.name or ""))
            self.calls[piece.index].arguments += piece.arguments


@dataclass
class Given:
    """What a request was given: so many tokens, the first and the latest of them so long after it came. `cold` if one of its
    choices waited for a replica to start. None before the first."""

    tokens: int = 0
    ttft_s: float | None = None
    last_s: float | None = None
    cold: bool | None = None
