"""Whether a read that failed is tried again, and when: pauses that grow, no two alike, within the time that there is."""

import random

from storage_tiers.errors import Corrupt, Faltering, StorageError, StoreUnavailable

ATTEMPTS = 4
"""Of a read that gives wrong bytes, or of which nobody knows whether it will ever work."""
FIRST_BACKOFF_S, MOST_BACKOFF_S = 0.05, 2.0
_SOON_S = 1.0


def again_after_s(error: StorageError, tries: int, left_s: float = 0.0) -> float | None:
    """How long to wait after a read has failed `tries` times, the last time with `error`; None if it is not tried again.

    What passes by itself is tried for the `left_s` seconds that the caller has, and not before the store said; if that
    is later there is no use in waiting for it. The rest, and all while there is no time left, ATTEMPTS times.
    """
    if not isinstance(error, Corrupt | StoreUnavailable):
        return None
    passing = isinstance(error, Faltering)
    if tries >= ATTEMPTS and not (passing and left_s > 0):
        return None
    most_s = max(FIRST_BACKOFF_S, MOST_BACKOFF_S)
    backoff_s = min(FIRST_BACKOFF_S * 2.0 ** min(tries - 1, 30), most_s) * random.uniform(0.5, 1.0)
    asked_s = error.after_s if isinstance(error, Faltering) else 0.0
    if asked_s > max(left_s, _SOON_S if tries < ATTEMPTS else 0.0):
        return None
    if passing and left_s > asked_s:
        return min(asked_s + backoff_s, left_s)
    return asked_s + backoff_s
