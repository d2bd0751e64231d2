"""Ways to run a cluster, to be compared: ours, those of two papers, and plainer ones, all behind the brain's interface."""

from collections.abc import Mapping

from schedules.systems.hydraserve import HYDRASERVE, HYDRASERVE_CACHE
from schedules.systems.plain import LRU, RANDOM, VLLM
from schedules.systems.serverlessllm import SERVERLESSLLM, SERVERLESSLLM_MIGRATION
from schedules.systems.system import OURS, STAYING, System

SYSTEMS: Mapping[str, System] = {
    system.name: system
    for system in (
        OURS,
        STAYING,
        SERVERLESSLLM,
        SERVERLESSLLM_MIGRATION,
        HYDRASERVE,
        HYDRASERVE_CACHE,
        VLLM,
        RANDOM,
        LRU,
    )
}
"""By name. `plain.keeping_alive` makes others of them."""
