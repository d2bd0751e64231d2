"""How tests are spread over several workers, as `pytest -n 2` starts them.

A file is one worker's, since its tests share what is started once in a module; and one worker has all files that look at
the shared cluster, so that there is one of it.
"""

from pathlib import PurePosixPath

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

SHARED = "the shared cluster"
SHARING = (
    "tests/cluster/test_admission.py",
    "tests/cluster/test_contract.py",
    "tests/cluster/test_equality.py",
    "tests/cluster/test_joining.py",
    "tests/cluster/test_ports.py",
    "tests/serving/test_api.py",
    "tests/serving/test_damaged_models.py",
    "tests/serving/test_explain.py",
    "tests/serving/test_history_at_work.py",
    "tests/serving/test_sampling_fields.py",
)
"""The files whose tests use it."""


class ByFile(LoadScopeScheduling):
    """Whoever is free takes the next file, in the order of their names."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return SHARED if file in SHARING else file


def check(items: list[pytest.Item]) -> None:
    """UsageError if a file uses the shared cluster without being named here."""
    using = {
        PurePosixPath(item.location[0]).as_posix()
        for item in items
        if "shared_cluster" in getattr(item, "fixturenames", ())
    }
    if missing := using - set(SHARING):
        raise pytest.UsageError(
            f"these use the shared cluster, and tests/workers.py does not say so: {sorted(missing)}"
        )
