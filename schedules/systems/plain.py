"""Systems that decide next to nothing: what others are to be better than."""

from dataclasses import replace

from schedules.placing.policies.anywhere import Anywhere
from schedules.placing.policies.roomiest import Roomiest
from schedules.systems.system import Keeps, Startup, System


def _roomiest(_seed: int) -> Roomiest:
    return Roomiest()


_NOTHING = Keeps(dram=False, ssd=False)

VLLM = System("vllm", _roomiest, consolidate=False, keeps=_NOTHING, startup=Startup(serial=True), peers=False)
RANDOM = System("random", Anywhere, consolidate=False, keeps=_NOTHING, peers=False)
LRU = System("lru", _roomiest, consolidate=False, peers=False)


def keeping_alive(system: System, seconds: float) -> System:
    """The same, but for every replica being kept so long after its last request."""
    return replace(system, name=f"{system.name}-keep-alive-{seconds:g}", keep_alive_s=seconds)
