"""The errors of storage_tiers, a small tree that callers translate once, at their border."""


class StorageError(Exception):
    """Root of every error raised here."""


class Missing(StorageError):
    """The object, unit or model asked for is not there."""


class Corrupt(StorageError):
    """Bytes or metadata are not what the index promises; they were not handed out."""


class StoreUnavailable(StorageError):
    """The store could not be reached or refused the credentials; trying again may help."""


class Faltering(StoreUnavailable):
    """It did not work for a reason that passes: overload, a connection that broke, no descriptor left on this machine.

    `after_s`: for how long who refused asked not to be asked again.
    """

    def __init__(self, message: str, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.after_s = after_s


class OutOfSpace(StorageError):
    """A tier's budget or the medium below it cannot hold what was asked."""


class SourceError(StorageError):
    """What should be published cannot be: damaged, incomplete, or not a model."""


class UnsupportedModel(SourceError):
    """The source is sound, but its model family or tensor type is not supported."""
