"""How clusters, shares and times are called in sentences."""

from schedules.capacity.clusters import Cluster


def machines_in_words(cluster: Cluster) -> str:
    """Its machines: "3 x A10 + 1 x H100", in the order in which it has them."""
    return " + ".join(f"{count} x {name}" for name, count in cluster.machines.items() if count)


def percent(share: float) -> str:
    """With as many digits as tell it from all: "95 %", "99.2 %", "99.97 %"."""
    if share == 1.0:
        return "100 %"
    for digits in (1, 2, 3):
        told = f"{share * 100:.{digits}f}"
        if float(told) < 100.0:
            break
    return f"{told.removesuffix('.0')} %"


def seconds(value_s: float) -> str:
    """With three digits that mean something: "1.24 s", "38.1 ms"."""
    return f"{value_s:.3g} s" if value_s >= 0.1 else f"{value_s * 1000:.3g} ms"


def price(per_h: float, currency: str) -> str:
    """Of an hour: "$12.50 an hour", "12.50 EUR an hour"."""
    return (
        f"{currency}{per_h:,.2f} an hour"
        if len(currency) == 1
        else f"{per_h:,.2f} {currency} an hour".replace("  ", " ")
    )
