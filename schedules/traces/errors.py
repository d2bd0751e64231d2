"""The errors of traces: each message is one sentence for a person."""


class TraceError(Exception):
    """Root of every error raised here."""


class BadTrace(TraceError):
    """What was read is no trace, or a part of it says what no request can."""


class BadWish(TraceError):
    """What is asked of a trace cannot be made of it."""
