"""Settings: where they come from, what is refused, and that the documents tell the same."""

import json
import re
import stat
from pathlib import Path

import pytest
from sqlalchemy import make_url

from firsttoken.errors import SettingsError
from firsttoken.home import urls
from firsttoken.settings import (
    Settings,
    environment_name,
    load_settings,
    sections,
    setting_names,
    write_settings,
)
from firsttoken.settings.types import parse_size
from storage_tiers.object_store import ObjectStore

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"
SIZES = {"0.5GB": 500_000_000, "8GB": 8 * 10**9, "2GiB": 2 << 30, "2 gib": 2 << 30, "1TB": 10**12, "4096": 4096}


def load(tmp_path: Path, toml: str = "", **environment: str) -> Settings:
    """Settings of a home in `tmp_path` that holds `toml`."""
    (tmp_path / "firsttoken.toml").write_text(toml)
    return load_settings(environment={"FIRSTTOKEN_HOME": str(tmp_path), **environment})


def refusal(tmp_path: Path, toml: str = "", **environment: str) -> str:
    """The sentence with which settings are refused."""
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, toml, **environment)
    return str(refused.value)


def test_defaults_suit_one_machine() -> None:
    settings = load_settings(environment={"FIRSTTOKEN_HOME": "/nowhere"})
    assert settings.frontend_url == "http://127.0.0.1:8000"
    assert settings.scheduler_address == "tcp://127.0.0.1:8786"
    assert settings.store.url == "file:///nowhere/store"
    assert settings.history.url == "sqlite:////nowhere/history.db"
    assert settings.prefect.api_url == "http://127.0.0.1:4200/api"


def test_the_home_is_in_the_persons_home_by_default() -> None:
    assert load_settings(environment={}).home == Path.home() / ".firsttoken"


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    settings = load(tmp_path, "[frontend]\nport = 9000\ndegree = 2\n", FIRSTTOKEN_FRONTEND__PORT="9001")
    assert (settings.frontend.port, settings.frontend.degree, settings.frontend.keep_alive_s) == (9001, 2, 300.0)


def test_origins_are_written_as_browsers_do(tmp_path: Path) -> None:
    origins = (
        "https://app.example",
        "http://localhost:3000",
        "http://[::1]:3000",
        "chrome-extension://abc",
        "*",
        "local",
    )
    assert load(tmp_path, "", FIRSTTOKEN_FRONTEND__CORS_ORIGINS=", ".join(origins)).frontend.cors_origins == origins
    assert load(tmp_path, f"[frontend]\ncors_origins = {list(origins)}\n").frontend.cors_origins == origins
    assert load(tmp_path, "").frontend.cors_origins == ("local",)


def test_a_file_may_be_named_by_argument_or_environment(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("[cluster]\nnodes = 7\n")
    assert load_settings(file, {}).cluster.nodes == 7
    assert load_settings(environment={"FIRSTTOKEN_CONFIG": str(file)}).cluster.nodes == 7


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read the settings file .*absent\.toml"):
        load_settings(tmp_path / "absent.toml", {})


def test_an_unknown_key_in_the_file_is_refused_with_near_matches(tmp_path: Path) -> None:
    assert "no setting 'frontend.prot': did you mean frontend.port" in refusal(tmp_path, "[frontend]\nprot = 1\n")
    assert "no setting 'fronted': did you mean frontend or " in refusal(tmp_path, "[fronted]\nport = 1\n")


def test_an_unknown_variable_is_refused_with_near_matches(tmp_path: Path) -> None:
    assert "FIRSTTOKEN_FRONTEND__PRT: did you mean FIRSTTOKEN_FRONTEND__PORT" in refusal(
        tmp_path, FIRSTTOKEN_FRONTEND__PRT="1"
    )


def test_an_address_stands_in_urls_as_they_have_it(tmp_path: Path) -> None:
    """http://::1:8000 is none, and a browser does not go to 0.0.0.0."""
    settings = load(
        tmp_path,
        FIRSTTOKEN_FRONTEND__HOST="::1",
        FIRSTTOKEN_PREFECT__HOST="0.0.0.0",
        FIRSTTOKEN_CLUSTER__HOST="0.0.0.0",
    )
    assert urls(settings) == {
        "page": "http://[::1]:8000/", "api": "http://[::1]:8000/v1", "docs": "http://[::1]:8000/docs",
        "prefect": "http://127.0.0.1:4200", "dask": "http://127.0.0.1:8787/status",
    }  # fmt: skip
    for wrong in ("300.1.1.1", "1:2", "127.1", "a..b", "a" * 64):
        assert "a host is a name or an IP address" in refusal(tmp_path, FIRSTTOKEN_FRONTEND__HOST=wrong)
    assert "speak IPv4 to one another" in refusal(tmp_path, FIRSTTOKEN_CLUSTER__SCHEDULER_HOST="::1")


def test_a_value_out_of_range_names_its_setting_and_source(tmp_path: Path) -> None:
    assert "frontend.port (from FIRSTTOKEN_FRONTEND__PORT)" in refusal(tmp_path, FIRSTTOKEN_FRONTEND__PORT="70000")
    assert "firsttoken.toml" in refusal(tmp_path, "[cluster]\nnodes = 0\n")


def test_a_refusal_says_what_is_needed_and_where_what_is_there_stands(tmp_path: Path) -> None:
    """pydantic's own words were shown: "Extra inputs are not permitted", "a valid dictionary or instance of ..."."""
    file = f"(from {tmp_path / 'firsttoken.toml'}) will not do"
    misspelt = refusal(tmp_path, "[models.smollm2]\ndegre = 2\n")
    assert misspelt == f"models.smollm2.degre {file}: 2: there is no such setting: did you mean degree?"
    assert refusal(tmp_path, "[models]\nsmollm2 = 2\n") == f"models.smollm2 {file}: 2: a table is needed"
    both = refusal(tmp_path, "[frontend]\nport = 1\n", FIRSTTOKEN_FRONTEND__PORT="http")
    assert both == "frontend.port (from FIRSTTOKEN_FRONTEND__PORT) will not do: 'http': a whole number is needed"


def test_a_file_with_a_mark_of_its_byte_order_is_read_and_a_level_in_capitals_too(tmp_path: Path) -> None:
    """As editors of Windows write it, and as logging does."""
    settings = load(tmp_path, '\ufeff[logging]\nlevel = "WARNING"\n')
    assert settings.logging.level == "warning"


def test_a_section_given_a_value_is_refused(tmp_path: Path) -> None:
    assert "'frontend' a value, but it is a section" in refusal(tmp_path, "frontend = 3\n")


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    assert "is not valid" in refusal(tmp_path, "[frontend\n")


@pytest.mark.parametrize("text", SIZES)
def test_sizes_may_have_units(text: str) -> None:
    assert parse_size(text) == SIZES[text]


@pytest.mark.parametrize("text", ["8 apples", "GB", "-1GB", "1e9"])
def test_other_sizes_are_refused(tmp_path: Path, text: str) -> None:
    assert "8GB or 2GiB" in refusal(tmp_path, FIRSTTOKEN_NODE__SSD_BYTES=text)


def test_lists_and_options_come_from_the_environment_too(tmp_path: Path) -> None:
    settings = load(tmp_path, FIRSTTOKEN_PREWARM__MODELS="a, b/c", FIRSTTOKEN_STORE__OPTIONS='{"anon": true}')
    assert settings.prewarm.models == ("a", "b/c")
    assert settings.store.options == {"anon": True}


def test_credentials_do_not_show(tmp_path: Path) -> None:
    """Options of the store can hold secrets: neither a printed Settings nor a refusal repeats them."""
    assert "hush" not in repr(load(tmp_path, FIRSTTOKEN_STORE__OPTIONS='{"secret": "hush"}'))
    assert "hush" not in refusal(tmp_path, FIRSTTOKEN_STORE__OPTIONS='{"secret": "hush"')
    assert "hush" not in repr(load(tmp_path, FIRSTTOKEN_HISTORY__URL="postgresql://me:hush@host/history"))
    assert "hush" not in refusal(tmp_path, FIRSTTOKEN_HISTORY__URL="mysql://me:hush@host/history")


def test_a_relative_store_means_a_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(tmp_path, FIRSTTOKEN_STORE__URL="models").store.url == f"file://{tmp_path}/models"


def test_a_home_may_have_any_name_that_urls_leave_alone(tmp_path: Path) -> None:
    """A store in "a home" went to "a%20home" beside it."""
    home = tmp_path / "mein Büro, 100 % #1"
    home.mkdir()
    settings = load(home)
    ObjectStore(settings.store.url).write("here", b"")
    assert (home / "store" / "here").exists()
    assert make_url(settings.history.url).database == str(home / "history.db")
    for name in ("what?", "a::b", "ü" * 200 + "/" + "a" * 60):  # SQLite opens no longer ones
        with pytest.raises(SettingsError, match="home will not do"):
            load_settings(environment={"FIRSTTOKEN_HOME": str(tmp_path / name)})


def test_written_settings_read_back_equal_and_are_private(tmp_path: Path) -> None:
    settings = load(tmp_path, FIRSTTOKEN_PREWARM__MODELS="a", FIRSTTOKEN_STORE__OPTIONS='{"key": "k"}')
    file = tmp_path / "run" / "settings.json"
    write_settings(settings, file)
    assert load_settings(file, {}) == settings
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "url", ["history.db", "sqlite://", "sqlite:///:memory:", "mysql://host/history", "postgresql:/host"]
)
def test_a_history_is_in_sqlite_or_postgresql(tmp_path: Path, url: str) -> None:
    assert "sqlite:///PATH or at postgresql://" in refusal(tmp_path, FIRSTTOKEN_HISTORY__URL=url)


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(tmp_path).frontend.port = 1  # type: ignore[misc]


def test_every_setting_has_a_meaning() -> None:
    fields = [field for kind in sections().values() for field in kind.model_fields.values()]
    assert all(field.description for field in [Settings.model_fields["home"], *fields])


def test_the_document_lists_every_setting_and_no_other_with_its_default_and_meaning() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \| `(.*?)` \| (.+) \|$", DOCS.read_text(), re.MULTILINE)
    assert [name for name, _, _ in rows] == list(setting_names())
    for name, default, meaning in rows:
        section, _, key = name.rpartition(".")
        field = (sections()[section] if section else Settings).model_fields[key]
        assert meaning == field.description, name
        assert same(default, field.default), name


def same(written: str, default: object) -> bool:
    """Whether a default as the document writes it is the one in the code."""
    if isinstance(default, Path):
        return written == str(default)
    if re.fullmatch(r"\d+[A-Za-z]+", written):
        return parse_size(written) == default
    return json.loads(written) == (list(default) if isinstance(default, tuple) else default)


def test_environment_names_follow_the_documented_pattern() -> None:
    assert environment_name("frontend.port") == "FIRSTTOKEN_FRONTEND__PORT"
    assert environment_name("home") == "FIRSTTOKEN_HOME"
