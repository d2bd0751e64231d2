"""Commands about traces: who asked for what, and when. Only `history` needs a home with one."""

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firsttoken.commands.options import MOST_TOKENS, AsJson, Config, finite, load, print_json, stderr, stdout

if TYPE_CHECKING:
    from flows.trace_files import Report
    from schedules.traces.parsing import Parsed
    from schedules.traces.trace import Trace

_COLUMNS, _MODELS, _LENGTHS, _CHANGES = "What is in the file", "Models", "Lengths", "What becomes of it"
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds(told: str | float) -> float:
    """The parser of options that are times, and of their defaults."""
    text = str(told)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)?", text)
    if match is None or len(text) > 20:
        raise typer.BadParameter(f"{text!r} is no time: 90, 90s, 15min, 2h and 14d are")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def _renamed(value: list[str] | None) -> list[str] | None:
    for each in value or []:
        if not all(each.partition("=")):
            raise typer.BadParameter(f"{each!r} does not say OLD=NEW")
    return value


Out = Annotated[
    Path, typer.Option("--out", "-o", help="Where to: .npz, or .csv or .csv.gz for other programs.", metavar="PATH")
]
Force = Annotated[bool, typer.Option("--force", help="Write over a file that is there.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of all chance: the same seed makes the same trace.")]
_column = {"metavar": "COLUMN", "rich_help_panel": _COLUMNS}
_bounded = {"min": 0.0, "callback": finite}


def import_(
    files: Annotated[list[Path], typer.Argument(help="Recorded traces, also .gz; or stored ones.", metavar="FILE...")],
    out: Out,
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            help="azure-functions-2021, azure-functions-2019, azure-llm-2023, mooncake, csv or jsonl. Else it is found.",
            metavar="NAME",
            rich_help_panel=_COLUMNS,
        ),
    ] = "",
    time_column: Annotated[
        str, typer.Option(help="When a request came. By name; by place from 1 on without a header.", **_column)
    ] = "",
    model_column: Annotated[str, typer.Option(help="The model, or what stands for it.", **_column)] = "",
    prompt_column: Annotated[str, typer.Option(help="Tokens of the prompt.", **_column)] = "",
    answer_column: Annotated[str, typer.Option(help="Tokens of the answer.", **_column)] = "",
    max_column: Annotated[str, typer.Option(help="Tokens that the client allowed.", **_column)] = "",
    duration_column: Annotated[
        str, typer.Option(help="What it took, where the time is that of its end.", **_column)
    ] = "",
    time_unit: Annotated[
        str, typer.Option(help="ns, us, ms, s, min or h.", metavar="UNIT", rich_help_panel=_COLUMNS)
    ] = "",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Count lines that cannot be read, and go on.", rich_help_panel=_COLUMNS)
    ] = False,
    models: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000_000,
            help="Map to so many: the trace's in turn, the most called first; by chance where it has none.",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="Map to the models of a paper, with its tasks, lengths and service levels: hydraserve, serverlessllm.",
            rich_help_panel=_MODELS,
        ),
    ] = "",
    name: Annotated[
        str, typer.Option(help="The one model, where none was recorded; else the file's name.", rich_help_panel=_MODELS)
    ] = "",
    rename: Annotated[
        list[str] | None,
        typer.Option(
            help="A model's new name; may be given again.",
            metavar="OLD=NEW",
            callback=_renamed,
            rich_help_panel=_MODELS,
        ),
    ] = None,
    skew: Annotated[
        float,
        typer.Option(
            min=0,
            max=10,
            callback=finite,
            help="Of Zipf's law, where requests are mapped by chance; 0: all models alike.",
            rich_help_panel=_MODELS,
        ),
    ] = 1.0,
    task: Annotated[
        str,
        typer.Option(
            help="Lengths where none were recorded: chat, code, summarisation, or means PROMPT[:SIGMA]/ANSWER[:SIGMA].",
            rich_help_panel=_LENGTHS,
        ),
    ] = "chat",
    lengths_from: Annotated[
        Path | None, typer.Option(help="The same, drawn from a stored trace.", metavar="PATH", rich_help_panel=_LENGTHS)
    ] = None,
    max_tokens: Annotated[
        int,
        typer.Option(
            min=1, max=MOST_TOKENS, help="What clients ask for where that was not recorded.", rich_help_panel=_LENGTHS
        ),
    ] = 1024,
    max_prompt: Annotated[
        int | None, typer.Option(min=1, max=MOST_TOKENS, help="Cut prompts at that length.", rich_help_panel=_LENGTHS)
    ] = None,
    in_turn: Annotated[
        bool, typer.Option("--in-turn", help="One file after the other, not all at once.", rich_help_panel=_CHANGES)
    ] = False,
    start: Annotated[
        float, typer.Option("--from", parser=seconds, help="Begin there.", metavar="TIME", rich_help_panel=_CHANGES)
    ] = 0.0,
    length: Annotated[
        float | None,
        typer.Option("--for", parser=seconds, help="Keep so much.", metavar="TIME", rich_help_panel=_CHANGES),
    ] = None,
    cv: Annotated[
        float | None,
        typer.Option(
            max=100,
            help="Draw arrivals anew: each model's in each window with gamma gaps of that CV.",
            rich_help_panel=_CHANGES,
            **_bounded,
        ),
    ] = None,
    window: Annotated[
        float, typer.Option(parser=seconds, help="For --cv.", metavar="TIME", rich_help_panel=_CHANGES)
    ] = 600.0,
    speed: Annotated[
        float | None,
        typer.Option(help="Then let time run so many times as fast.", rich_help_panel=_CHANGES, **_bounded),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Then keep so many requests a second, by chance.", rich_help_panel=_CHANGES, **_bounded),
    ] = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Make a trace of what others have recorded, or of several such, or of traces that were made before.

    Nothing is written unless all of it could be read. What was found is told.

    Example: firsttoken traces import day1.csv --models 40 --for 1h --rate 2 --out hour.npz
    """
    from flows.trace_files import check_place, load, save, take
    from schedules.traces.formats import ROLES, Reading
    from schedules.traces.importing import Wishes, made_of
    from schedules.traces.lengths import task as task_of
    from schedules.traces.parsing import Wanting

    told = (time_column, model_column, prompt_column, answer_column, max_column, duration_column)
    columns = {role: column for role, column in zip(ROLES, told, strict=True) if column}
    reading = Reading(format_name, columns, time_unit, skip_bad)
    wishes = Wishes(
        in_turn, dict(each.split("=", 1) for each in rename or []), models, preset, skew,
        start, length, cv, window, speed, rate, max_prompt, seed,
    )  # fmt: skip
    check_place(out, force=force)
    lengths = task_of(task) if lengths_from is None else load(lengths_from)
    parsed = []
    for i, path in enumerate(files):
        wanting = Wanting(name or _stem(path), lengths, max_tokens, seed + 2 * i)
        with _bar(path) as report:
            parsed.append(take(path, reading, wanting, report))
        _tell(path, parsed[-1])
    trace = made_of([each.trace for each in parsed], wishes, have_models=any(each.has_models for each in parsed))
    save(trace, out)
    _tell_written(out, trace)


def synth(
    out: Out,
    rate: Annotated[float | None, typer.Option(help="Requests a second, in the mean.", **_bounded)] = None,
    duration: Annotated[
        float | None, typer.Option(parser=seconds, help="How long: 90, 15min, 2h, 14d.", metavar="TIME")
    ] = None,
    cv: Annotated[
        float | None,
        typer.Option(
            max=100, help="Of a model's gaps, drawn from a gamma distribution; 1 is a Poisson process.", **_bounded
        ),
    ] = None,
    models: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="How many share the rate: 10.")] = None,
    skew: Annotated[
        float | None,
        typer.Option(min=0, max=10, callback=finite, help="Of Zipf's law, for who is popular; 0: all alike."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="chat, code, summarisation, or means PROMPT[:SIGMA]/ANSWER[:SIGMA]; given again, models take them in turn."
        ),
    ] = None,
    wave: Annotated[
        float,
        typer.Option(max=1, help="How far the rate swings in a day, from 0 to 1; lowest at the begin.", **_bounded),
    ] = 0.0,
    daily: Annotated[int, typer.Option(min=0, max=1_000_000, help="More models, called once a day each.")] = 0,
    bursts: Annotated[int, typer.Option(min=0, max=100_000, help="So many times many call one model at once.")] = 0,
    burst_requests: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many those are.")] = 50,
    burst_time: Annotated[float, typer.Option(parser=seconds, help="Within what time.", metavar="TIME")] = 10.0,
    max_tokens: Annotated[int | None, typer.Option(min=1, max=MOST_TOKENS, help="What clients ask for.")] = None,
    max_prompt: Annotated[int | None, typer.Option(min=1, max=MOST_TOKENS, help="Cut prompts at that length.")] = None,
    preset: Annotated[
        str, typer.Option(help="As in a paper, but for what is said: hydraserve, serverlessllm.", metavar="NAME")
    ] = "",
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
    _tell_written(out, trace)


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
    _tell_written(out, trace)


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


def _stem(path: Path) -> str:
    """A file's name without its endings, as far as it can be a model's."""
    name = path.name.removesuffix(".gz").rsplit(".", 1)[0]
    return "".join(letter if letter.isprintable() else "-" for letter in name).strip()[:100] or "model"


@contextmanager
def _bar(path: Path) -> "Iterator[Report]":
    """A bar of bytes while a file is read, where there is a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = stderr()
    columns = (TextColumn("reading {task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(path.name, total=path.stat().st_size or None)
        yield lambda done: progress.update(task, completed=done)


def _tell(path: Path, parsed: "Parsed") -> None:
    trace = parsed.trace
    typer.echo(f"{path}: {parsed.format}, {len(trace):,} requests, models: {len(trace.models):,}", err=True)
    for note in parsed.notes:
        typer.echo(f"  {note}", err=True)
    if parsed.skipped:
        typer.echo(f"  {parsed.skipped:,} lines were skipped, the first: {parsed.first_problem}", err=True)
    if not parsed.has_lengths:
        typer.echo("  lengths that it does not have are drawn", err=True)


def _tell_written(out: Path, trace: "Trace") -> None:
    rate = len(trace) / trace.duration_s if trace.duration_s else 0.0
    typer.echo(
        f"{out}: {len(trace):,} requests in {trace.duration_s:,.0f} s ({rate:.3g}/s), models: {len(trace.models):,}",
        err=True,
    )
