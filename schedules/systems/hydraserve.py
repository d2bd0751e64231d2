"""HydraServe (NSDI'26): pipelines of as few stages as meet the service level, over slices of accelerators, become whole."""

from dataclasses import replace

from schedules.placing.policies.hydraserve import HydraServe
from schedules.systems.system import Keeps, Startup, System


def _smallest(_seed: int) -> HydraServe:
    return HydraServe(sliced=True)


HYDRASERVE = System(
    "hydraserve",
    _smallest,
    consolidate=True,
    keeps=Keeps(dram=False, ssd=False),
    startup=Startup(sliced=True),
    peers=False,
    in_place=True,
)
HYDRASERVE_CACHE = replace(HYDRASERVE, name="hydraserve-cache", keeps=Keeps(ssd=False, of_pipelines=False))
"""Nodes keep models in dram that came for a start of one stage, as many as go in."""
