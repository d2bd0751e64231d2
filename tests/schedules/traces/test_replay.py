"""A trace that a simulated cluster serves."""

from schedules.events import RequestArrived, RequestEnded, RequestProgressed
from schedules.simulation.simulate import simulate
from schedules.traces.arrivals import arrivals
from schedules.traces.lineup import numbered
from schedules.traces.synthesis import Recipe, synthesise
from schedules.world.world import World
from tests.schedules.worlds import SimpleBrain, world_model, world_node


def test_every_request_of_a_trace_comes_at_its_time_and_gets_its_answer() -> None:
    trace = synthesise(Recipe(numbered(3, ["40:0.5/20:0.5"]), 0.5, 400.0, cv=2.0, max_tokens=64), seed=1)
    models = [world_model(name) for name in trace.models]
    world = World([world_node(f"n{place}") for place in range(4)], models)
    keys = {model.name: model.key for model in models}
    told = simulate(SimpleBrain({model.key: model for model in models}), world, arrivals(trace, keys, start_s=10.0))
    came = {t.event.request: t.now_s for t in told if isinstance(t.event, RequestArrived)}
    given = dict.fromkeys(came, 0)
    for _, event, _ in told:
        if isinstance(event, RequestProgressed):
            given[event.request] += event.tokens
    assert list(came.values()) == (10.0 + trace.at_s).tolist()
    assert list(given.values()) == trace.answer_tokens.tolist()
    assert sum(isinstance(t.event, RequestEnded) for t in told) == len(trace)
