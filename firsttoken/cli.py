"""The command line: `firsttoken --help` says the rest.

An error is one sentence on standard error and exit status 1 (2 for wrong usage); a traceback only on request.
"""

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
for _panel, _commands in _COMMANDS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel, context_settings=_CONTEXT.get(_command))(_command)

_models = typer.Typer(name="models", invoke_without_command=True, callback=models.models)
_models.command()(published.rm)
_models.command()(published.gc)
app.add_typer(_models, rich_help_panel="Models")

_traces = typer.Typer(
    name="traces", no_args_is_help=True, help="Record, make up and look at who asks for what, and when."
)
_traces.command("import")(recordings.import_)
_traces.command()(traces.synth)
_traces.command()(traces.history)
_traces.command()(traces.show)
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
    sentence = str(error) if is_expected(error) else f"unexpected {type(error).__name__}: {error}; --debug shows where"
    typer.echo(f"firsttoken: {sentence}", err=True)
    return 1
