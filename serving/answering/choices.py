"""What one choice of an answer says, read from its tokens as they come."""

from cluster.wire.requests import Tokens
from serving.answering.ask import Ask
from serving.answering.deltas import CallPiece, Delta
from serving.logprobs import Entry, InStep
from serving.structure.reading import CallReader
from serving.text import AnswerText, StopStrings


class ChoiceReader:
    """Reads one choice: text, which a stop string cuts off, and then calls of tools, if it may have some. `answers` is None
    for a model without a tokenizer.

    Log probabilities are those of the text: a call's tokens have none.
    """

    def __init__(self, request: Ask, choice: int, answers: AnswerText | None) -> None:
        self._submit, self._choice, self._answers = request.submits[choice], choice, answers
        self._decoder = answers.decoder(self._submit.tokens) if answers is not None else None
        self._calls = CallReader(request.calls) if request.calls is not None else None
        self._marks = request.calls.form.literals if request.calls is not None else frozenset()
        self._stops = StopStrings(request.stops)
        self._in_step = InStep() if self._submit.sampling.logprobs is not None else None
        self._generated = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string came: nothing follows."""
        return self._stops.hit

    def read(self, event: Tokens) -> Delta:
        """What these tokens add."""
        ending = len(event.tokens) - self._ended_by_token(event)  # what a token that ends it says is no answer
        texts = [self._text(token) if index < ending else "" for index, token in enumerate(event.tokens)]
        rest = self._decoder.flush() if self._decoder is not None and event.finish is not None else ""
        self._generated += len(event.tokens)
        before = self._calls is not None and self._calls.called
        text, calls = self._take("".join(texts) + rest, event.finish is not None)
        shown = self._stops.push(text) if self._generated > self._submit.min_tokens else text
        finish = "stop" if self._stops.hit else event.finish
        if finish is not None or calls:
            shown += self._stops.flush()
        if self._stops.hit:
            calls = ()
        elif finish == "stop" and self._calls is not None and self._calls.called:
            finish = "tool_calls"
        entries = self._entries(event, texts, "" if before else shown, finish is not None)
        return Delta(self._choice, shown, event.tokens, finish, entries, calls)

    def _ended_by_token(self, event: Tokens) -> bool:
        """A grammar may also end it, by a token like others."""
        if event.finish != "stop" or not event.tokens:
            return False
        return self._submit.grammar is None or event.tokens[-1] in self._submit.stop_tokens

    def _text(self, token: int) -> str:
        """What the token completes; of marks that are no text, how they are called."""
        if self._decoder is None or self._answers is None:
            return ""
        if self._marks:
            told = self._answers.token(token)
            if told.data is None and told.text in self._marks:
                return self._decoder.flush() + told.text
        return self._decoder.push(token)

    def _take(self, text: str, last: bool) -> tuple[str, tuple[CallPiece, ...]]:
        """What of it is text that may be shown, and what is of calls."""
        if self._calls is None:
            return text, ()
        shown, calls = self._calls.push(text)
        return (shown + self._calls.flush() if last else shown), calls

    def _entries(self, event: Tokens, texts: list[str], shown: str, last: bool) -> tuple[Entry, ...] | None:
        if self._in_step is None:
            return None
        for token, logprobs, text in zip(event.tokens, event.logprobs, texts, strict=True):
            self._in_step.push(token, logprobs, text)
        called = self._calls is not None and self._calls.called
        return self._in_step.show(
            shown, all_of_them=self._decoder is None or (last and not self.stopped and not called)
        )
