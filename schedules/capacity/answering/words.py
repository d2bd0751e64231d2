"""How clusters, shares and times are called in sentences."""

from math import floor, log10

from schedules.capacity.clusters import Cluster

_MOST_DIGITS, _EPSILON = 5, 1e-6


def machines_in_words(cluster: Cluster) -> str:
    """Its machines: "3 x A10 + 1 x H100", in the order in which it has them."""
    return " + ".join(f"{count} x {name}" for name, count in cluster.machines.items() if count)


def percent(share: float) -> str:
    """Never more than it is, for what misses 99 % must not read as if it attained that; with as many digits as tell it from
    all: "95 %", "99.2 %", "99.97 %"."""
    if not 0.0 < share < 1.0:
        return f"{share * 100:.0f} %"
    digits = min(_MOST_DIGITS, max(1, floor(-log10(1.0 - share)) - 1))
    told = floor(share * 100 * 10**digits + _EPSILON) / 10**digits
    return f"{told:.{digits}f}".rstrip("0").removesuffix(".") + " %"


def seconds(value_s: float) -> str:
    """With three digits that mean something: "1.24 s", "38.1 ms"."""
    return f"{value_s:.3g} s" if value_s >= 0.1 else f"{value_s * 1000:.3g} ms"


def price(per_h: float, currency: str) -> str:
    """Of an hour: "$12.50 an hour", "12.50 EUR an hour"."""
    return f"{currency}{per_h:,.2f} an hour" if len(currency) == 1 else f"{per_h:,.2f} {currency} an hour"
