"""How a front end has Python look for garbage in circles: seldom, and never in what it keeps.

By default every 700 new objects are looked at, and now and then all there are: with a thousand models that takes a tenth of
a second, in which no token goes out.
"""

import gc

YOUNG, MIDDLE, OLD = 10_000, 10, 20
"""So many objects more than before are looked at; every so many times those that were left over, too; and so on."""


def collect_seldom() -> None:
    """From now on."""
    gc.set_threshold(YOUNG, MIDDLE, OLD)


def keep_what_is_there() -> None:
    """What there is now is here to stay, and not looked at again."""
    gc.collect()
    gc.freeze()
