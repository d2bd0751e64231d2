"""Commands about traces: who asked for what, and when. Only `history` needs a home with one."""

import asyncio
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firsttoken.commands.options import MOST_TOKENS, AsJson, Config, finite, load, print_json, stdout

if TYPE_CHECKING:
    from schedules.traces.trace import Trace

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds(told: str | float) -> float:
    """The parser of options that are times, and of their defaults."""
    text = str(told)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)?", text)
    if match is None or len(text) > 20:
        raise typer.BadParameter(f"{text!r} is no time: 90, 90s, 15min, 2h and 14d are")
    return float(match[1]) * _SECONDS[match[2] or "s"]


Out = Annotated[
    Path, typer.Option("--out", "-o", help="Where to: .npz, or .csv or .csv.gz for other programs.", metavar="PATH")
]
Force = Annotated[bool, typer.Option("--force", help="Write over a file that is there.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of all chance: the same seed makes the same trace.")]
_bounded = {"min": 0.0, "callback": finite}
Rate = Annotated[float | None, typer.Option(help="Requests a second, in the mean.", **_bounded)]
Duration = Annotated[float | None, typer.Option(parser=seconds, help="How long: 90, 15min, 2h, 14d.", metavar="TIME")]
Cv = Annotated[
    float | None,
    typer.Option(
        max=100, help="Of a model's gaps, drawn from a gamma distribution; 1 is a Poisson process.", **_bounded
    ),
]
Models = Annotated[int | None, typer.Option(min=1, max=1_000_000, help="How many share the rate: 10.")]
Skew = Annotated[
    float | None,
    typer.Option(min=0, max=10, callback=finite, help="Of Zipf's law, for who is popular; 0: all alike."),
]
Task = Annotated[
    list[str] | None,
    typer.Option(
        help="chat, code, summarisation, or means PROMPT[:SIGMA]/ANSWER[:SIGMA]; given again, models take them in turn."
    ),
]
Wave = Annotated[
    float,
    typer.Option(max=1, help="How far the rate swings in a day, from 0 to 1; lowest at the begin.", **_bounded),
]
Daily = Annotated[int, typer.Option(min=0, max=1_000_000, help="More models, called once a day each.")]
Bursts = Annotated[int, typer.Option(min=0, max=100_000, help="So many times many call one model at once.")]
BurstRequests = Annotated[int, typer.Option(min=1, max=1_000_000, help="How many those are.")]
BurstTime = Annotated[float, typer.Option(parser=seconds, help="Within what time.", metavar="TIME")]
MaxTokens = Annotated[int | None, typer.Option(min=1, max=MOST_TOKENS, help="What clients ask for.")]
MaxPrompt = Annotated[int | None, typer.Option(min=1, max=MOST_TOKENS, help="Cut prompts at that length.")]
Preset = Annotated[
    str, typer.Option(help="As in a paper, but for what is said: hydraserve, serverlessllm.", metavar="NAME")
]


def synth(
    out: Out,
    rate: Rate = None,
    duration: Duration = None,
    cv: Cv = None,
    models: Models = None,
    skew: Skew = None,
    task: Task = None,
    wave: Wave = 0.0,
    daily: Daily = 0,
    bursts: Bursts = 0,
    burst_requests: BurstRequests = 50,
    burst_time: BurstTime = 10.0,
    max_tokens: MaxTokens = None,
    max_prompt: MaxPrompt = None,
    preset: Preset = "",
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Make a trace up: requests at a rate, in bursts, over models of which few are popular.

    Example: firsttoken traces synth --rate 2 --duration 1h --cv 4 --models 40 --out hour.npz

    Example: firsttoken traces synth --preset hydraserve --rate 0.7 --cv 4 --out hydra.npz
    """
    from flows.trace_files import check_place, save
    from schedules.traces import lineup
    from schedules.traces.synthesis import Recipe, synthesise

    check_place(out, force=force)
    if preset and (task or models):
        raise typer.BadParameter("a preset has its own models and tasks", param_hint="--preset")
    own = lineup.numbered(models or 10, task or ["chat"])
    base = lineup.preset(preset) if preset else lineup.Preset(own, 1.0, 1.0, 1.0, 3600.0, MOST_TOKENS, 1024)
    recipe = Recipe(
        base.lineup,
        rate_per_s=base.rate_per_s if rate is None else rate,
        duration_s=base.duration_s if duration is None else duration,
        cv=base.cv if cv is None else cv,
        skew=base.skew if skew is None else skew,
        wave=wave,
        daily=daily,
        bursts=bursts,
        burst_requests=burst_requests,
        burst_s=burst_time,
        max_prompt_tokens=max_prompt or base.max_prompt_tokens,
        max_tokens=max_tokens or base.max_tokens,
    )
    trace = synthesise(recipe, seed, f"made up as {preset}" if preset else "made up")
    save(trace, out)
    tell_written(out, trace)


def history(
    out: Out,
    since: Annotated[
        float, typer.Option(parser=seconds, help="How far back: 90, 15min, 2h, 14d.", metavar="TIME")
    ] = "7d",  # type: ignore[assignment]
    force: Force = False,
    config: Config = None,
) -> None:
    """Make a trace of what the platform of this home was asked, also of what it refused.

    Example: firsttoken traces history --since 14d --out fortnight.npz
    """
    from firsttoken.happened import read_happened
    from firsttoken.local import running_settings
    from flows.trace_files import check_place, save
    from schedules.traces.happened import trace_of

    check_place(out, force=force)
    now_s, settings = time.time(), running_settings(load(config))
    happened = asyncio.run(read_happened(settings, now_s - since, now_s))
    trace = trace_of(happened.asked, happened.since_s, happened.until_s, "history")
    save(trace, out)
    tell_written(out, trace)


def show(
    trace_file: Annotated[Path, typer.Argument(help="A stored trace.", metavar="FILE")],
    top: Annotated[int, typer.Option(min=1, max=1000, help="So many models, the most called first.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Show what a trace is like: rates, models, lengths, how bursty it is, and how often a model was silent before a call.

    The share of requests after a silence is that of cold starts, with a keep-alive of that length and answers that take
    no time.

    Example: firsttoken traces show hour.npz --top 5
    """
    from firsttoken.views.traces import figures, picture, tables
    from flows.trace_files import load
    from schedules.traces.summary import summarise

    trace = load(trace_file)
    summary = summarise(trace, top)
    if as_json:
        print_json(figures(str(trace_file), trace, summary))
        return
    console = stdout()
    for table in (*tables(trace, summary), picture(trace, summary, console.width)):
        console.print(table)


def tell_written(out: Path, trace: "Trace") -> None:
    """What is in the file now."""
    rate = len(trace) / trace.duration_s if trace.duration_s else 0.0
    typer.echo(
        f"{out}: {len(trace):,} requests in {trace.duration_s:,.0f} s ({rate:.3g}/s), models: {len(trace.models):,}",
        err=True,
    )
