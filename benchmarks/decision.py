"""What a decision costs: where a cold model starts, in a cluster of a thousand nodes and ten thousand models.

    python benchmarks/decision.py [--json] [--nodes 1000] [--models 10000] [--decisions 1000] [--requests 5000]

One thread, no I/O: what is measured is CPU time, which is all that a decision takes. Every node is measured and holds units
of twenty models on its ssd, of two of them in dram; forty starts are under way, whose transfers the ledger reckons with,
once without and once with a limit of the object store that they all share. Each decision is for another model. The
policies of the anchors are timed on the same questions. What the brain costs a request around its decisions, with a thousand
models on half as many nodes, is measured by `benchmarks.decision_brain`.
"""

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.decision_brain import measure_brain
from benchmarks.report import Result, parser, report
from schedules.events import NodeReported
from schedules.facts import Model, Node, Placement, Rate, Unit, View
from schedules.ledgers.links import Links
from schedules.ledgers.nodes import Nodes, ranks_of
from schedules.objectives import Objectives
from schedules.placing.decision import Policy, Question
from schedules.placing.policies import POLICIES
from schedules.rates import DECODE, NIC, PREFILL, REACH, SSD, formed
from serving.collecting import collect_seldom

LAYERS, LAYER_BYTES, END_BYTES = 32, 400 << 20, 500 << 20
ON_SSD, IN_DRAM, UNDER_WAY = 20, 2, 40
GOAL_MS = 5.0
FASTEST = Objectives(
    ttft_s=None,
    tpot_s=None,
    min_replicas=0,
    max_replicas=1,
    keep_alive_s=300.0,
    priority=0,
    max_degree=4,
    kv_tokens=16384,
)
BRAIN_MODELS, BRAIN_NODES = 1000, 500


def _models(count: int) -> list[Model]:
    def model(name: str) -> Model:
        sizes = [END_BYTES, *[LAYER_BYTES] * LAYERS, END_BYTES]
        units = tuple(Unit(f"u{i}", f"{name}/{i}", size) for i, size in enumerate(sizes))
        return Model(name, name, units, False, 128 << 10)

    return [model(f"model-{i}") for i in range(count)]


def _nodes(count: int, models: Sequence[Model], chance: random.Random) -> Nodes:
    def node(index: int) -> Node:
        held = chance.sample(models, ON_SSD)
        units = {unit.digest: "ssd" for model in held for unit in model.units}
        units |= {unit.digest: "dram" for model in held[:IN_DRAM] for unit in model.units}
        speed = chance.uniform(0.5, 1.5)
        rates = {
            NIC: 2e9 * speed, SSD: 6e9 * speed, DECODE: 8e11, PREFILL: 1e14, REACH: 0.01,
            **{formed(degree): 0.1 + 0.02 * degree for degree in (1, 2, 4)},
        }  # fmt: skip
        return Node(
            name=f"node-{index:04d}", address="", host="", rendezvous_port=0, dram_bytes=1 << 38, dram_used_bytes=0,
            ssd_bytes=1 << 40, ssd_used_bytes=0, device_bytes=80 << 30,
            device_reserved_bytes=chance.choice((0, 20 << 30, 60 << 30)), idle_stage_processes=1, busy_stage_processes=0,
            units=units, peer_port=1, rates={name: Rate(mean, mean * 0.8, 32) for name, mean in rates.items()},
        )  # fmt: skip

    nodes = Nodes()
    for made in map(node, range(count)):
        nodes.report(NodeReported(made, made.units))
    return nodes


def _times_s(policy: Policy, questions: Sequence[Question]) -> list[float]:
    """Of each; where the models' units lie nobody has looked before."""
    ranks_of(questions[0].view).finds.clear()
    found = []
    for question in questions:
        started_s = time.thread_time()
        policy.decide(question)
        found.append(time.thread_time() - started_s)
    return found


def _busy_links(view: View, models: Sequence[Model], rates: dict[str, float]) -> Links:
    """A ledger with starts under way that the planned policy decided."""
    links, planned = Links(rates, 0.0), POLICIES["planned"]
    for index, model in enumerate(models[-UNDER_WAY:]):
        decision = planned.decide(Question(f"s{index}", model, FASTEST, view, links, 0.0))
        if isinstance(decision.outcome, Placement) and decision.chosen is not None:
            links.begin(decision.chosen.transfers, 0.0)
    return links


def measure(nodes: int, models: int, decisions: int) -> list[Result]:
    """All figures: milliseconds of one decision."""
    chance = random.Random(1)
    known = _models(models)
    kept = _nodes(nodes, known, chance)
    view, rates = kept.view(), dict(kept.link_rates)
    asked = [chance.choice(known) for _ in range(decisions)]
    results = []
    for name, limits in (("", rates), ("shared_store_", rates | {"store": 20e9})):
        links = _busy_links(view, known, limits)
        questions = [
            Question(f"q{i}", model, replace(FASTEST, ttft_s=10.0), view, links, 0.0, prompt_tokens=500)
            for i, model in enumerate(asked)
        ]
        for policy in POLICIES.values():
            taken = sorted(_times_s(policy, questions))
            prefix = name if policy.name == "planned" else f"{policy.name}_{name}"
            results += [
                Result(f"{prefix}decision_median_ms", median(taken) * 1e3, "ms", "lower"),
                Result(
                    f"{prefix}decision_p99_ms",
                    taken[round(0.99 * (len(taken) - 1))] * 1e3,
                    "ms",
                    "lower",
                    GOAL_MS,
                    "goal",
                ),
            ]
        fastest = [replace(q, objectives=FASTEST) for q in questions[: max(1, decisions // 4)]]
        taken = sorted(_times_s(POLICIES["planned"], fastest))
        results.append(
            Result(
                f"{name}decision_without_slo_p99_ms",
                taken[round(0.99 * (len(taken) - 1))] * 1e3,
                "ms",
                "lower",
                GOAL_MS,
                "goal",
            )
        )
    return results


def measure_requests(requests: int) -> list[Result]:
    """What the brain costs."""
    known = _models(BRAIN_MODELS)
    return measure_brain(_nodes(BRAIN_NODES, known, random.Random(1)).view(), known, requests)


def main() -> None:
    args = parser(__doc__.splitlines()[0])
    args.add_argument("--nodes", type=int, default=1000)
    args.add_argument("--models", type=int, default=10_000)
    args.add_argument("--decisions", type=int, default=1000)
    args.add_argument("--requests", type=int, default=5000)
    options = args.parse_args()
    collect_seldom()  # as a front end does
    results = measure(options.nodes, options.models, options.decisions) + measure_requests(options.requests)
    report("decision", results, options.json)


if __name__ == "__main__":
    main()
