"""The rules by which a cold model is placed, all behind one interface: ours, the anchors', and a fixed degree."""

from collections.abc import Mapping

from schedules.decision import Policy
from schedules.policies.fixed import Fixed
from schedules.policies.hydraserve import HydraServe
from schedules.policies.planned import Planned
from schedules.policies.serverlessllm import ServerlessLlm

POLICIES: Mapping[str, Policy] = {policy.name: policy for policy in (Planned(), Fixed(), HydraServe(), ServerlessLlm())}
