"""Who holds which unit, by what nodes tell of themselves."""

from collections.abc import Iterable


class UnitHolders(dict[str, set[str]]):
    """By digest of a unit the names of the nodes that hold it, of which there is always one at least."""

    def gain(self, node: str, digests: Iterable[str]) -> None:
        """The node has them."""
        for digest in digests:
            self.setdefault(digest, set()).add(node)

    def lose(self, node: str, digests: Iterable[str]) -> None:
        """The node has none of them any more."""
        for digest in digests:
            names = self.get(digest)
            if names is not None:
                names.discard(node)
                if not names:
                    del self[digest]
