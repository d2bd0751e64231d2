"""A question is looked at before anything is played."""

from collections import Counter
from math import isfinite

from schedules.capacity.bounds import stages_needed
from schedules.capacity.clusters import NodeType
from schedules.capacity.errors import BadQuestion
from schedules.capacity.question import Choices, PlanQuestion
from schedules.estimates import speeds_of


def check(question: PlanQuestion) -> None:
    """BadQuestion says what is wrong with it."""
    _check_choices(question.choices)
    if not 0.0 < question.attainment <= 1.0:
        raise BadQuestion(f"a share of requests is above 0 and up to 1, not {question.attainment:g}")
    if not (isfinite(question.patience_s) and question.patience_s > 0):
        raise BadQuestion(f"nobody waits for {question.patience_s:g} s")
    if not question.models:
        raise BadQuestion("there are no models to be served")
    if not len(question.trace):
        raise BadQuestion("the trace has no requests: nothing says what is to be served")
    if len(question.models) != len(question.trace.models):
        raise BadQuestion(f"the trace names {len(question.trace.models)} models, not {len(question.models)}")
    _check_rooms(question)


def notes_of(question: PlanQuestion) -> tuple[str, ...]:
    """What whoever reads the answer should know of the question."""
    unlimited = [
        name
        for name, offered in zip(question.trace.models, question.models, strict=True)
        if offered.objectives.ttft_s is None and offered.objectives.tpot_s is None
    ]
    if len(unlimited) == len(question.models):
        return ("No model has a service level: a request attains what is wanted if it is answered at all.",)
    if unlimited:
        some = ", ".join(unlimited[:4]) + (f" and {len(unlimited) - 4} more" if len(unlimited) > 4 else "")
        return (
            f"Without a service level a request attains what is wanted if it is answered at all: so it is of {some}.",
        )
    return ()


def _check_choices(choices: Choices) -> None:
    if not choices.types:
        raise BadQuestion("there are no types of machines to choose from")
    for name, count in Counter(kind.name for kind in choices.types).items():
        if count > 1:
            raise BadQuestion(f"two types of machines are called {name!r}")
    for kind in choices.types:
        _check_type(kind)
    if choices.most_machines < 1:
        raise BadQuestion(f"a cluster has one machine at least, not up to {choices.most_machines}")
    if choices.store_bytes_per_s is not None and not (
        isfinite(choices.store_bytes_per_s) and choices.store_bytes_per_s > 0
    ):
        raise BadQuestion(f"the store cannot give {choices.store_bytes_per_s:g} bytes a second")
    for name, shares in (("dram", choices.dram_shares), ("ssd", choices.ssd_shares)):
        if not shares or not all(0.0 <= share <= 1.0 for share in shares):
            raise BadQuestion(
                f"shares of {name} are from 0 to 1, one at least, not {', '.join(map(str, shares)) or 'none'}"
            )


def _check_type(kind: NodeType) -> None:
    if not isinstance(kind.price_per_h, int | float) or not (isfinite(kind.price_per_h) and kind.price_per_h >= 0):
        raise BadQuestion(f"what an hour of {kind.name!r} costs is a number from 0 on, not {kind.price_per_h}")
    if kind.nodes < 1 or kind.device_bytes <= kind.context_bytes or min(kind.dram_bytes, kind.ssd_bytes) < 0:
        raise BadQuestion(f"a machine {kind.name!r} has a node and memory for its stages at least")
    if speeds_of(kind.rates, bad=False) is None:
        raise BadQuestion(
            f"nothing says how fast {kind.name!r} is: its nic, ssd, decode, prefill and formed.1 are needed"
        )
    for name, rate in kind.rates.items():
        if not (0 < rate.mean < float("inf") and 0 < rate.bad < float("inf")):
            raise BadQuestion(f"the rate {name} of {kind.name!r} is a number above 0, not {rate.mean:g}")


def _check_rooms(question: PlanQuestion) -> None:
    choices = question.choices
    for name, offered in sorted(
        zip(question.trace.models, question.models, strict=True), key=lambda each: -each[1].model.size_bytes
    ):
        needed = [(stages_needed(offered, kind), kind) for kind in choices.types]
        if not any(stages is not None and stages <= choices.most_machines * kind.nodes for stages, kind in needed):
            nodes = min(
                offered.objectives.max_degree, choices.most_machines * max(kind.nodes for kind in choices.types)
            )
            few = "a node" if nodes == 1 else f"{nodes} nodes"
            raise BadQuestion(
                f"{name!r} fits nowhere: {offered.model.size_bytes / 1e9:.3g} GB of weights and KV cache for "
                f"{offered.objectives.kv_tokens:,} tokens are too much for {few} of any type"
            )
