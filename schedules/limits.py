"""What the brain is allowed, and how patient it is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of waiting, in requests: of all models together, and of one. A start may take `start_timeout_s`, waiting for
    room included. Unless it may `consolidate` pipelines stay what they are, and replicas where they are, but for operators'
    wishes.

    What only systems that ours is compared with ask for: pipelines become whole `in_place`, where a stage has reserved enough
    for that from its start on, as soon as they have answered, whether or not it pays; and of each start it is asked whether
    it `moves_others`, not only of those that are late or without room.
    """

    start_timeout_s: float
    max_held_requests: int
    max_held_per_model: int
    consolidate: bool
    in_place: bool = False
    moves_others: bool = False


REPLAYS = 3
"""So often a request goes on elsewhere."""
START_ATTEMPTS = 3
REFUSED_AFTER_S = 0.1
"""What a node refused is decided again after so long, by what it says then."""
RESUME_S = 15.0
"""So long those that had begun wait for a node that could run their model at all."""
ANNOUNCED_S = 1.0
"""So long after an announcement replicas count as in use."""
ALONE_TOKENS = 16
"""A request of at least so many tokens that had its replica for itself tells what a token takes."""
EMBEDDING_S = 5.0
"""A replica that makes vectors all the time is looked at for so long, to tell how late they come."""

FOUND_WITHIN_S = 3.0
"""So long after its scheduler was joined for the first time starts wait where nodes run groups that nobody knows of: they may
be found, and be just what is wanted."""
SILENT_S, LOST_S = 3.0, 10.0
"""Nothing new goes to a node that was not heard for so long; and what it runs is lost."""

LONGEST_WAIT_S, SHORTEST_WAIT_S = 30.0, 0.05
"""A start that waits for the links is decided again at least, and at most, so often."""
TRIES, PAUSE_S, PAUSE_NODES = 4, 0.02, 100
"""So many starts that lack room are decided again at once, then others have their turn for so long; longer in proportion with
more than so many nodes."""
FAIR_S = 5.0
"""Who has waited for room so long is not overtaken by those who need less of it."""
TURN_AFTER_S, SHORTEST_TURN_S, TURN_STARTS = 2.0, 5.0, 2.0
"""After so long a wait busy replicas make room: those that have served for so long, and for so many times their start."""
KEEP_UP_AFTER_S = 5.0
"""A replica that nobody asks for is tried again so long after it could not start."""

MOVE_PATIENCE_S = 30.0
"""So long a move waits for whoever carries it out."""
MOVE_AGAIN_S = 30.0
"""So long after a move the brain thinks of no other for the same replica, nor for those that were to follow."""
MIGRATE_AMONG = 64
"""With more replicas than these a start does not look for those that could run elsewhere: others are idle somewhere."""
SHIFTS_AT_ONCE = 1
"""So many requests are on their way to one replica: of several each would wait for the last tokens of all."""
SHIFT_AGAIN_S = 1.0
"""So long after a request stayed it is tried once more."""
