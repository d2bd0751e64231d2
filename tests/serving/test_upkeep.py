"""What a front end does unasked goes on, whatever one model does."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from serving import upkeep
from serving.errors import ModelDamaged, Unavailable
from serving.upkeep import Upkeep, warm
from tests.told import objectives_of

ALWAYS = objectives_of(min_replicas=1)


class _Catalog:
    """`failures` are what models raise when they are opened; "names" when they are listed."""

    def __init__(self, failures: dict[str, Exception]) -> None:
        self.failures = failures

    async def names(self) -> list[str]:
        if "names" in self.failures:
            raise self.failures["names"]
        return ["a", "b", "c"]

    async def get(self, name: str) -> Any:
        if name in self.failures:
            raise self.failures[name]
        return SimpleNamespace(name=name)


class _Router:
    def __init__(self) -> None:
        self.kept: list[str] = []

    def know(self, model: Any) -> None:
        self.kept.append(model.name)


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """Runs three rounds of upkeep; gives what was kept up, and what was told."""
    caplog.set_level(logging.WARNING)

    async def run(failures: dict[str, Exception]) -> tuple[list[str], list[str]]:
        left = iter(range(2))
        monkeypatch.setattr(upkeep, "asyncio", SimpleNamespace(sleep=lambda _s: asyncio.sleep(next(left) * 0)))
        router = _Router()
        upkeeping = Upkeep(_Catalog(failures), router, ALWAYS, {"named": ALWAYS})  # type: ignore[arg-type]
        with pytest.raises(RuntimeError):  # the third sleep does not come about
            await upkeeping.run()
        return router.kept, [record.getMessage() for record in caplog.records]

    return run


@pytest.mark.parametrize("error", [ValueError("odd"), ModelDamaged("odd"), OSError("odd"), KeyError("odd")])
async def test_one_model_does_not_end_the_upkeep_of_others(rounds: Any, error: Exception) -> None:
    """Whatever a model raised but an error that was thought of ended it for all; what it was is told once, not every time."""
    kept, told = await rounds({"b": error})
    assert kept == ["named", "a", "c"] * 3
    assert len(told) == 1
    assert "b has no replica" in told[0]
    assert "odd" in told[0]


@pytest.mark.parametrize("error", [Unavailable("away"), OSError("away")])
async def test_models_that_are_named_are_kept_up_without_a_list_of_all(rounds: Any, error: Exception) -> None:
    kept, told = await rounds({"names": error})
    assert kept == ["named"] * 3
    assert len(told) == 1
    assert "away" in told[0]


async def test_opening_early_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(error: Exception) -> None:
        raise error

    for error, told in ((Unavailable("away"), 0), (ValueError("odd"), 1)):
        caplog.clear()
        await warm(SimpleNamespace(warm=lambda error=error: fails(error)))  # type: ignore[arg-type]
        assert len(caplog.records) == told
