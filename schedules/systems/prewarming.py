"""Ways to have models at hand before they are asked for, to be compared: ours in all else, on the same nodes."""

from dataclasses import replace

from schedules.foresight.forecast import Forecaster
from schedules.foresight.forecasters import DEFAULT, FORECASTERS
from schedules.foresight.forecasters.oracle import Oracle
from schedules.foresight.plan import Budgets
from schedules.systems.prewarms import Prewarms
from schedules.systems.system import OURS, Keeps, System
from schedules.traces.trace import Trace

SHORT_S, FIXED_S = 10.0, 600.0
UNTIL_NEEDED_S = 1e9
"""A replica stays until others need its room."""
BUDGETS = Budgets(
    dram_share=1.0, ssd_share=1.0, device_share=0.25, link_share=0.5, moved_bytes=None, least_saved_s=0.0,
    least_saved_device_s=0.0,
)  # fmt: skip
"""All dram and ssd that there are: what is not planned for is there for what was used last. Of accelerators as much as by
default: replicas that come before anybody asks are in the way of those that somebody waits for."""
EVERY_S, HORIZON_S = 60.0, 900.0

NOTHING = replace(OURS, name="nothing", keeps=Keeps(dram=False, ssd=False), keep_alive_s=SHORT_S)
"""Replicas go soon after their last request, and units with them."""
LRU = replace(OURS, name="lru", keep_alive_s=UNTIL_NEEDED_S)
"""In each tier stays what was used last, on accelerators too, until others need its room."""
KEEP_ALIVE = replace(OURS, name="keep-alive", keep_alive_s=FIXED_S)
"""Replicas go a fixed time after their last request; in dram and on ssd stays what was used last."""


def foreseeing(forecaster: Forecaster, name: str = "") -> System:
    """The least recently used goes as far as nothing better is known; what is foreseen is brought and kept."""
    prewarms = Prewarms(forecaster, BUDGETS, EVERY_S, HORIZON_S)
    return replace(LRU, name=name or forecaster.name, prewarms=prewarms)


HISTOGRAM = foreseeing(FORECASTERS["hybrid-histogram"])
WARMSERVE = foreseeing(FORECASTERS["warmserve"])
CHOSEN = foreseeing(FORECASTERS[DEFAULT], "ours")


def knowing(trace: Trace) -> System:
    """It plans by what really comes."""
    return foreseeing(Oracle(trace), "oracle")


def compared(trace: Trace) -> tuple[System, ...]:
    """All of them for a trace, from the one that knows least to the one that knows all."""
    return NOTHING, LRU, KEEP_ALIVE, HISTOGRAM, WARMSERVE, CHOSEN, knowing(trace)
