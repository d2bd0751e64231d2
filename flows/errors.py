"""The errors of flows."""


class FlowError(Exception):
    """Root of every error raised here."""


class NoContext(FlowError):
    """A flow runs in a process that was not told where cluster and store are."""


class UnitsNotBrought(FlowError):
    """A model could not be brought to some of the nodes."""
