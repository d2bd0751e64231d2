"""The models of a store, as plans see them."""

from collections.abc import Sequence
from functools import cached_property

from cluster.model_facts import facts_of
from schedules.facts import Model
from storage_tiers.model_store import ModelStore


class StoreModels:
    """See flows.planning.models.Published. What is there is asked once, and only if somebody wants to know."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store

    def names(self) -> Sequence[str]:
        """See Published."""
        return self._names

    def model(self, name: str) -> Model:
        """See Published."""
        return facts_of(self._store.open(name))

    @cached_property
    def _names(self) -> Sequence[str]:
        return self._store.list()
