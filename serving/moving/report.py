"""A move as it is told: where it stands since when, and what became of the requests."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from schedules.facts import Placement
from schedules.moving.plan import Handover, Plan, Step


class Carrier(StrEnum):
    """Who says MoveGoOn: the flow service that listens, this front end itself, or whoever asked for the move."""

    FLOW = "flow"
    FRONT_END = "front end"
    CALLER = "caller"


ENDS = (Step.DONE, Step.GIVEN_UP)
_TIMES = {
    Step.ORDERED: "ordered_at",
    Step.PREPARING: "preparing_at",
    Step.READY: "ready_at",
    Step.SWITCHING: "switching_at",
    Step.DONE: "done_at",
}


@dataclass(eq=False)
class Move:
    """As it stands; it changes. `at_s` has when it came to each step, in unix seconds, `why` is why it was given up, and
    `under_way` counts the shifts of which something is still to be told."""

    plan: Plan
    carrier: Carrier
    step: Step = Step.ORDERED
    why: str = ""
    at_s: dict[Step, float] = field(default_factory=dict)
    shifted: int = 0
    stayed: int = 0
    copied: int = 0
    recomputed: int = 0
    copied_bytes: int = 0
    pauses_s: list[float] = field(default_factory=list)
    under_way: int = 0

    @property
    def name(self) -> str:
        return self.plan.move

    @property
    def over(self) -> bool:
        """Whether nothing more will be told of it."""
        return self.step in ENDS and not self.under_way

    def concerns(self, request: str, group: str) -> bool:
        """Whether that the request leaves the group is a part of it."""
        if self.plan.request:
            return self.plan.request == request
        return any(handover.group == group for handover in self.plan.handovers)

    def as_json(self) -> dict[str, Any]:
        """For the API and the history."""
        plan = self.plan
        return {
            "move": plan.move,
            "kind": str(plan.kind),
            "step": str(self.step),
            "reason": plan.reason,
            "why": self.why,
            "node": plan.node,
            "request": plan.request,
            "wish": plan.wish,
            "carrier": str(self.carrier),
            "predicted_s": dict(plan.predicted_s),
            "handovers": [_handover_json(handover) for handover in plan.handovers],
            "requests": {
                "shifted": self.shifted,
                "stayed": self.stayed,
                "copied": self.copied,
                "recomputed": self.recomputed,
                "copied_bytes": self.copied_bytes,
            },
            "pauses_s": list(self.pauses_s),
            **{name: self._at(step) for step, name in _TIMES.items()},
        }

    def _at(self, step: Step) -> float | None:
        """One that was given up is over when it was."""
        return self.at_s.get(Step.GIVEN_UP) if step is Step.DONE and self.step is Step.GIVEN_UP else self.at_s.get(step)


def _handover_json(handover: Handover) -> Mapping[str, Any]:
    heirs = [{"group": heir.group, **_placed_json(heir.placement)} for heir in handover.heirs]
    return {
        "group": handover.group,
        "model": handover.key.name,
        **_placed_json(handover.placement),
        "heirs": heirs,
    }


def _placed_json(placement: Placement) -> dict[str, Any]:
    return {"degree": placement.degree, "nodes": [stage.node for stage in placement.stages]}
