"""A node, a past and a forecast, for whoever shows what was planned."""

import numpy as np

from schedules.facts import Node
from schedules.foresight.forecast import Forecast
from schedules.foresight.past import Past, past_of

NODE = Node(
    name="node-1", address="", host="127.0.0.1", rendezvous_port=0, dram_bytes=1 << 30, dram_used_bytes=0, ssd_bytes=1 << 34,
    ssd_used_bytes=0, device_bytes=1 << 34, device_reserved_bytes=0, idle_stage_processes=1, busy_stage_processes=0,
)  # fmt: skip
NOW_S = 7200.0


def past(*models: str) -> Past:
    """Of two hours; the n-th model was called n times in the last of them."""
    which = np.repeat(np.arange(len(models)), np.arange(len(models)))
    return past_of(models, which, np.linspace(5000.0, NOW_S - 1.0, len(which)), 0.0, NOW_S)


def forecast(*models: str, minutes: int = 15) -> Forecast:
    """The n-th model is called n/10 times a minute."""
    expected = np.arange(len(models))[:, None] / 10.0 * np.ones((1, minutes))
    by_then = 1.0 - np.exp(-np.cumsum(expected, axis=1))
    total = expected.sum(axis=1)
    return Forecast(models, NOW_S, expected, by_then, total * 0.0, total * 2.0, ("tsb",) * len(models))
