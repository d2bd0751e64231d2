"""Whatever stands in a setting is taken for what it says or refused in a sentence that names the setting."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from firsttoken.errors import SettingsError
from firsttoken.settings import ModelSettings, Settings, environment_name, load_settings, sections, setting_names
from storage_tiers.errors import StorageError
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore

BAD_NUMBERS = [
    "inf",
    "-inf",
    "nan",
    "-1000001",
    "1e300",
    "9" * 400,
    "9" * 5000,
    "true",
    '"x"',
    '""',
    "[]",
    "{}",
    "2020-01-01",
]
BAD_SIZES = ['"1e400GB"', f'"{"9" * 400}GB"', '"99999999TB"', '"-1GB"', '"0x10"']
BAD_TEXTS = ["3", "inf", "true", "[]", "{}", '"a\\u0000b"', '"a\\nb"']
BAD_CHOICES = ["3", "inf", "[]", "{}", '""', '"nonsense"']
BAD_OPTIONS = ["3", "inf", '"{"', "[]", "{a = inf}", "{a = [nan]}", "{a = 2020-01-01}", '{a = "\\u0000"}', '"{\\"a\\": NaN}"',
    '"' + "[" * 100_000 + '"', "{a = " + "[" * 50 + "]" * 50 + "}"]  # fmt: skip
OWN = {
    "cluster.host": ['""', '"a b"', '"a/b"', '"http://a"', f'"{"a" * 300}"'],
    "node.threads": ["1000000"],
    "node.pool_size": ["65"],
    "node.fetch_threads": ["0", "100000"],
    "node.network_bytes_per_s": ["1", '"99kB"', "-1"],
    "node.report_interval_s": ["1e-9"],
    "prewarm.every_s": ["1e-9"],
    "prewarm.horizon_s": ["0", "59", "86401"],
    "prewarm.dram_share": ["1.01", "-0.1"],
    "reap.every_s": ["1e-9"],
    "backtest.cron": ['"@daily"', '"60 * * * *"', '"* * * *"'],
    "calibrate.every_s": ["1e-9"],
    "frontend.cors_origins": ['"https://a/"', '"a.example"', '"https://a b"', '"HTTPS://a"', '[""]', '"null"'],
    "store.url": ['"~nobody-by-this-name/x"'],
    "history.url": ['"postgresql://host:notaport/x"', '"postgresql://[::1/x"'],
    "models": ["{m = 3}", "{m = {degree = 0}}", "{m = {degree = inf}}", "{m = {nonsense = 1}}", "{m = {priority = true}}"],
    "home": ['""', '"~nobody-by-this-name/x"', f'"{"a" * 5000}"'],
}  # fmt: skip


def _fields() -> Iterator[tuple[str, FieldInfo]]:
    for name in setting_names():
        section, _, key = name.rpartition(".")
        yield name, (sections()[section] if section else Settings).model_fields[key]


def _hostile(name: str, field: FieldInfo) -> list[str]:
    """As TOML."""
    kind = str(field.annotation)
    if field.annotation in (int, float):
        bad = BAD_NUMBERS + (BAD_SIZES if name.endswith("_bytes") else [])
    elif "dict" in kind:
        bad = BAD_OPTIONS
    elif "Literal" in kind or name == "node.device":
        bad = BAD_CHOICES
    elif field.annotation is bool:
        bad = ["3", "inf", '"perhaps"', "[]"]
    elif "tuple" in kind:
        bad = ["3", "inf", "{}", "[3]", '["\\u0000"]']
    else:
        bad = BAD_TEXTS
    return bad + OWN.get(name, [])


@pytest.mark.parametrize("name", list(setting_names()))
def test_what_no_setting_can_mean_is_refused_where_it_is_read(tmp_path: Path, name: str) -> None:
    """A node was told to compute with a million threads, and a timeout of nan seconds: it was taken, and broke elsewhere."""
    section, _, key = name.rpartition(".")
    file = tmp_path / "own.toml"
    for text in _hostile(name, dict(_fields())[name]):
        file.write_text(f"[{section}]\n{key} = {text}\n" if section else f"{key} = {text}\n")
        environment = {"FIRSTTOKEN_HOME": str(tmp_path)} if name != "home" else {}
        with pytest.raises(SettingsError) as refused:
            load_settings(file, environment)
        assert name in str(refused.value) or "is not valid" in str(refused.value), text[:80]
        assert len(str(refused.value)) < 1000, text[:80]


def test_every_number_has_two_bounds_and_is_refused_with_the_one_it_breaks(tmp_path: Path) -> None:
    def refusal(variable: str, value: object) -> str:
        with pytest.raises(SettingsError) as refused:
            load_settings(environment={"FIRSTTOKEN_HOME": str(tmp_path), variable: json.dumps(value)})
        return str(refused.value)

    for number, words in ((10**16, "less than or equal to"), (-(10**16), "greater than")):
        for name in [name for name, field in _fields() if field.annotation in (int, float)]:
            assert re.match(rf"{name} .*({words}|a size is)", refusal(environment_name(name), number))
        for key in ModelSettings.model_fields:
            assert re.match(rf"models\.m\.{key} .*{words}", refusal("FIRSTTOKEN_MODELS", {"m": {key: number}}))


@given(
    st.sampled_from(list(setting_names())),
    st.text(max_size=40) | st.sampled_from(BAD_NUMBERS + BAD_SIZES + BAD_OPTIONS),
)
@examples(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_environment_gives_settings_or_a_sentence(tmp_path: Path, name: str, text: str) -> None:
    named = True
    try:
        load_settings(environment={"FIRSTTOKEN_HOME": str(tmp_path), environment_name(name): text})
    except SettingsError as error:
        named = name in str(error)
    assert named


@pytest.mark.parametrize(
    "content", ["[]", "3", '"text"', "null", "[" * 100_000, '{"node": [1]}', '{"node": {"threads": NaN}}']
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "own.json"
    file.write_text(content)
    with pytest.raises(SettingsError):
        load_settings(file, {})


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """They could not be written down for the components."""
    with pytest.raises(SettingsError, match=r"home .*UTF-8"):
        load_settings(environment={"FIRSTTOKEN_HOME": str(tmp_path / "\udc80")})
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"store": {"url": "memory://\ud800"}}))
    with pytest.raises(SettingsError, match=r"store\.url .*UTF-8"):
        load_settings(file, {})


@pytest.mark.parametrize(
    "options", [{"endpoint_url": 5}, {"nonsense": 1}, {"client_kwargs": "x"}, {"key": 3, "secret": [1]}]
)
def test_options_that_a_store_does_not_take_are_an_error_of_the_store(options: dict[str, object]) -> None:
    """One of a wrong type came as a traceback."""
    with pytest.raises(StorageError):
        ModelStore(ObjectStore("s3://bucket", options)).list()
