"""What nodes hold that nobody will ask for, as a plan sees it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from schedules.facts import Model, Node, View
from schedules.foresight.plan import Plan

NOT_PUBLISHED = "(no published version)"


@dataclass(frozen=True)
class Drop:
    """Units that a node shall hold no more, by their digests, of one model; `size_bytes` as far as it is known. `reason` is a
    sentence for a person."""

    node: str
    model: str
    digests: tuple[str, ...]
    size_bytes: int
    reason: str


@dataclass(frozen=True)
class Owner:
    """Whose unit it is, by the name of one of its models, and its size."""

    model: str
    size_bytes: int


def drops_of(
    view: View, plan: Plan, published: Sequence[Model], spared: Collection[str], fuller_than: float
) -> list[Drop]:
    """By node and model: units of no published version, and of nodes whose dram or ssd is fuller than that share those that
    the plan gives no worth in either tier. Those of models that are `spared`, by name, stay."""
    owners = {unit.digest: Owner(model.name, unit.size_bytes) for model in published for unit in model.units}
    kept = {unit.digest for model in published if model.name in spared for unit in model.units}
    kept |= {unit.digest for model in published if plan.worth.get(model.key, 0.0) > 0 for unit in model.units}
    kept |= _staged(plan, published)
    found: list[Drop] = []
    for node in sorted(view.nodes, key=lambda node: node.name):
        worthless = [digest for digest in node.units if digest not in kept and not _worth(plan, node.name, digest)]
        full = _share(node) > fuller_than
        reason = f"the plan gives it no worth, and the node is fuller than {fuller_than:.0%}"
        found += _of(node.name, [digest for digest in worthless if full and digest in owners], owners, reason)
        lost = [digest for digest in worthless if digest not in owners]
        found += _of(node.name, lost, owners, "no model that is published has these units")
    return found


def _staged(plan: Plan, published: Sequence[Model]) -> set[str]:
    """What the plan brings somewhere, or has a replica of: it may be there on its way."""
    keys = {staging.key for staging in plan.stagings} | {kept.key for kept in plan.kept}
    return {unit.digest for model in published if model.key in keys for unit in model.units}


def _worth(plan: Plan, node: str, digest: str) -> float:
    return max(retention.worth.get(digest, retention.otherwise) for retention in plan.retention(node))


def _share(node: Node) -> float:
    """How full the fuller of its tiers is."""
    return max(node.dram_used_bytes / (node.dram_bytes or 1), node.ssd_used_bytes / (node.ssd_bytes or 1))


def _of(node: str, digests: Sequence[str], owners: Mapping[str, Owner], reason: str) -> list[Drop]:
    by_model: dict[str, list[str]] = {}
    for digest in digests:
        by_model.setdefault(owners[digest].model if digest in owners else NOT_PUBLISHED, []).append(digest)
    return [
        Drop(node, model, tuple(its), sum(owners[digest].size_bytes for digest in its if digest in owners), reason)
        for model, its in sorted(by_model.items())
    ]
