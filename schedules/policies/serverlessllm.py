"""ServerlessLLM's rule (OSDI'24): one stage on the node whose own tiers give the model soonest.

T = waiting + M / ssd for a node that has it on ssd, M / bus for one that has it in dram; nodes that have neither are
passed over, for they cannot tell how long a download takes. Where no node has it, the one with the most spare network
takes it, as their deployment does beforehand. The least time wins, then the name. Our rule is measured against it.
"""

from dataclasses import replace

from schedules.candidates import candidate
from schedules.decision import Candidate, Decision, Question
from schedules.facts import NoPlacement, View
from schedules.policies.fixed import no_room
from schedules.survey import Site, Survey


class ServerlessLlm:
    """See the module. Pure; `prediction`s of its candidates are ours, so that the two can be compared."""

    name = "serverlessllm"

    def decide(self, question: Question) -> Decision:
        """The local node of the least loading time, else the one with the most spare network."""
        survey, model = Survey(question), question.model
        needed = model.size_bytes + model.kv_bytes_per_token * question.objectives.kv_tokens
        sites = survey.shortlist(needed, 1)
        if not sites:
            tried = [Candidate(1, (), f"{needed / 1e9:.2f} GB are free on no node")]
            return Decision(self.name, NoPlacement(no_room(question, survey, tried)), tuple(tried))
        local = [s for s in sites if s.far[-1] == 0]
        chosen = min(local or sites, key=lambda s: (_loading_s(s, model.size_bytes), s.node.name))
        found = candidate(Survey(replace(question, view=View((chosen.node,)))), 1)
        assert found.placement is not None
        why = (
            "the node whose own tiers give it soonest"
            if local
            else "no node has it: the one with the most spare network"
        )
        placement = replace(found.placement, reasons=(why,))
        others = tuple(
            Candidate(1, (s.node.name,), "slower to load" if s in local else "it does not have the model")
            for s in sites
            if s is not chosen
        )
        return Decision(self.name, placement, (*others, replace(found, placement=placement, ruled_out="")))


def _loading_s(site: Site, size_bytes: int) -> float:
    if site.mean is None:
        return site.far[-1] + 0.1 * site.near[-1]
    if site.far[-1]:
        return site.busy_s + site.far[-1] / site.mean.nic_bytes_per_s
    if site.near[-1]:
        return site.busy_s + size_bytes / site.mean.ssd_bytes_per_s
    return size_bytes / site.mean.bus_bytes_per_s
