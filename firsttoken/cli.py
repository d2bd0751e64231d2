"""The command line: `firsttoken --help` says the rest.

An error is one sentence on standard error and exit status 1 (2 for wrong usage); a traceback only on request.
"""

import inspect
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from firsttoken.commands import (
    calibrate,
    components,
    explain,
    fit,
    foresight,
    models,
    moves,
    plan,
    platform,
    published,
    recordings,
    traces,
)
from firsttoken.errors import is_expected

app = typer.Typer(
    name="firsttoken",
    epilog="Start here: `firsttoken demo`. Settings: docs/settings.md.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Platform": (
        platform.up,
        platform.down,
        platform.status,
        platform.demo,
        platform.lab,
        calibrate.calibrate,
        platform.version,
    ),
    "Models": (models.publish, published.verify, models.chat, models.generate, explain.explain),
    "Moves, while requests are answered": (
        moves.drain,
        moves.undrain,
        moves.migrate,
        moves.consolidate,
        moves.moves,
    ),
    "Planning": (foresight.forecast, foresight.prewarm, plan.plan, fit.fit),
    "Components, alone in the foreground": (
        components.scheduler,
        components.node,
        components.frontend,
        components.flows,
        components.prefect,
    ),
}
_CONTEXT: dict[Callable[..., None], dict[str, object]] = {
    platform.lab: {"allow_extra_args": True, "ignore_unknown_options": True}  # they are the lab's own to read
}


def _help(command: Callable[..., None]) -> str:
    """What a command says of itself, each paragraph on one line: typer breaks lines anew in the first one alone."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


for _panel, _commands in _COMMANDS.items():
    for _command in _commands:
        _settings = _CONTEXT.get(_command)
        app.command(rich_help_panel=_panel, context_settings=_settings, help=_help(_command))(_command)

_models = typer.Typer(name="models", invoke_without_command=True, callback=models.models, help=_help(models.models))
_models.command(help=_help(published.rm))(published.rm)
_models.command(help=_help(published.gc))(published.gc)
app.add_typer(_models, rich_help_panel="Models")

_traces = typer.Typer(
    name="traces", no_args_is_help=True, help="Record, make up and look at who asks for what, and when."
)
_traces.command("import", help=_help(recordings.import_))(recordings.import_)
_traces.command(help=_help(traces.synth))(traces.synth)
_traces.command(help=_help(traces.history))(traces.history)
_traces.command(help=_help(traces.show))(traces.show)
app.add_typer(_traces, rich_help_panel="Planning")


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Serverless LLM serving that reaches the first token fast."""


def main() -> None:
    """Run the command line and exit."""
    level = os.environ.get("FIRSTTOKEN_LOGGING__LEVEL", "")
    debug = "--debug" in sys.argv[1:] or level.lower() == "debug"
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        sys.exit(_explain(error))


def _explain(error: Exception) -> int:
    """One sentence for a person, and the exit status."""
    if not is_expected(error):
        sentence = f"unexpected {type(error).__name__}: {error}; --debug shows where"
    elif isinstance(error, OSError) and error.strerror:
        sentence = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        sentence = str(error)
    typer.echo(f"firsttoken: {sentence}", err=True)
    return 1
