"""What operators may send. A field that there is not, or that this kind of move has no use for, is refused by name."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schedules.moving.plan import Kind
from serving.requests.complaints import refusal

Name = Annotated[str, Field(max_length=200)]
_NEEDED = {Kind.CONSOLIDATE: ("model",), Kind.MIGRATE: ("node",), Kind.DRAIN: ("node",)}
_USED = {
    Kind.CONSOLIDATE: ("model", "node"),
    Kind.MIGRATE: ("model", "node", "group", "request"),
    Kind.DRAIN: ("node",),
}
LONGEST_WAIT_S = 86_400.0


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MoveRequest(_Body):
    """A move that is wished for. "" leaves it to us; with `carrier` "caller" whoever asks drives its steps."""

    kind: Literal["consolidate", "migrate", "drain"]
    model: Name = ""
    node: Name = ""
    group: Name = ""
    request: Name = ""
    carrier: Literal["", "caller"] = ""

    @model_validator(mode="after")
    def _fits(self) -> "MoveRequest":
        kind = Kind(self.kind)
        for field in ("model", "node", "group", "request"):
            if field in _NEEDED[kind] and not getattr(self, field):
                raise refusal(field, f"it is needed to {kind}")
            if field not in _USED[kind] and getattr(self, field):
                raise refusal(field, f"there is no use for it to {kind}")
        if kind is Kind.MIGRATE and not (self.model or self.group or self.request):
            raise refusal("model", "say what is to move: a model, a group, or a request")
        return self


class GoOnRequest(_Body):
    """Whoever carries the move out is ready for what comes after `step`, and waits up to `timeout_s` for what follows."""

    step: Literal["ordered", "ready"]
    timeout_s: float = Field(600.0, ge=0.0, le=LONGEST_WAIT_S)


class GiveUpRequest(_Body):
    """Nobody wants the move any more."""

    reason: str = Field("an operator does not want it any more", min_length=1, max_length=500)
