"""ServerlessLLM's rule (OSDI'24): one stage on the node whose own tiers give the model soonest.

T = waiting + M / ssd for a node that has it on ssd, M / bus for one that has it in dram; nodes that have neither are
passed over, for they cannot tell how long a download takes. Where no node has it, the one with the most spare network
takes it, as their deployment does beforehand. The least time wins, then the name. Our rule is measured against it. What
it migrates to make room for others is left out.
"""

from dataclasses import replace

from schedules.facts import Node, NoPlacement
from schedules.placing.candidates import candidate
from schedules.placing.decision import Candidate, Decision, Question
from schedules.placing.policies.fixed import no_room
from schedules.placing.survey import Site, Survey


class ServerlessLlm:
    """See the module. Pure; `prediction`s of its candidates are ours, so that the two can be compared."""

    name = "serverlessllm"

    def decide(self, question: Question) -> Decision:
        """The local node of the least loading time, else the one with the most spare network."""
        survey = Survey(question)
        sites, local = _sites(survey)
        if not sites:
            tried = [Candidate(1, (), f"{survey.whole_bytes / 1e9:.2f} GB are free on no node")]
            return Decision(self.name, NoPlacement(no_room(question, survey, tried)), tuple(tried))
        chosen = sites[0]
        found = candidate(survey, 1, [chosen.node])
        assert found.placement is not None
        far = "no node has it: the one with the most spare network"
        placement = replace(found.placement, reasons=("the node whose own tiers give it soonest" if local else far,))
        others = tuple(
            Candidate(
                1, (s.node.name,), "slower to load" if not local or s.far[-1] == 0 else "it does not have the model"
            )
            for s in sites[1:]
        )
        return Decision(self.name, placement, (*others, replace(found, placement=placement, ruled_out="")))


def chosen_nodes(survey: Survey) -> list[Node]:
    """The one node that the rule takes, none if none has room."""
    return [site.node for site in _sites(survey)[0][:1]]


def _sites(survey: Survey) -> tuple[list[Site], bool]:
    """The nodes with room, best first, and whether the best has the model."""
    size_bytes = survey.size_bytes
    sites = survey.shortlist(survey.whole_bytes, 1)
    ordered = sorted(sites, key=lambda s: (s.far[-1] > 0, _loading_s(s, size_bytes), s.node.name))
    return ordered, bool(ordered) and ordered[0].far[-1] == 0


def _loading_s(site: Site, size_bytes: int) -> float:
    if site.mean is None:
        return site.far[-1] + 0.1 * site.near[-1]
    if site.far[-1]:
        return site.busy_s + site.far[-1] / site.mean.nic_bytes_per_s
    if site.near[-1]:
        return site.busy_s + size_bytes / site.mean.ssd_bytes_per_s
    return size_bytes / site.mean.bus_bytes_per_s
