"""The errors of firsttoken: each message is one sentence for a person at a terminal."""

from cluster.errors import ClusterError
from flows.errors import FlowError
from schedules.capacity.errors import CapacityError
from schedules.fitting.errors import FitError
from schedules.traces.errors import TraceError
from serving.errors import HistoryError
from storage_tiers.errors import StorageError


class FirsttokenError(Exception):
    """Root of every error raised here."""


class SettingsError(FirsttokenError):
    """A settings file or the environment says something that no setting can mean."""


class PortInUse(FirsttokenError):
    """Something else listens where a component should."""


class AlreadyUp(FirsttokenError):
    """A platform runs in this home already."""


class NotUp(FirsttokenError):
    """No platform runs in this home, or it does not answer."""


class StartFailed(FirsttokenError):
    """A component ended or stayed silent while it should have come up, or would not stay up."""


class RequestFailed(FirsttokenError):
    """The front end refused or failed a request."""


class MoveFailed(FirsttokenError):
    """A move came to nothing, or is not over in time."""


class DemoModelMissing(FirsttokenError):
    """The package that carries the demo's model is not installed."""


class DemoStuck(FirsttokenError):
    """What the demo waits for does not come."""


class DemoBroken(FirsttokenError):
    """What the demo shows is not what it should be."""


class NotACheckout(FirsttokenError):
    """A command needs more of the repository than is installed."""


def is_expected(error: BaseException) -> bool:
    """Whether the message alone tells a person what is wrong; of anything else the log must hold a traceback."""
    ours = (
        FirsttokenError, StorageError, ClusterError, FlowError, HistoryError, TraceError, FitError, CapacityError,
    )  # fmt: skip
    return isinstance(error, (*ours, OSError))
