"""What a front end does for its models unasked: it opens them early, and keeps up those that shall always have replicas.

No model ends it for the others, whatever comes of it: why it failed is told once, and it goes on.
"""

import asyncio
import logging
from collections.abc import Mapping

from schedules.objectives import Objectives
from serving.catalog import Catalog
from serving.errors import RequestError
from serving.router import Router

_log = logging.getLogger(__name__)
KEEP_UP_EVERY_S = 5.0
_CATALOG = "the catalog"


async def warm(catalog: Catalog) -> None:
    """Open what is published, so that first requests find it ready."""
    try:
        await catalog.warm()
    except RequestError:
        pass  # told to whoever asks
    except Exception:  # requests open what they need
        _log.exception("models are not opened before they are asked for")


class Upkeep:
    """Keeps replicas up: of the models that `models` names as it says, of the others as `objectives` does."""

    def __init__(
        self, catalog: Catalog, router: Router, objectives: Objectives, models: Mapping[str, Objectives]
    ) -> None:
        self._catalog, self._router = catalog, router
        self._objectives, self._models = objectives, models
        self._told: dict[str, str] = {}

    async def run(self) -> None:
        """Until cancelled; at once over if no model shall always have a replica."""
        while any(wanted.min_replicas for wanted in (self._objectives, *self._models.values())):
            for name in await self._names():
                try:
                    self._router.know(await self._catalog.get(name))
                    self._told.pop(name, None)
                except Exception as error:  # whatever it is, the other models are kept up
                    self._tell(name, f"{name} has no replica", error)
            await asyncio.sleep(KEEP_UP_EVERY_S)

    async def _names(self) -> list[str]:
        named = [name for name, objectives in self._models.items() if objectives.min_replicas]
        if not self._objectives.min_replicas:
            return named
        try:
            others = [name for name in await self._catalog.names() if name not in self._models]
        except Exception as error:  # those that are named are kept up whatever the store says
            self._tell(_CATALOG, "which models shall have replicas is not known", error)
            return named
        self._told.pop(_CATALOG, None)
        return named + others

    def _tell(self, about: str, what: str, error: Exception) -> None:
        """Once for each cause; what nobody expected with its traceback."""
        cause = f"{type(error).__name__}: {error}"
        if self._told.get(about) != cause:
            expected = isinstance(error, RequestError)
            _log.warning("%s: %s", what, error if expected else cause, exc_info=None if expected else error)
        self._told[about] = cause
