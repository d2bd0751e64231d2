"""A front end computes nothing, and has neither torch nor what it takes to import it: three seconds and 300 MB."""

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from cluster.model_facts import (
    context_tokens,
    kv_bytes_per_token,
    learned_positions,
    model_config,
    renewal_border,
    widths_of,
)
from tests.tiny import CHANGING_ROTATIONS, SUPPORTED_FAMILIES, tiny_config

_LIBRARIES = "import sys; import serving.app; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
_READ = """
import json, sys
from serving.torchless import refuse_torch
refuse_torch()
from tests.serving.test_torchless import read_off
found = [read_off(config) for config in json.load(sys.stdin)]
assert sys.modules["torch"] is None
print(json.dumps(found))
"""
_AT_ONCE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from cluster.model_facts import model_config
from serving.torchless import refuse_torch
refuse_torch()
sys.setswitchinterval(1e-5)
with ThreadPoolExecutor(8) as pool:
    print({made.model_type for made in pool.map(lambda _: model_config({"model_type": "llama"}), range(8))})
"""


def read_off(config: dict[str, Any]) -> dict[str, Any]:
    """What a front end wants to know of a model."""
    made = model_config(config)
    return {
        "context": context_tokens(made),
        "kv": kv_bytes_per_token(made, "bfloat16"),
        "learned": learned_positions(made),
        "renewed": renewal_border(made),
        "widths": asdict(widths_of(made, "bfloat16")),
    }


def _run(code: str, given: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True, timeout=100
    )
    assert "PyTorch was not found" not in done.stderr
    return done.stdout


def test_what_a_front_end_imports_brings_no_torch() -> None:
    assert _run(_LIBRARIES) == "[]\n"


def test_models_are_read_without_torch_as_they_are_with_it() -> None:
    options = [(family, {}) for family in SUPPORTED_FAMILIES] + list(CHANGING_ROTATIONS)
    configs = [tiny_config(family, **own) | {"dtype": "bfloat16"} for family, own in options]
    assert json.loads(_run(_READ, json.dumps(configs))) == [read_off(config) for config in configs]


def test_requests_that_come_while_libraries_are_imported_wait_for_them() -> None:
    """The second thread found transformers half made: a request in a front end's first second was answered with 500."""
    assert _run(_AT_ONCE) == "{'llama'}\n"
