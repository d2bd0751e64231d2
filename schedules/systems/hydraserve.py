"""HydraServe (NSDI'26)."""

from schedules.placing.policies.hydraserve import HydraServe
from schedules.systems.system import Keeps, System


def _smallest(_seed: int) -> HydraServe:
    return HydraServe()


HYDRASERVE = System("hydraserve", _smallest, consolidate=True, keeps=Keeps(dram=False, ssd=False), peers=False)
HYDRASERVE_CACHE = System(
    "hydraserve-cache", _smallest, consolidate=True, keeps=Keeps(dram=True, ssd=False), peers=False
)
