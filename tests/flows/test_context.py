"""How a flow run's process learns where things are."""

import stat
from pathlib import Path

import pytest

from cluster.wire.encryption import Tls
from firsttoken.components import foresight_of, prefect_environment
from firsttoken.settings import load_settings
from flows.artifacts import artifact_key
from flows.context import CONTEXT_VARIABLE, FlowContext, read_context, write_context
from flows.errors import NoContext
from flows.prewarming.foresight import ALL, Foresight
from schedules.objectives import Objectives
from tests.told import budgets_of

TLS = Tls("ca.pem", "cert.pem", "key.pem")
WANTED = Objectives(
    ttft_s=2.0, tpot_s=None, min_replicas=0, max_replicas=1, keep_alive_s=60.0, priority=0, max_degree=4, kv_tokens=1024
)
FORESIGHT = Foresight(300.0, 900.0, 86400.0, "chosen", budgets_of(moved_bytes=1 << 30), ("a",), {ALL: WANTED})
CONTEXT = FlowContext(
    "tls://127.0.0.1:1",
    "s3://models",
    {"secret": "hush"},
    "auto",
    TLS,
    "http://127.0.0.1:2",
    "hush-key",
    "/plans",
    FORESIGHT,
)


def test_a_context_reads_back_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run" / "context.json"
    write_context(CONTEXT, file)
    monkeypatch.setenv(CONTEXT_VARIABLE, str(file))
    assert read_context() == CONTEXT


def test_a_context_can_hold_credentials_so_nobody_else_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "context.json"
    write_context(CONTEXT, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "hush" not in repr(CONTEXT)


def test_a_flow_outside_the_service_says_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONTEXT_VARIABLE, raising=False)
    with pytest.raises(NoContext, match="firsttoken flows"):
        read_context()


@pytest.mark.parametrize("text", ["", "{", '{"other": 1}', "[]"])
def test_a_damaged_context_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    file = tmp_path / "context.json"
    file.write_text(text)
    monkeypatch.setenv(CONTEXT_VARIABLE, str(file))
    with pytest.raises(NoContext, match=r"context\.json cannot be read"):
        read_context()


@pytest.mark.parametrize(
    ("model", "key"), [("plan", "prewarm-plan"), ("tiny/Llama-1.0", "prewarm-tiny-llama-1-0"), ("a__b", "prewarm-a-b")]
)
def test_artifact_keys_have_the_letters_that_prefect_allows(model: str, key: str) -> None:
    assert artifact_key("prewarm", model) == key


def test_flows_look_ahead_as_the_settings_say() -> None:
    told = {
        "HOME": "/home", "PREWARM__DRAM_SHARE": "0.5", "PREWARM__MOVED_BYTES": "1GB", "PREWARM__HORIZON_S": "600",
        "PREWARM__MODELS": "a,b", "MODELS": '{"a": {"keep_alive_s": 5}}',
    }  # fmt: skip
    found = foresight_of(load_settings(environment={f"FIRSTTOKEN_{name}": value for name, value in told.items()}))
    assert found.budgets == budgets_of(dram_share=0.5, moved_bytes=10**9)
    assert (found.horizon_s, found.models) == (600.0, ("a", "b"))
    assert (found.objectives_of("a").keep_alive_s, found.objectives_of("b").keep_alive_s) == (5.0, 300.0)
    unbounded = load_settings(environment={"FIRSTTOKEN_HOME": "/home"})
    assert foresight_of(unbounded).budgets == budgets_of()


def test_flows_learn_of_prefect_from_the_settings_and_nothing_calls_home() -> None:
    settings = load_settings(environment={"FIRSTTOKEN_HOME": "/home", "FIRSTTOKEN_PREFECT__PORT": "4321"})
    environment = prefect_environment(settings)
    assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"
    assert environment["PREFECT_HOME"] == "/home/prefect"
    assert (environment["PREFECT_SERVER_ANALYTICS_ENABLED"], environment["DO_NOT_TRACK"]) == ("false", "1")
