"""What a person sees of a decision: where a model would start and why, and how the last predictions came out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from firsttoken.views.tables import Table, node_names, open_table

if TYPE_CHECKING:
    from firsttoken.frontend import ColdStart, PhaseOfStart

_NOTABLE_S = 0.02
"""Differences below this are noise to a person."""


def explanation(report: Mapping[str, Any], starts: "Sequence[ColdStart]") -> Group:
    """All of what the front end explains of a model; `starts` are its last ones, newest first."""
    parts: list[RenderableType] = [Text(sentence(report["model"], report["now"]))]
    if report["now"]["candidates"]:
        parts += ["", candidate_table(report["now"])]
    parts += ["", Text(wishes(report["objectives"])), ""]
    parts.append(start_table(starts) if starts else Text(f"{report['model']} was not started yet."))
    return Group(*parts)


def sentence(model: str, decision: Mapping[str, Any]) -> str:
    """What would happen, with its reasons."""
    chosen = next((c for c in decision["candidates"] if c["chosen"]), None)
    if decision["outcome"] == "start" and chosen is not None:
        outcome = f"would start on {', '.join(chosen['nodes'])}"
    else:
        outcome = "would wait" if decision["outcome"] == "wait" else "could not start"
    return f"{model} {outcome} now ({decision['policy']}): {decision['reason']}."


def candidate_table(decision: Mapping[str, Any]) -> Table:
    """Each candidate with what was predicted of it, and what became of it."""
    table = open_table("Candidates")
    table.add_column("degree", justify="right")
    table.add_column("nodes")
    for column in ("first token", "bad end", "a token", "cost"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for candidate in decision["candidates"]:
        style = "bold" if candidate["chosen"] else None
        fate = "chosen" if candidate["chosen"] else candidate["ruled_out"]
        fate = "; ".join([fate, *(_move(move) for move in candidate["moves"])])
        degree, nodes = str(candidate["degree"]), node_names(candidate["nodes"])
        table.add_row(degree, nodes, *_predicted(candidate["prediction"]), fate, style=style)
    return table


def _predicted(prediction: Mapping[str, Any] | None) -> tuple[str, str, str, str]:
    if prediction is None:
        return "?", "?", "?", "?"
    token, cost = f"{prediction['tpot_s'] * 1e3:.1f} ms", f"{prediction['cost_byte_s'] / 1e9:.2f} GB s"
    return f"{prediction['ttft_s']:.2f} s", f"{prediction['ttft_bad_s']:.2f} s", token, cost


def _move(move: Mapping[str, Any]) -> str:
    if move["to"]:
        return f"{move['model']} would move to {move['to']} in {move['takes_s']:.2f} s"
    return f"{move['model']} would be stopped"


def wishes(objectives: Mapping[str, Any]) -> str:
    """What is wanted of the model, in one sentence."""
    ttft_s, tpot_s = objectives["ttft_s"], objectives["tpot_s"]
    service = f"a first token within {ttft_s:g} s" if ttft_s is not None else "the first token as soon as possible"
    if tpot_s is not None:
        service += f", {tpot_s * 1e3:g} ms a token"
    return (
        f"Wanted: {service}; {objectives['min_replicas']} to {objectives['max_replicas']} replicas of up to "
        f"{objectives['max_degree']} stages and {objectives['kv_tokens']:,} tokens of KV cache, kept "
        f"{objectives['keep_alive_s']:g} s after their last request; priority {objectives['priority']}."
    )


def start_table(starts: "Sequence[ColdStart]") -> Table:
    """The last cold starts: predicted against measured."""
    table = open_table("Last cold starts")
    table.add_column("degree", justify="right")
    table.add_column("nodes")
    for column in ("predicted", "bad end", "measured", "error"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("mostly")
    for start in starts:
        measured = "?" if start.ttft_s is None else f"{start.ttft_s:.2f} s"
        expected = start.predicted
        if expected is None:
            shown = ("", "", measured, "")
        else:
            error = "" if start.error is None else f"{start.error:+.0%}"
            bad = "" if expected.ttft_bad_s is None else f"{expected.ttft_bad_s:.2f} s"
            shown = (f"{expected.ttft_s:.2f} s", bad, measured, error)
        table.add_row(str(start.degree), node_names(start.nodes), *shown, blame(start))
    return table


def blame(start: "ColdStart") -> str:
    """The part of a cold start that accounts for most of its prediction's error; empty if none accounts for half of it.

    Parts overlap: one that took longer than predicted need not have delayed the first token. So a part is only named if it
    erred the way the whole did.
    """
    if start.predicted is None or start.ttft_s is None:
        return ""
    missed_s = start.ttft_s - start.predicted.ttft_s
    expected = start.predicted.parts
    found = [(name, took_s - expected[name], took_s) for name, took_s in _took(start) if name in expected]
    name, off_s, took_s = max(found, key=lambda part: part[1] * missed_s, default=("", 0.0, 0.0))
    if abs(missed_s) < _NOTABLE_S or off_s * missed_s <= 0 or abs(off_s) < abs(missed_s) / 2:
        return ""
    return f"{name}: {took_s:.2f} s, predicted {expected[name]:.2f} s"


def _took(start: "ColdStart") -> Iterator[tuple[str, float]]:
    """Measured seconds of what predictions name: from the decision on, up to the first token."""
    named: dict[str, list[PhaseOfStart]] = {}
    for phase in start.phases:
        kind = next((k for k in ("fetch ", "wait for ") if phase.name.startswith(k)), phase.name).strip()
        named.setdefault(kind, []).append(phase)
    decided_s = max((phase.end_s for phase in named.get("decide", ())), default=0.0)
    if "form group" in named:
        yield "form group", named["form group"][-1].end_s - named["form group"][-1].start_s
    fetched = [p.end_s for p in named.get("fetch", ()) if start.ttft_s is not None and p.end_s <= start.ttft_s]
    if fetched:
        yield "fetch", max(fetched) - decided_s
    steps = named.get("first step", ())
    if steps:
        waits = [p for p in named.get("wait for", ()) if p.where in {step.where for step in steps}]
        yield "compute", sum(p.end_s - p.start_s for p in steps) - sum(w.end_s - w.start_s for w in waits)
