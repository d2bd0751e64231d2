"""What was measured of moves, as figures."""

from collections.abc import Sequence

from benchmarks.moves_chaos import Account
from benchmarks.moves_lab import Ratio
from benchmarks.moves_pauses import Paces, Pauses
from benchmarks.moves_stream import median, quantile
from benchmarks.report import Result

PAUSE_GOAL_MS, PAUSE_GOAL_STEPS = 100.0, 5.0
AFTER_GOAL, WHOLE_GOAL = 1.03, 1.05


def pause_figures(name: str, pauses: Pauses) -> list[Result]:
    """Pauses as clients saw them, in milliseconds and in steps of the same streams."""
    ms, steps = [1000 * seconds for seconds in pauses.seconds], pauses.steps
    told_ms = [1000 * seconds for seconds in pauses.told_s]
    still = quantile(pauses.still_steps, 0.99) if pauses.still_steps else None
    requests = pauses.requests
    moved = max(1, requests.get("shifted", 0))
    return [
        Result(f"{name}_pauses", len(ms), "pauses", "higher", len(ms) + pauses.late, "moves"),
        Result(f"{name}_pause_p50_ms", median(ms), "ms", "lower"),
        Result(f"{name}_pause_p99_ms", quantile(ms, 0.99), "ms", "lower", PAUSE_GOAL_MS, "goal"),
        Result(f"{name}_pause_p50_steps", median(steps), "steps", "lower"),
        Result(f"{name}_pause_p99_steps", quantile(steps, 0.99), "steps", "lower", PAUSE_GOAL_STEPS, "goal"),
        *([] if still is None else [Result(f"{name}_still_p99_steps", still, "steps", "lower", None, "nothing moves")]),
        Result(f"{name}_told_p50_ms", median(told_ms or [0.0]), "ms", "lower", None, "as the front end says"),
        Result(f"{name}_ready_p50_ms", 1000 * median(pauses.ready_s), "ms", "lower", None, "until heirs are whole"),
        Result(f"{name}_copied", requests.get("copied", 0) / moved, "fraction", "higher", None, "of what moved"),
        Result(f"{name}_stayed", requests.get("stayed", 0), "requests", "lower", 0, "goal"),
    ]


def pace_figures(prefix: str, paces: Paces) -> list[Result]:
    """Times per token of consolidated answers."""
    return [
        Result(f"{prefix}{name}", median(values), "x", "lower", goal, against)
        for name, values, goal, against in (
            ("tpot_after_over_never", paces.after, AFTER_GOAL, "goal"),
            ("tpot_whole_over_never", paces.whole, WHOLE_GOAL, "goal; HydraServe's mean is 1.083"),
            ("tpot_during_over_pipeline", paces.during, None, "the same stream before"),
        )
        if values
    ]


def ratio_figures(name: str, found: Ratio, what: str, paper: float | None = None) -> list[Result]:
    """Pairs, in the mean; against what a paper says, the speedup first."""
    results = [
        Result(f"{name}_{what}_without_s", sum(found.without_s) / len(found.without_s), "s", "lower"),
        Result(f"{name}_{what}_with_s", sum(found.with_s) / len(found.with_s), "s", "lower"),
    ]
    if paper is not None:
        results.insert(0, Result(f"{name}_speedup", found.speedup, "x", "higher", paper, "HydraServe's, on GPUs"))
    return results


def chaos_figures(account: Account, left: Sequence[str]) -> list[Result]:
    """What survived."""
    streams = account.whole + account.errors.total() + len(account.torn)
    return [
        Result("chaos_kills", account.kills.total(), "kills", "higher", 200, "goal"),
        Result("chaos_tokens_wrong", account.wrong_tokens, "tokens", "lower", 0, "goal"),
        Result("chaos_streams", streams, "streams", "higher"),
        Result("chaos_streams_whole", account.whole, "streams", "higher", streams, "all"),
        Result("chaos_streams_with_an_error", account.errors.total(), "streams", "lower"),
        Result("chaos_streams_torn", len(account.torn), "streams", "lower", 0, "goal"),
        Result("chaos_moves", account.moves.total(), "moves", "higher"),
        Result("chaos_requests_shifted", account.shifted, "requests", "higher"),
        Result("chaos_left_behind", len(left), "things", "lower", 0, "goal"),
    ]
