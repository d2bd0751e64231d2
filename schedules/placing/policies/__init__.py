"""The rules by which a cold model is placed, all behind one interface: ours, the anchors', and a fixed degree."""

from collections.abc import Mapping

from schedules.placing.decision import Policy
from schedules.placing.policies.fixed import Fixed
from schedules.placing.policies.hydraserve import HydraServe
from schedules.placing.policies.planned import Planned
from schedules.placing.policies.serverlessllm import ServerlessLlm

POLICIES: Mapping[str, Policy] = {policy.name: policy for policy in (Planned(), Fixed(), HydraServe(), ServerlessLlm())}
