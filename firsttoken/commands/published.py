"""Commands that look after what is published: prove that it is whole, remove it, clear away what nobody needs."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from firsttoken.commands.models import Model
from firsttoken.commands.options import AsJson, Config, finite, load, open_store, print_json, stderr

if TYPE_CHECKING:
    from storage_tiers.model_store import ModelStore


def verify(model: Model, as_json: AsJson = False, config: Config = None) -> None:
    """Read all of a published model and compare it with its checksums; exit status 1 and a list if it is damaged.

    Example: firsttoken verify smollm2
    """
    from firsttoken.terminal import UnitBar
    from storage_tiers.publishing.verify import verify as verify_model

    store = open_store(load(config))
    with UnitBar("verifying", model, "opening", stderr()) as bar:
        result = verify_model(store, model, progress=bar.show)
    damages = [{"part": damage.part, "problem": damage.problem} for damage in result.damages]
    if as_json:
        checkpoint = result.checkpoint
        sizes = {"units": len(checkpoint.units), "size_bytes": checkpoint.size_bytes}
        print_json({"name": model, "version": checkpoint.version, **sizes, "damages": damages})
    elif damages:
        for damage in damages:
            typer.echo(f"{damage['part']}: {damage['problem']}")
        typer.echo(f"{model} is damaged: remove it and publish it again", err=True)
    else:
        typer.echo(f"{model} is whole: {len(result.checkpoint.units)} units compared", err=True)
    if damages:
        raise typer.Exit(1)


def rm(
    model: Model,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: Config = None,
) -> None:
    """Remove a published model with all its versions. Replicas that run go on; those that still load it fail.

    Example: firsttoken models rm smollm2
    """
    from storage_tiers.publishing.collect import remove_model

    store = open_store(load(config))
    checkpoint_size = _size_of(model, store)
    if not yes:
        typer.confirm(f"Remove {model} ({checkpoint_size}) from {store.objects.url}?", abort=True, err=True)
    remove_model(store, model)
    typer.echo(f"{model} is removed", err=True)


def gc(
    grace: Annotated[
        float,
        typer.Option(
            min=0, max=31_536_000, callback=finite, metavar="SECONDS", help="Keep what has changed within that time."
        ),
    ] = 3600.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Remove old versions that no model names, and what killed publishers have left behind.

    The grace must be longer than a node takes to load a model and a publisher to write a unit.

    Example: firsttoken models gc --dry-run
    """
    from storage_tiers.publishing.collect import collect

    store = open_store(load(config))
    found = collect(store, now_s=time.time(), age_s=grace, dry_run=dry_run)
    if as_json:
        print_json([{"key": garbage.key, "size_bytes": garbage.size_bytes} for garbage in found])
        return
    for garbage in found:
        typer.echo(f"{garbage.key}  {garbage.size_bytes / 1e6:,.1f} MB")
    total = sum(garbage.size_bytes for garbage in found)
    typer.echo(f"{total / 1e6:,.1f} MB in {len(found)} items {'would be' if dry_run else 'were'} removed", err=True)


def _size_of(model: str, store: "ModelStore") -> str:
    from storage_tiers.errors import Corrupt

    try:
        return f"{store.open(model).size_bytes / 1e6:,.1f} MB"
    except Corrupt:
        return "damaged"
