"""Measured quantities: what was seen of late, its running mean and its bad end. Nothing here is a constant of a machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, fsum
from statistics import median

from schedules.facts import Rate

NIC = "nic"
"""Bytes of payload a second that came in from the object store and from peers, all transfers of the node together."""
SSD = "ssd"
"""Bytes a second read from the node's ssd, all transfers together."""
BUS = "bus"
"""Bytes a second copied from the host's memory to an accelerator; absent on a CPU."""
DECODE = "decode"
"""Bytes of weights a second in steps of one token: a stage's weights over the seconds of its step, waiting left out."""
PREFILL = "prefill"
"""Bytes of weights times tokens a second in steps of PREFILL_TOKENS tokens or more, waiting left out."""
STREAM = "stream"
"""Bytes of payload a second that came from the object store in one range after the other."""
REACH = "reach"
"""Seconds of one small read from the object store."""
STORE = "store"
"""Bytes a second that the object store gives to all nodes together; absent if it was not seen to limit them."""
FORMED = "formed"
"""Seconds from an order's arrival at the node to its stage being in its group; kept for each degree, see `formed`."""
_FORMED_AT = f"{FORMED}."

PREFILL_TOKENS = 16
STORE_LIMITS = 0.9
"""Nodes that together get less than this share of what they get alone are limited by the store."""

STREAM_BYTES_PER_S = 10e6
FEWEST_STREAMS = 2
"""While one waits for its first byte another one fills the wire."""
PART_S, SMALLEST_PART_BYTES = 0.1, 256 << 10
"""What can wait is read in parts that take the card about so long, so that it makes way as soon."""

KEPT_SAMPLES = 32
TYPICAL_SAMPLES, REACHED_SAMPLES = 8, 16
REACHED = {NIC: 0.6, SSD: 0.8, DECODE: 0.6, PREFILL: 0.6}
"""What is shared is taken for as fast as it was seen at this quantile: what held samples back was often another's use, and
of an ssd mostly, which nodes of one machine read at once."""
NEWEST_WEIGHT = 0.25
"""Weight of the newest sample in the running mean."""
BAD_END = 0.1
"""The share of samples that are worse than the bad end."""


@dataclass(frozen=True)
class Measured:
    """The latest samples of one quantity, oldest first; at least one, all positive."""

    samples: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.samples or min(self.samples) <= 0:
            raise ValueError(f"not a measurement: {self.samples}")

    @property
    def mean(self) -> float:
        """Exponentially weighted, the newest weighing most."""
        mean = self.samples[0]
        for sample in self.samples[1:]:
            mean += NEWEST_WEIGHT * (sample - mean)
        return mean

    @property
    def typical(self) -> float:
        """The median of the latest few: one odd sample, such as a stage's first start, does not count."""
        return median(self.samples[-TYPICAL_SAMPLES:])

    def reached(self, quantile: float) -> float:
        """A link's speed: above the median of the latest, for a sample under contention is a lower bound."""
        latest = sorted(self.samples[-REACHED_SAMPLES:])
        return latest[round(quantile * (len(latest) - 1))]

    @property
    def low(self) -> float:
        """What nine of ten samples reach: the bad end of a rate."""
        return sorted(self.samples)[int(BAD_END * (len(self.samples) - 1) + 0.5)]

    @property
    def high(self) -> float:
        """What one of ten samples passes: the bad end of a duration."""
        return sorted(self.samples, reverse=True)[int(BAD_END * (len(self.samples) - 1) + 0.5)]

    def with_sample(self, value: float) -> "Measured":
        """One more; beyond KEPT_SAMPLES the oldest is forgotten."""
        return Measured((*self.samples, value)[-KEPT_SAMPLES:])


def formed(degree: int) -> str:
    """The name of FORMED at this degree: "formed.2", say."""
    return f"{FORMED}.{degree}"


def formed_degree(name: str) -> int | None:
    """The degree in a name made by `formed`; None for another name."""
    return int(name[len(_FORMED_AT) :]) if name.startswith(_FORMED_AT) else None


def is_duration(name: str) -> bool:
    """Whether the quantity is in seconds, so that more is worse; the others are speeds."""
    return name == REACH or name.startswith(f"{FORMED}.")


def as_rate(name: str, measured: Measured) -> Rate:
    """`measured` as a node reports it. A speed drifts, and is averaged; a duration is hit by odd ones, and what others use
    too, on the wire or on the machine, by those others, and they are not."""
    if name in REACHED:
        return Rate(measured.reached(REACHED[name]), measured.low, len(measured.samples))
    if is_duration(name):
        return Rate(measured.typical, measured.high, len(measured.samples))
    return Rate(measured.mean, measured.low, len(measured.samples))


def store_limit(alone: Mapping[str, float], together: Mapping[str, float]) -> float | None:
    """What the store gives to all nodes together, in bytes/s, from what each got alone and what each got while all read.

    None if it was not seen to limit them: of those that were measured both ways, at least two, the sum is about the same.
    """
    both = alone.keys() & together.keys()
    total = fsum(together[node] for node in both)
    limits = len(both) > 1 and total < STORE_LIMITS * fsum(alone[node] for node in both)
    return total if limits else None


def streams(rates: Mapping[str, Rate]) -> int | None:
    """How many ranges a node should read at once over its network card; None while too little is known.

    Over a fast one a single connection gets only a part of what the store could give, and where the store holds every
    connection back it takes as many as make up the card's speed. On a slow one many overrun the queue before it: packets
    are lost, some streams wait for them to be sent again, and a start waits for the slowest.
    """
    if not {NIC, STREAM} <= rates.keys():
        return None
    nic, stream = rates[NIC].mean, rates[STREAM].mean
    return max(FEWEST_STREAMS, ceil(nic / STREAM_BYTES_PER_S), ceil(nic / stream) + 1)


def part_bytes(rates: Mapping[str, Rate]) -> int | None:
    """How much of a range to read before something more urgent gets its turn; None while too little is known."""
    at_once = streams(rates)
    return None if at_once is None else max(SMALLEST_PART_BYTES, int(PART_S * rates[NIC].mean / at_once))


def observe(known: Mapping[str, Measured], name: str, value: float) -> dict[str, Measured]:
    """`known` with one more sample of `name`; what cannot be a measurement (zero, negative) is left out."""
    if value <= 0:
        return dict(known)
    measured = known[name].with_sample(value) if name in known else Measured((value,))
    return {**known, name: measured}
