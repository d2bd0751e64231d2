"""The errors of flows."""


class FlowError(Exception):
    """Root of every error raised here."""


class NoContext(FlowError):
    """A flow runs in a process that was not told where cluster, store and front end are."""


class UnitsNotBrought(FlowError):
    """A model could not be brought to some of the nodes."""


class NotDropped(FlowError):
    """Some of the nodes did not drop what nobody will ask for."""


class FrontEndAway(FlowError):
    """The front end does not answer, or cannot now. What was asked of it can be asked again."""


class Unanswered(FlowError):
    """The front end did not say whether it did what must not be asked for twice."""


class Unintelligible(FlowError):
    """The front end says what this version does not understand."""


class Refused(FlowError):
    """The front end will not do what it was asked; its sentence says why."""


class MoveGivenUp(FlowError):
    """The move came to nothing: what should have made way goes on as it was."""


class NotInTime(FlowError):
    """A step of a move took longer than any should."""


class PrefectAway(FlowError):
    """Prefect's server does not answer as soon as it must."""


class NotATrace(FlowError):
    """A file holds no trace that can be read, or none can be written there."""


class Unclear(FlowError):
    """What was typed for a plan cannot be meant; the sentence says what would do."""


class SweepFailed(FlowError):
    """What was to be played could not be, or not to its end. What was played is kept."""


class UnknownModel(FlowError):
    """A model that was named cannot be looked ahead for; the sentence says why."""


class NothingKnown(FlowError):
    """There is nothing that a forecast could be made of."""
