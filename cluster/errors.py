"""The errors of cluster, translated by callers at their border."""


class ClusterError(Exception):
    """Root of every error raised here."""


class ClusterUnreachable(ClusterError):
    """The Dask scheduler does not answer."""


class NodeLost(ClusterError):
    """A node left or does not answer in time: `node`, if it is one."""

    def __init__(self, message: str, node: str = "") -> None:
        super().__init__(message)
        self.node = node


class Refused(ClusterError):
    """A node would not do what was asked: no memory, no process, or it is shutting down. Decide again."""


class NameTaken(ClusterError):
    """The scheduler has another node of this name."""


class NoDevice(ClusterError):
    """The device that a node was told to compute on is not on its machine."""


class NoInterface(ClusterError):
    """The address that a node was told to listen on is not one of its machine."""


class BadCertificate(ClusterError):
    """The files for encryption are missing, damaged, out of date or do not belong together."""


class StageFailed(ClusterError):
    """A stage could not be formed or broke; the group is over."""


class NoToken(ClusterError):
    """The model gave no token that could be chosen for a request; the same request fails wherever it is run."""


class BadGrammar(ClusterError):
    """A grammar, or its words, with which no answer can be kept in bounds."""


class NoKv(ClusterError):
    """KV cache cannot be had from a stage, or not be kept by one: what it is of is computed anew."""


class ProtocolError(ClusterError):
    """A message that is not in the vocabulary."""
