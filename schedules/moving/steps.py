"""A move from its order to its end, as one table. `draw` gives the table as a diagram for the docs."""

from collections.abc import Mapping

from schedules.moving.plan import Step

TABLE: Mapping[Step, tuple[Step, ...]] = {
    Step.ORDERED: (Step.PREPARING, Step.GIVEN_UP),
    Step.PREPARING: (Step.READY, Step.GIVEN_UP),
    Step.READY: (Step.SWITCHING, Step.GIVEN_UP),
    Step.SWITCHING: (Step.DONE, Step.GIVEN_UP),
    Step.DONE: (),
    Step.GIVEN_UP: (),
}


class IllegalStep(ValueError):
    """A move cannot come there from where it stands; nothing has changed."""


def step(at: Step, to: Step) -> Step:
    """`to`, if a move that stands `at` its step may come there; else IllegalStep."""
    if to not in TABLE[at]:
        raise IllegalStep(f"a move that is {at} cannot be {to}")
    return to


def draw() -> str:
    """The table as a Mermaid state diagram."""
    names = {each: each.replace(" ", "_") for each in Step}
    lines = ["stateDiagram-v2", f"    [*] --> {names[Step.ORDERED]}"]
    lines += [f"    {names[at]} --> {names[to]}" for at, all_to in TABLE.items() for to in all_to]
    lines += [f"    {names[at]} --> [*]" for at, all_to in TABLE.items() if not all_to]
    return "\n".join(lines)
