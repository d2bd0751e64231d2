"""What can be wrong with a history, or with a file that holds a fitted world; each says it in one sentence."""


class FitError(Exception):
    """A world cannot be fitted, or not be read."""


class TooLittle(FitError):
    """There is not enough of a history to learn from."""


class BadWorld(FitError):
    """A file holds no fitted world, or a damaged one."""
