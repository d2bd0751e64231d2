"""The command that makes a trace of what others have recorded."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firsttoken.commands.options import MOST_TOKENS, finite, stderr
from firsttoken.commands.traces import Force, Out, Seed, seconds, tell_written

if TYPE_CHECKING:
    from flows.trace_files import Report
    from schedules.traces.formats import Reading
    from schedules.traces.parsing import Parsed, Wanting

_COLUMNS, _MODELS, _LENGTHS, _CHANGES = "What is in the file", "Models", "Lengths", "What becomes of it"


def _renamed(value: list[str] | None) -> list[str] | None:
    for each in value or []:
        if not all(each.partition("=")):
            raise typer.BadParameter(f"{each!r} does not say OLD=NEW")
    return value


_column = {"metavar": "COLUMN", "rich_help_panel": _COLUMNS}
_bounded = {"min": 0.0, "callback": finite}
Files = Annotated[list[Path], typer.Argument(help="Recorded traces, also .gz; or stored ones.", metavar="FILE...")]
FormatName = Annotated[
    str,
    typer.Option(
        "--format",
        help="azure-functions-2021, azure-functions-2019, azure-llm-2023, mooncake, csv or jsonl. Else it is found.",
        metavar="NAME",
        rich_help_panel=_COLUMNS,
    ),
]
TimeColumn = Annotated[
    str, typer.Option(help="When a request came. By name; by place from 1 on without a header.", **_column)
]
ModelColumn = Annotated[str, typer.Option(help="The model, or what stands for it.", **_column)]
PromptColumn = Annotated[str, typer.Option(help="Tokens of the prompt.", **_column)]
AnswerColumn = Annotated[str, typer.Option(help="Tokens of the answer.", **_column)]
MaxColumn = Annotated[str, typer.Option(help="Tokens that the client allowed.", **_column)]
DurationColumn = Annotated[str, typer.Option(help="What it took, where the time is that of its end.", **_column)]
TimeUnit = Annotated[str, typer.Option(help="ns, us, ms, s, min or h.", metavar="UNIT", rich_help_panel=_COLUMNS)]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Count lines that cannot be read, and go on.", rich_help_panel=_COLUMNS)
]
Models = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1_000_000,
        help="Map to so many: the trace's in turn, the most called first; by chance where it has none.",
        rich_help_panel=_MODELS,
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        help="Map to the models of a paper, with its tasks, lengths and service levels: hydraserve, serverlessllm.",
        rich_help_panel=_MODELS,
    ),
]
Name = Annotated[
    str, typer.Option(help="The one model, where none was recorded; else the file's name.", rich_help_panel=_MODELS)
]
Rename = Annotated[
    list[str] | None,
    typer.Option(
        help="A model's new name; may be given again.",
        metavar="OLD=NEW",
        callback=_renamed,
        rich_help_panel=_MODELS,
    ),
]
Skew = Annotated[
    float,
    typer.Option(
        min=0,
        max=10,
        callback=finite,
        help="Of Zipf's law, where requests are mapped by chance; 0: all models alike.",
        rich_help_panel=_MODELS,
    ),
]
Task = Annotated[
    str,
    typer.Option(
        help="Lengths where none were recorded: chat, code, summarisation, or means PROMPT[:SIGMA]/ANSWER[:SIGMA].",
        rich_help_panel=_LENGTHS,
    ),
]
LengthsFrom = Annotated[
    Path | None, typer.Option(help="The same, drawn from a stored trace.", metavar="PATH", rich_help_panel=_LENGTHS)
]
MaxTokens = Annotated[
    int,
    typer.Option(
        min=1, max=MOST_TOKENS, help="What clients ask for where that was not recorded.", rich_help_panel=_LENGTHS
    ),
]
MaxPrompt = Annotated[
    int | None, typer.Option(min=1, max=MOST_TOKENS, help="Cut prompts at that length.", rich_help_panel=_LENGTHS)
]
InTurn = Annotated[
    bool, typer.Option("--in-turn", help="One file after the other, not all at once.", rich_help_panel=_CHANGES)
]
From = Annotated[
    float, typer.Option("--from", parser=seconds, help="Begin there.", metavar="TIME", rich_help_panel=_CHANGES)
]
For = Annotated[
    float | None,
    typer.Option("--for", parser=seconds, help="Keep so much.", metavar="TIME", rich_help_panel=_CHANGES),
]
Cv = Annotated[
    float | None,
    typer.Option(
        max=100,
        help="Draw arrivals anew: each model's in each window with gamma gaps of that CV.",
        rich_help_panel=_CHANGES,
        **_bounded,
    ),
]
Window = Annotated[float, typer.Option(parser=seconds, help="For --cv.", metavar="TIME", rich_help_panel=_CHANGES)]
Speed = Annotated[
    float | None,
    typer.Option(help="Then let time run so many times as fast.", rich_help_panel=_CHANGES, **_bounded),
]
Rate = Annotated[
    float | None,
    typer.Option(help="Then keep so many requests a second, by chance.", rich_help_panel=_CHANGES, **_bounded),
]


def import_(
    files: Files,
    out: Out,
    format_name: FormatName = "",
    time_column: TimeColumn = "",
    model_column: ModelColumn = "",
    prompt_column: PromptColumn = "",
    answer_column: AnswerColumn = "",
    max_column: MaxColumn = "",
    duration_column: DurationColumn = "",
    time_unit: TimeUnit = "",
    skip_bad: SkipBad = False,
    models: Models = None,
    preset: Preset = "",
    name: Name = "",
    rename: Rename = None,
    skew: Skew = 1.0,
    task: Task = "chat",
    lengths_from: LengthsFrom = None,
    max_tokens: MaxTokens = 1024,
    max_prompt: MaxPrompt = None,
    in_turn: InTurn = False,
    start: From = 0.0,
    length: For = None,
    cv: Cv = None,
    window: Window = 600.0,
    speed: Speed = None,
    rate: Rate = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Make a trace of what others have recorded, or of several such, or of traces that were made before.

    Nothing is written unless all of it could be read. What was found is told.

    Example: firsttoken traces import day1.csv --models 40 --for 1h --rate 2 --out hour.npz
    """
    from flows.trace_files import check_place, load, save
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
    parsed = [
        _taken(path, reading, Wanting(name or _stem(path), lengths, max_tokens, seed + 2 * i))
        for i, path in enumerate(files)
    ]
    trace = made_of([each.trace for each in parsed], wishes, have_models=any(each.has_models for each in parsed))
    save(trace, out)
    tell_written(out, trace)


def _taken(path: Path, reading: "Reading", wanting: "Wanting") -> "Parsed":
    """What is in the file, which is told."""
    from flows.trace_files import take

    with _bar(path) as report:
        parsed = take(path, reading, wanting, report)
    _tell(path, parsed)
    return parsed


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
