"""How long things take, each formula once.

Speeds are measured (`schedules.rates`). What nobody has measured is not guessed: without it there is no prediction.
The cold start follows HydraServe's overlapped timeline, per unit instead of per model: everything that must happen runs
at once, and a stage computes a layer as soon as that layer is there. Its fixed two seconds and hard-coded buses are gone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from schedules.facts import Rate
from schedules.rates import BUS, DECODE, NIC, PREFILL, REACH, SSD, formed_degree


@dataclass(frozen=True)
class Speeds:
    """What a node does, all of it in the mean or all at its bad end. `formed_s` by degree."""

    nic_bytes_per_s: float
    ssd_bytes_per_s: float
    bus_bytes_per_s: float
    decode_bytes_per_s: float
    prefill_bytes_per_s: float
    reach_s: float
    formed_s: Mapping[int, float]

    def formed(self, degree: int) -> float:
        """Seconds from order to group formed; a degree that was never formed is taken for the next smaller one."""
        known = [d for d in self.formed_s if d <= degree] or [min(self.formed_s)]
        return self.formed_s[max(known)]


def speeds_of(rates: Mapping[str, Rate], *, bad: bool) -> Speeds | None:
    """A node's speeds by its rates; None if something that a cold start needs was never measured.

    A node without a bus to its accelerator computes on units where they lie.
    """

    def value(name: str, otherwise: float | None = None) -> float:
        if name not in rates and otherwise is not None:
            return otherwise
        return rates[name].bad if bad else rates[name].mean

    formed = {degree: value(name) for name in rates if (degree := formed_degree(name)) is not None}
    if not formed or not {NIC, SSD, DECODE, PREFILL} <= rates.keys():
        return None
    return Speeds(
        value(NIC), value(SSD), value(BUS, float("inf")), value(DECODE), value(PREFILL), value(REACH, 0.0), formed
    )  # fmt: skip


class KnownSpeeds:
    """The speeds of nodes, by name: each found once, and anew when the node's rates are others."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Mapping[str, Rate], Speeds | None, Speeds | None]] = {}

    def of(self, node: str, rates: Mapping[str, Rate]) -> tuple[Speeds | None, Speeds | None]:
        """In the mean and at their bad end; None as of `speeds_of`."""
        known = self._found.get(node)
        if known is None or known[0] is not rates:
            known = self._found[node] = rates, speeds_of(rates, bad=False), speeds_of(rates, bad=True)
        return known[1:]


@dataclass(frozen=True)
class StageTimeline:
    """A stage of a cold start: when it is formed, and for each of its units in order of use when its last byte is in
    memory and how many bytes the computation reads of it. Seconds from the decision."""

    speeds: Speeds
    formed_s: float
    units: Sequence[tuple[float, int]]


def step_s(weight_bytes: float, tokens: int, speeds: Speeds) -> float:
    """One step of a stage: bound by reading its weights for few tokens, by arithmetic for many (the roofline)."""
    return max(weight_bytes / speeds.decode_bytes_per_s, weight_bytes * tokens / speeds.prefill_bytes_per_s)


def first_token_s(stages: Iterable[StageTimeline], prompt_tokens: int) -> float:
    """From the decision to the first token: each layer waits for the one before it and for its own bytes, which go over the
    bus one unit after the other. No two stages compute at once, so what they compute on may be the same."""
    stages = list(stages)
    done_s = max([stage.formed_s for stage in stages])  # a group is formed when its last stage is
    for stage in stages:
        bus_bytes_per_s, step_s_per_byte = stage.speeds.bus_bytes_per_s, step_s(1, prompt_tokens, stage.speeds)
        copied_s = 0.0
        for arrives_s, size_bytes in stage.units:
            copied_s = (arrives_s if arrives_s > copied_s else copied_s) + size_bytes / bus_bytes_per_s
            if copied_s > done_s:
                done_s = copied_s
            done_s += size_bytes * step_s_per_byte
    return done_s


def computing_s(stages: Iterable[StageTimeline], prompt_tokens: int) -> float:
    """What the first token takes at most once all bytes are on their nodes, be it all at once, and the group is formed."""
    copies_s, steps_s = 0.0, 0.0
    for stage in stages:
        size_bytes = sum([size_bytes for _, size_bytes in stage.units])
        copies_s = max(copies_s, size_bytes / stage.speeds.bus_bytes_per_s)
        steps_s += step_s(size_bytes, prompt_tokens, stage.speeds)
    return copies_s + steps_s


def token_s(stages: Sequence[tuple[int, Speeds]], hop_s: float, tokens: int = 1) -> float:
    """Time per output token of one request: each stage in turn reads its weight bytes, and the token goes round; with
    `tokens` in the step, those of others among them."""
    computing_s = sum(step_s(weight_bytes, tokens, speeds) for weight_bytes, speeds in stages)
    return computing_s + hops_s(len(stages), hop_s)


def hops_s(stages: int, hop_s: float) -> float:
    """Of a token once round so many stages."""
    return stages * hop_s if stages > 1 else 0.0


def arrivals_s(begin_s: float, end_s: float, sizes: Sequence[int]) -> list[float]:
    """When each of several units is there that come in a row from `begin_s` to `end_s`."""
    total, seen, found = sum(sizes), 0, []
    for size in sizes:
        seen += size
        found.append(begin_s + (end_s - begin_s) * seen / total if total else end_s)
    return found


def there_s(speeds: Speeds, nic_bytes_per_s: float, sizes: Sequence[int], tiers: Sequence[str]) -> list[float]:
    """When each of a stage's units is in memory that is asked for at once, alone on the node's links: those of the tier
    "dram" are, those on "ssd" and all others come in their order, each kind by its own way."""
    far, near, found = 0, 0, []
    for size, tier in zip(sizes, tiers, strict=True):
        if tier == "dram":
            found.append(0.0)
        elif tier == "ssd":
            near += size
            found.append(near / speeds.ssd_bytes_per_s)
        else:
            far += size
            found.append(far / nic_bytes_per_s)
    return found


def whole_s(speeds: Speeds, degree: int, fetched_s: float, near_bytes: int, weight_bytes: int) -> float:
    """Until a stage that came behind has all of its units: its group is formed, and bytes over the network, which are there
    at `fetched_s`, those from ssd, and all of them over the bus, come at once."""
    near_s, bus_s = near_bytes / speeds.ssd_bytes_per_s, weight_bytes / speeds.bus_bytes_per_s
    return max(speeds.formed(degree), fetched_s, near_s, bus_s)


def copy_s(kv_bytes: float, speeds: Speeds) -> float:
    """Until so much KV cache has come to a node from others."""
    return kv_bytes / speeds.nic_bytes_per_s


def migration_s(load_s: float, tokens: int, prefill_tokens_per_s: float, decode_tokens_per_s: float) -> float:
    """Until a running replica goes on elsewhere: it is loaded there while the old one serves, then the tokens are taken
    over in rounds, each as long as recomputing what the one before left (ServerlessLLM, with the series summed)."""
    ratio = decode_tokens_per_s / prefill_tokens_per_s
    if ratio >= 1.0:
        return float("inf")  # the gap would never close
    return load_s + tokens / prefill_tokens_per_s / (1.0 - ratio)


def cost_byte_s(reserved_bytes: Iterable[int], seconds: float) -> float:
    """What a group costs: its accelerator memory times the time it has it."""
    return sum(reserved_bytes) * seconds
