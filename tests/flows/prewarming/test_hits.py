"""Where cold starts found their units."""

from flows.prewarming.hits import hits_of, together


def start(model: str, at: float, *sources: str, ttft_s: float = 1.0) -> dict[str, object]:
    phases = [{"name": f"fetch layer.{n}", "where": f"node-1 from {source}"} for n, source in enumerate(sources)]
    return {
        "model": model,
        "arrived_at": at,
        "ttft_s": ttft_s,
        "phases": [{"name": "decide", "where": "front end"}, *phases],
    }


def test_of_those_since_then_by_model_the_most_first() -> None:
    told = [
        start("a", 100.0, "dram", "ssd", ttft_s=2.0),
        start("b", 101.0, "dram", "peer:node-2"),
        start("b", 102.0, "remote", "ssd and remote", ttft_s=3.0),
        start("b", 99.0, "remote"),
    ]
    b, a = hits_of(told, 100.0)
    assert (b.model, b.starts, b.ttft_s, b.worst_s) == ("b", 2, 4.0, 3.0)
    assert [b.share(tier) for tier in ("dram", "ssd", "peer", "remote")] == [0.25, 0.0, 0.25, 0.5]
    assert (a.share("dram"), a.share("ssd")) == (0.5, 0.5)
    everything = together([b, a], "all")
    assert (everything.starts, everything.ttft_s, everything.worst_s) == (3, 6.0, 3.0)
    assert everything.units == {"dram": 2, "peer": 1, "remote": 2, "ssd": 1}


def test_of_none_there_is_nothing() -> None:
    assert hits_of([start("a", 1.0, "dram")], 2.0) == []
    assert together([], "all").share("dram") == 0.0
