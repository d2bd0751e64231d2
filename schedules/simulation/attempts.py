"""A request of the log as whoever owns the brain knows it, while it is not over."""

from dataclasses import dataclass

from schedules.world.groups import Ask


@dataclass
class Open:
    """It is to be given `answer_tokens` of the `max_tokens` that it asks for, and has `tokens`. To the world each attempt is
    a request of its own; `attempt` is the one that gives the tokens."""

    name: str
    prompt_tokens: int
    max_tokens: int
    answer_tokens: int
    tokens: int = 0
    attempts: int = 0
    attempt: str = ""

    @property
    def left(self) -> int:
        return self.answer_tokens - self.tokens

    def begin(self) -> Ask:
        """One more attempt, which gives the tokens from now on."""
        ask = self.ask()
        self.attempt = ask.request
        return ask

    def ask(self) -> Ask:
        """One more attempt, with what it has."""
        self.attempts += 1
        return Ask(
            f"{self.name}.{self.attempts}", self.prompt_tokens + self.tokens, self.max_tokens - self.tokens, self.left
        )
