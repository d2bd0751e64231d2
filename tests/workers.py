"""How tests are spread over several workers, as `make test` starts them.

A file is one worker's, since its tests share what is started once in a module. Files that share more are one worker's too:
those that look at the shared cluster, so that there is one of it, and those that lay or list what the whole machine has
one of.
"""

from collections.abc import Iterable

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

SHARED_CLUSTER, FLOW_SERVICE, NAMESPACES = "shared_cluster", "flow_service", "network namespaces and control groups"
TOGETHER = {
    SHARED_CLUSTER: (
        "tests/cluster/test_admission.py",
        "tests/cluster/test_constrained.py",
        "tests/cluster/test_contract.py",
        "tests/cluster/test_equality.py",
        "tests/cluster/test_joining.py",
        "tests/cluster/test_ports.py",
        "tests/cluster/test_shifts.py",
        "tests/firsttoken/test_fit_cli.py",
        "tests/serving/test_api.py",
        "tests/serving/test_clients.py",
        "tests/serving/test_damaged_models.py",
        "tests/serving/test_embeddings_at_work.py",
        "tests/serving/test_explain.py",
        "tests/serving/test_history_at_work.py",
        "tests/serving/test_sampling_fields.py",
        "tests/serving/structure/test_at_work.py",
    ),
    FLOW_SERVICE: (
        "tests/flows/test_moves.py",
        "tests/flows/test_service.py",
        "tests/flows/test_service_foresees.py",
        "tests/flows/test_service_gone.py",
    ),
    NAMESPACES: (
        "tests/cluster/test_shaped_rates.py",
        "tests/infra/test_disks.py",
        "tests/infra/test_lab.py",
        "tests/infra/test_lab_command.py",
    ),
}
"""By what they share, or by the name of the fixture that starts it."""
_SHARE = {file: share for share, files in TOGETHER.items() for file in files}
LONGEST = (
    SHARED_CLUSTER,
    NAMESPACES,
    FLOW_SERVICE,
    "tests/serving/test_chaos.py",
    "tests/cluster/test_outliving.py",
    "tests/firsttoken/test_up.py",
    "tests/firsttoken/test_demo.py",
    "tests/cluster/test_group_failures.py",
    "tests/serving/test_failures.py",
    "tests/serving/test_scheduler_loss.py",
    "tests/cluster/test_store_failures.py",
    "tests/cluster/test_storage_failures.py",
    "tests/cluster/test_pool.py",
    "tests/cluster/test_peers.py",
    "tests/serving/test_frontend_loss.py",
    "tests/cluster/test_families.py",
)
"""Half a minute and more each, the longest first: what is begun last is short, so no worker is done long before another."""


class ByFile(LoadScopeScheduling):
    """Whoever is free takes the next file, in the order of `arrange`, and all that share something with it."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def remove_node(self, node: WorkerController) -> str | None:
        """The test that the worker died of, None if it died of none. It is not run again, and others do what the worker had
        left. xdist gives them what was done as well, hears nothing of that, and waits for ever."""
        workload = self.assigned_work.pop(node)
        died_of = next((name for unit in workload.values() for name, done in unit.items() if not done), None)
        if died_of is None:
            return None
        workload[_unit(died_of)][died_of] = True
        self.workqueue.update({unit: tests for unit, tests in workload.items() if not all(tests.values())})
        for other in self.assigned_work:
            self._reschedule(other)
        return died_of

    def _split_scope(self, nodeid: str) -> str:
        return _unit(nodeid)


def arrange(nodeids: Iterable[str]) -> list[int]:
    """The indices of these tests in the order in which they are begun: units of LONGEST, then all others as they stand."""
    ranks = {unit: rank for rank, unit in enumerate(LONGEST)}
    found = [ranks.get(_unit(nodeid), len(ranks)) for nodeid in nodeids]
    return sorted(range(len(found)), key=found.__getitem__)


def _unit(nodeid: str) -> str:
    """What one worker does as a whole: a file, or all that share something with it."""
    file = nodeid.partition("::")[0]
    return _SHARE.get(file, file)


def check(items: list[pytest.Item]) -> None:
    """UsageError if a file uses the shared cluster and does not stand here."""
    using = {item.location[0] for item in items if SHARED_CLUSTER in getattr(item, "fixturenames", ())}
    if missing := sorted(using - set(TOGETHER[SHARED_CLUSTER])):
        raise pytest.UsageError(f"{', '.join(missing)}: looks at the shared cluster, add it to tests/workers.py")
