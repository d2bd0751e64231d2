"""Systems that decide next to nothing: what others are to be better than."""

from dataclasses import replace

from schedules.placing.policies.anywhere import Anywhere
from schedules.placing.policies.first import First
from schedules.placing.policies.roomiest import Roomiest
from schedules.systems.system import Keeps, Startup, System


def _roomiest(_seed: int) -> Roomiest:
    return Roomiest()


def _first(_seed: int) -> First:
    return First()


_NOTHING = Keeps(dram=False, ssd=False)

VLLM = System(
    "vllm", _first, consolidate=False, keeps=_NOTHING, startup=Startup(serial=True, streams=False), peers=False
)
RANDOM = System("random", Anywhere, consolidate=False, keeps=_NOTHING, peers=False)
LRU = System("lru", _roomiest, consolidate=False, peers=False)


def keeping_alive(system: System, seconds: float) -> System:
    """The same, but for every replica being kept so long after its last request."""
    return replace(system, name=f"{system.name}-keep-alive-{seconds:g}", keep_alive_s=seconds)
