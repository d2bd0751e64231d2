"""All that decisions read and change: nodes, links, promised memory, and what starts taught."""

from collections.abc import Sequence
from dataclasses import replace

from schedules.estimates import Speeds
from schedules.facts import Model, ModelKey, NoPlacement, Placement, View
from schedules.learning import Learned
from schedules.ledgers.links import Links
from schedules.ledgers.memory import Memory
from schedules.ledgers.nodes import Nodes
from schedules.objectives import Objectives
from schedules.placing.decision import Decision, Policy, Question, Running


class Books:
    """Knows no clock: every call says what time it is. What is ordered under a group's name ends with `over`."""

    def __init__(self, policy: Policy, now_s: float) -> None:
        self.nodes, self.memory, self.learned = Nodes(), Memory(), Learned()
        self.policy, self._links = policy, Links({}, now_s)
        self._hopes: dict[ModelKey, tuple[int, str]] = {}

    def decide(
        self,
        group: str,
        model: Model,
        objectives: Objectives,
        now_s: float,
        running: Sequence[Running] = (),
        prompt_tokens: int = 1,
        waited_s: float = 0.0,
        may_migrate: bool = False,
    ) -> Decision:
        """Where the model would start now. Changes nothing that another decision sees."""
        question = self.question(group, model, objectives, now_s, running, prompt_tokens, waited_s)
        return self.policy.decide(replace(question, may_migrate=True) if may_migrate else question)

    def question(
        self,
        group: str,
        model: Model,
        objectives: Objectives,
        now_s: float,
        running: Sequence[Running] = (),
        prompt_tokens: int = 1,
        waited_s: float = 0.0,
    ) -> Question:
        """Where shall the model start now? By the books as they are."""
        self._links.change(self.nodes.take_changed_links(), now_s)
        return Question(
            group, model, objectives, self.nodes.view(), self._links, now_s, running, prompt_tokens, waited_s,
            self.learned.corrections, memory=self.memory,
        )  # fmt: skip

    def hopeless(self, model: Model, objectives: Objectives, now_s: float) -> str:
        """Why the model could not start even if nothing else ran; empty if it could. Found again when nodes come or go."""
        epoch, reason = self._hopes.get(model.key, (-1, ""))
        if epoch != self.nodes.epoch:
            view = View(tuple(replace(node, device_reserved_bytes=0) for node in self.nodes.view().nodes))
            question = Question("", model, objectives, view, Links({}, now_s), now_s, memory=Memory())
            outcome = self.policy.decide(question).outcome
            reason = outcome.reason if isinstance(outcome, NoPlacement) else ""
            self._hopes[model.key] = self.nodes.epoch, reason
        return reason

    def order(self, group: str, decision: Decision, now_s: float) -> None:
        """The chosen candidate is carried out: its bytes are under way, its memory is promised."""
        chosen = decision.chosen
        assert chosen is not None
        assert chosen.placement is not None
        self._links.begin(chosen.transfers, now_s)
        self.memory.promise(group, {stage.node: stage.reserve_bytes for stage in chosen.placement.stages})

    def speeds(self, node: str) -> Speeds | None:
        """What the node does in the mean; None if that was not measured, or it is not there."""
        return self.nodes.speeds(node)

    def stages(self, placement: Placement | None) -> list[tuple[int, Speeds]] | None:
        """The weights of each stage and its node's speeds; None if those of one are not known, or nothing is placed."""
        placed = placement.stages if placement is not None else ()
        found = [(stage.weight_bytes, speeds) for stage in placed if (speeds := self.speeds(stage.node)) is not None]
        return found if found and len(found) == len(placed) else None

    def whole(self, group: str, now_s: float) -> None:
        """All of its units are in its stages."""
        self._links.end_start(group, now_s, later_too=True)

    def hurry(self, group: str, now_s: float) -> None:
        """Somebody waits for what was to come behind all others."""
        self._links.hurry(group, now_s)

    def first_token(self, group: str, now_s: float) -> None:
        """What its first token waited for is there."""
        self._links.end_start(group, now_s, later_too=False)

    def lost(self, group: str, now_s: float) -> None:
        """Nothing is fetched for the group any more; what it has reserved is free once it has stopped."""
        self._links.end_start(group, now_s, later_too=True)

    def over(self, group: str, now_s: float) -> None:
        """Nothing is fetched or reserved for the group any more, beyond what nodes say. Twice is once."""
        self._links.end_start(group, now_s, later_too=True)
        self.memory.release(group)
