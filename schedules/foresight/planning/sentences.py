"""Reasons of a plan, for a person."""

from schedules.foresight.planning.demand import Demand


def when(due_s: float) -> str:
    """From now on."""
    return "within a minute" if due_s < 60.0 else f"in about {due_s / 60.0:.0f} min"


def called(name: str, demand: Demand) -> str:
    """How likely and when, as the beginning of a sentence."""
    if demand.probability >= 0.995:
        return f"{name} is called {when(demand.due_s)}"
    if demand.probability < 0.005:
        return f"{name} is called with a probability of less than 1 %"
    return f"{name} is called with a probability of {demand.probability:.0%}, most likely {when(demand.due_s)}"


def staged(name: str, demand: Demand, tier: str, node: str, source: str, before_s: float, after_s: float) -> str:
    """Why units come to a tier."""
    whence = {"remote": "from the store", "peer": "from other nodes", "ssd": "from its ssd"}[source]
    return (
        f"{called(name, demand)}; with this in {tier} of {node}, {whence}, it can start in {after_s:.2f} s "
        f"where it would take {before_s:.2f} s."
    )


def kept(name: str, demand: Demand, node: str, start_s: float) -> str:
    """Why a replica stays, or comes to the node."""
    where = f"a replica on {node} spares" if node else "its replica, which is up, spares"
    return f"{called(name, demand)}; {where} whoever calls a start of {start_s:.2f} s."


NOWHERE = "There is no node that can be planned for."
NEVER = "Nobody is expected to call it."
ALWAYS_UP = "It has replicas at all times."
THERE = "All that helps it is where it should be."
NO_ROOM = "Others save more in the room that there is."
NO_PASSAGE = "The dram that it would come through is full of what saves more there."
NO_TIME = "Its bytes would not come in time over the links, or are more than may be moved."
NO_GAIN = "Its cold starts would be no faster."
CAPPED = "It saves less than a plan keeps anything for."
FITS_NOWHERE = "It does not fit the nodes' accelerators, however it is split."
