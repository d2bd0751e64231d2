"""Taking things out of the store again: a model by its name, and what no model needs any more.

Versions outlive their model's replacement, because whoever has opened one goes on reading it. They go when nothing of
them, nor the root that last replaced them, has changed for a grace period that must be longer than any load.
"""

import re
from dataclasses import dataclass

from storage_tiers.checkpoint import ROOT, check_model_name, is_model_name
from storage_tiers.errors import Corrupt, Missing, StoreUnavailable
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectFact

GRACE_S = 3600.0
_VERSION = re.compile(r"_[0-9A-Za-z]{1,64}")
"""What else begins so is not ours, and to some stores a pattern."""


@dataclass(frozen=True)
class Garbage:
    """Something that no model needs, by its key."""

    key: str
    size_bytes: int


def remove_model(store: ModelStore, name: str) -> None:
    """Remove the model: it disappears at once, then its objects go. Missing if no such model is published.

    Other models whose names begin with this one's are left alone. A replica that still loads it fails.
    """
    key = f"{check_model_name(name)}/{ROOT}"
    if store.objects.size_bytes(key) is None:
        raise Missing(f"no model {name!r} in {store.objects.url}")
    store.objects.remove(key)
    for version in _versions(store, name):
        store.objects.remove(f"{name}/{version}")
    _tidy(store, name)


def collect(store: ModelStore, *, now_s: float, age_s: float = GRACE_S, dry_run: bool = False) -> tuple[Garbage, ...]:
    """Remove versions that no model names and files that killed writers left, if older than `age_s`; return them.

    `now_s` is Unix time. Versions of a model whose root metadata cannot be read are kept. With `dry_run` nothing goes.
    """
    before_s = now_s - age_s
    versions = [garbage for base in _bases(store) for garbage in _old_versions(store, base, before_s)]
    covered = tuple(f"{garbage.key}/" for garbage in versions)
    partials = [g for g in _old_partials(store, before_s) if not g.key.startswith(covered)]
    if not dry_run:
        for garbage in versions:
            store.objects.remove(garbage.key)
            _tidy(store, garbage.key.rsplit("/", 1)[0])
        for garbage in partials:
            store.objects.sweep_one(garbage.key)
    return (*versions, *partials)


def _tidy(store: ModelStore, base: str) -> None:
    """Leave no empty folder where a model was."""
    while base:
        store.objects.remove_if_empty(base)
        base = base.rpartition("/")[0]


def _bases(store: ModelStore) -> list[str]:
    """Everything that is, was, or may become a model's group."""
    found = []
    for top in filter(is_model_name, store.objects.names("")):
        below = [f"{top}/{name}" for name in store.objects.names(top)]
        found += [top, *filter(is_model_name, below)]
    return found


def _versions(store: ModelStore, base: str) -> list[str]:
    return [name for name in store.objects.names(base) if _VERSION.fullmatch(name)]


def _old_versions(store: ModelStore, base: str, before_s: float) -> list[Garbage]:
    found = []
    for version in _versions(store, base):
        facts = store.objects.facts(f"{base}/{version}")
        if _is_old(facts, before_s) and _is_superseded(store, base, version, before_s):
            found.append(Garbage(f"{base}/{version}", sum(fact.size_bytes for fact in facts.values())))
    return found


def _is_superseded(store: ModelStore, base: str, version: str, before_s: float) -> bool:
    """Whether the model has another version, and has had for long enough. Asked last, as late as can be."""
    try:
        current = store.open(base).version
    except Missing:
        return True
    except (Corrupt, StoreUnavailable):  # of this model alone: a store that is away would not have listed it
        return False
    return current != version and _is_old(store.objects.facts(base, recursive=False), before_s)


def _is_old(facts: dict[str, ObjectFact], before_s: float) -> bool:
    """Whether nothing has changed since; no if there is nothing, or the store does not tell times."""
    return bool(facts) and all(fact.modified_s is not None and fact.modified_s < before_s for fact in facts.values())


def _old_partials(store: ModelStore, before_s: float) -> list[Garbage]:
    abandoned = store.objects.abandoned("")
    facts = store.objects.facts("") if abandoned else {}
    return [
        Garbage(key, facts[key].size_bytes)
        for key in abandoned
        if key in facts and _is_old({key: facts[key]}, before_s)
    ]
