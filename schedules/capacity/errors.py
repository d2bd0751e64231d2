"""The errors of capacity planning: each message is one sentence for a person."""


class CapacityError(Exception):
    """Root of every error raised here."""


class BadQuestion(CapacityError):
    """There is no answer to what is asked for, whatever is tried."""


class BadDocument(CapacityError):
    """What was read is no plan or trial of ours, damaged, or of a version to come."""
