"""A node is started, and joins, where Prefect is not even installed."""

import subprocess
import sys

_PARTS = """
import importlib, pkgutil, sys
sys.modules["prefect"] = None
for root in ("cluster", "schedules", "storage_tiers"):
    for module in pkgutil.walk_packages(importlib.import_module(root).__path__, f"{root}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
import firsttoken.components
print(len(sys.modules))
"""
_COMMAND = "import sys; sys.modules['prefect'] = None; from firsttoken.cli import main; main()"


def _run(program: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_nothing_that_a_node_needs_imports_prefect() -> None:
    assert int(_run(_PARTS).split()[-1]) > 1000


def test_the_command_line_knows_nodes_without_prefect() -> None:
    assert "Usage" in _run(_COMMAND, "node", "--help")
