"""ServerlessLLM (OSDI'24): locality, with and without moving what runs where a model lies."""

from dataclasses import replace

from schedules.placing.policies.serverlessllm import ServerlessLlm
from schedules.systems.system import Startup, System


def _locality(_seed: int) -> ServerlessLlm:
    return ServerlessLlm()


def _migrating(_seed: int) -> ServerlessLlm:
    return ServerlessLlm(migrates=True)


SERVERLESSLLM = System("serverlessllm", _locality, consolidate=False, startup=Startup(serial=True), peers=False)
SERVERLESSLLM_MIGRATION = replace(
    SERVERLESSLLM, name="serverlessllm-migration", policy=_migrating, consolidate=True, moves_others=True
)
