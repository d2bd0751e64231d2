"""ServerlessLLM (OSDI'24)."""

from schedules.placing.policies.serverlessllm import ServerlessLlm
from schedules.systems.system import Startup, System


def _locality(_seed: int) -> ServerlessLlm:
    return ServerlessLlm()


SERVERLESSLLM = System("serverlessllm", _locality, consolidate=False, startup=Startup(serial=True), peers=False)
