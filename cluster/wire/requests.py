"""What the front end and the first stage of a group say to each other."""

from dataclasses import dataclass, field

from storage_tiers.pooling import Mode


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; temperature 0 is greedy. Draws are keyed by (seed, position), never by a running generator."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_p: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    """How many of the likeliest tokens to tell with each token; None: no log probabilities at all."""


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural logarithms of the model's own probabilities: of the chosen token, and of the `top` (token, logprob) ones."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


MOST_WORDS = 4
"""Of a connection so many vocabularies' words are known to the group at once: the last that it was told."""


GRAMMAR_CHARACTERS = 256 << 10
"""Of a grammar at most; so many take a second or two to compile."""


@dataclass(frozen=True)
class Words:
    """What each token of a vocabulary adds to a text, by its number: bytes, none where it is never text. `ends` are those
    with which an answer may end; `digest` names all of this."""

    digest: str
    tokens: tuple[bytes, ...]
    ends: tuple[int, ...]


@dataclass(frozen=True)
class Grammar:
    """What an answer may be: `text` is a grammar as llguidance takes it, over `words`; their digest alone stands for words
    that who hears it was told before. A token that is never text is in it by its number, as <[7]>."""

    text: str
    words: Words | str


@dataclass(frozen=True)
class Submit:
    """Generate after `tokens`, of which the first `prompt_tokens` are the prompt (the rest was generated before).

    None of the `stop_tokens` is chosen before the answer has `min_tokens`, counted from the prompt. With a `grammar` what is
    generated, from the prompt's end on, keeps to it.

    With `pooling` nothing is generated, and `max_tokens` is 0: wanted is one vector of the prompt, Embedded.
    """

    request: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    max_tokens: int
    stop_tokens: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    min_tokens: int = 0
    grammar: Grammar | None = None
    pooling: Mode | None = None


@dataclass(frozen=True)
class Follow:
    """Take in what another group generates of the request, and choose nothing, until GoOn. It has the room of the request
    from the start. The KV cache of its first `copied_tokens` tokens was pulled by every stage before (cluster.wire.kv), under
    the request's name; if one has it no more, all of it is computed anew."""

    submit: Submit
    copied_tokens: int = 0


@dataclass(frozen=True)
class More:
    """The request that is followed has these tokens too."""

    request: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class GoOn:
    """The request that is followed has these tokens too, and no more come from elsewhere: choose what follows."""

    request: str
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Yield:
    """Give the request up after the step that it is in; Yielded is the last that is told of it. What is unknown, or over, is
    so already."""

    request: str


@dataclass(frozen=True)
class AskPlace:
    """By what number do the stages know the request?"""

    request: str


@dataclass(frozen=True)
class Cancel:
    """Nobody wants the request's tokens any more."""

    request: str


@dataclass(frozen=True)
class Tokens:
    """New tokens of a request; `finish` is "stop" or "length" with the last."""

    request: str
    tokens: tuple[int, ...]
    finish: str | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each token, where the request asked for them."""


@dataclass(frozen=True)
class Embedded(Tokens):
    """The request's vector, float32 in little-endian bytes, as its `pooling` makes it; there are no tokens."""

    vector: bytes = b""


@dataclass(frozen=True)
class Rejected:
    """The group will not run the request; `message` says why."""

    request: str
    message: str


@dataclass(frozen=True)
class Failed:
    """The model gave no token for the request, or no vector, and it is over: it would not elsewhere either. `message` says
    why."""

    request: str
    message: str


@dataclass(frozen=True)
class Caught:
    """Of a request that is followed so many tokens are known here, and all but the last are taken in."""

    request: str
    tokens: int


@dataclass(frozen=True)
class Yielded:
    """The request was given up, and all its tokens were told."""

    request: str


@dataclass(frozen=True)
class Placed:
    """The stages know the request as `slot`, and have the KV cache of its first `held_tokens` tokens. None: it has no place
    here (yet, or any more)."""

    request: str
    slot: int | None
    held_tokens: int = 0


Event = Tokens | Rejected | Failed | Caught | Yielded | Placed
"""What a first stage tells of a request."""
