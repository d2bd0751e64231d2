"""The worked example of docs/prewarming.md is what the planner says."""

from dataclasses import replace
from pathlib import Path

from schedules.facts import Rate
from schedules.foresight.plan import Plan
from schedules.foresight.planner import Ground, make_plan
from schedules.rates import BUS, DECODE, NIC, PREFILL, SSD, formed
from tests.schedules.foresight.plan_worlds import MB, forecast, ground, holding, model, node, wanted
from tests.told import budgets_of

PAGE = Path(__file__).resolve().parents[3] / "docs" / "prewarming.md"
GB = 1000 * MB


def _ground() -> Ground:
    """Four models of 15 GB in 30 layers; two nodes with 20 GB of dram, one of which has the first model on its ssd."""
    speeds = {NIC: 1.25 * GB, SSD: 2.0 * GB, BUS: 20.0 * GB, DECODE: 1000.0 * GB, PREFILL: 2e14}
    forms = {formed(1): 1.0, formed(2): 1.2}
    models = [model(name, layers=30, unit_mb=470) for name in ("chat", "code", "poet", "rare")]
    nodes = []
    for name in ("left", "right"):
        made = node(name, dram_mb=20_000)
        rates = {name: Rate(mean, mean, 9) for name, mean in (speeds | forms).items()}
        nodes.append(replace(made, device_bytes=24 * GB, rates={**made.rates, **rates}))
    nodes[0] = holding(nodes[0], models[0], "ssd")
    said = forecast({"chat": 3.0, "code": 0.7, "poet": 0.4, "rare": 0.0})
    return ground(nodes, [wanted(each, max_degree=2) for each in models], said)


def as_lines(plan: Plan) -> list[str]:
    """As the page has it."""
    found = ["staged:"]
    found += [
        f"  {s.node} {s.tier}, {len(s.units)} units, {s.size_bytes / 1e9:.1f} GB: {s.reason}" for s in plan.stagings
    ]
    found += ["kept up:", *[f"  {kept.key.name}: {kept.reason}" for kept in plan.kept]]
    found += ["left out:", *[f"  {each.model}: {each.reason}" for each in plan.left_out]]
    found.append("worth of an idle replica, in seconds:")
    found += [f"  {key.name} {saved_s:.2f}" for key, saved_s in plan.worth.items()]
    found.append("worth of a unit in dram, the most and the least on each node, in seconds saved per GB:")
    for name, retention in plan.dram.items():
        worth = sorted(retention.worth.items(), key=lambda each: each[1])
        (last, least), (first, most) = worth[0], worth[-1]
        found.append(
            f"  {name}: {first} {most * 1e9:.3f}, {last} {least * 1e9:.3f}, unknown {retention.otherwise * 1e9:.3f}"
        )
    return found


def test_the_worked_example_is_what_the_planner_says() -> None:
    plan = make_plan(_ground(), budgets_of(device_share=0.8), 0.0, 60.0)
    assert "\n".join(as_lines(plan)) in PAGE.read_text()
