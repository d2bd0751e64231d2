"""What a flow needs to know of the platform: where its scheduler, its store and its front end are.

A flow run is a process of its own, so the facts travel in a file that only its owner may read (it can hold credentials)
and that one environment variable names. They are no flow parameters: those stand in the open in Prefect's UI.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.wire.encryption import Tls
from flows.errors import NoContext
from flows.front_end import FrontEnd
from flows.prewarming.foresight import Foresight
from storage_tiers.plain_files import whole

if TYPE_CHECKING:
    from cluster.client import ClusterClient
    from storage_tiers.model_store import ModelStore

CONTEXT_VARIABLE = "FLOW_CONTEXT"


@dataclass(frozen=True)
class FlowContext:
    """Connection facts, and how the platform looks ahead. `store_options` go to the store's file system as they are. In
    `plans_dir` lies what plans were made of, and what was written of them.

    What reaches the cluster and the store is imported by those that do: the flows of moves speak to the front end alone.
    """

    scheduler_address: str
    store_url: str
    store_options: Mapping[str, Any] = field(repr=False)
    store_reader: str
    tls: Tls | None
    front_end_url: str
    operator_key: str = field(repr=False)
    plans_dir: str
    foresight: Foresight

    def cluster(self) -> "ClusterClient":
        """A client of the cluster, to be entered."""
        from cluster.client import ClusterClient

        return ClusterClient(self.scheduler_address, self.tls)

    def store(self) -> "ModelStore":
        """The model store, opened anew."""
        from storage_tiers.model_store import ModelStore
        from storage_tiers.object_store import ObjectStore

        return ModelStore(ObjectStore(self.store_url, self.store_options, self.store_reader))

    def front_end(self) -> FrontEnd:
        """The front end, as operators reach it."""
        return FrontEnd(self.front_end_url, self.operator_key)


def write_context(context: FlowContext, path: Path) -> None:
    """Write `context` where read_context finds it once CONTEXT_VARIABLE names `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path, mode=0o600) as file:
        file.write(json.dumps(asdict(context)).encode())


def read_context() -> FlowContext:
    """The context of this flow run's process. NoContext if the environment names no readable one."""
    path = os.environ.get(CONTEXT_VARIABLE)
    if path is None:
        raise NoContext(f"{CONTEXT_VARIABLE} names no file: flows run in the flow service (`firsttoken flows`)")
    try:
        facts = json.loads(Path(path).read_text(encoding="utf-8"))
        tls, foresight = facts.pop("tls", None), Foresight.of_json(facts.pop("foresight"))
        return FlowContext(**facts, tls=None if tls is None else Tls(**tls), foresight=foresight)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise NoContext(f"the flow context {path} cannot be read: {error}") from error
