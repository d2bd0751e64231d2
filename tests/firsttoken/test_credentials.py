"""Credentials: made where they are needed, kept where only the owner reads them, shown to nobody."""

import stat
from pathlib import Path

import pytest

from firsttoken.components import prefect_environment, run_prefect
from firsttoken.credentials import PREFECT_AUTH_FILE, with_prefect_auth
from firsttoken.errors import SettingsError
from firsttoken.settings import Settings, load_settings


def settings(home: Path, **environment: str) -> Settings:
    return load_settings(environment={"FIRSTTOKEN_HOME": str(home), **environment})


def test_a_prefect_that_others_reach_gets_a_password_that_stays(tmp_path: Path) -> None:
    """Whoever reached it could run commands."""
    exposed = settings(tmp_path, FIRSTTOKEN_PREFECT__HOST="0.0.0.0")
    auth = with_prefect_auth(exposed).prefect.auth
    assert auth.startswith("firsttoken:")
    assert len(auth) > 40
    assert with_prefect_auth(exposed).prefect.auth == auth
    file = tmp_path / PREFECT_AUTH_FILE
    assert (stat.S_IMODE(file.stat().st_mode), file.read_text().strip()) == (0o600, auth)
    assert auth not in repr(with_prefect_auth(exposed))


def test_on_loopback_and_where_one_is_set_none_is_made(tmp_path: Path) -> None:
    assert with_prefect_auth(settings(tmp_path)).prefect.auth == ""
    own = settings(tmp_path, FIRSTTOKEN_PREFECT__HOST="10.0.0.1", FIRSTTOKEN_PREFECT__AUTH="me:mine")
    assert with_prefect_auth(own).prefect.auth == "me:mine"
    assert list(tmp_path.iterdir()) == []


def test_a_prefect_component_that_others_reach_does_not_start_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in prefect_environment(settings(tmp_path)):
        monkeypatch.setenv(variable, "")  # what the component sets is undone with it
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    with pytest.raises(SettingsError, match=r"run commands: set prefect\.auth \(FIRSTTOKEN_PREFECT__AUTH\)"):
        run_prefect(settings(tmp_path, FIRSTTOKEN_PREFECT__HOST="10.0.0.1"))


@pytest.mark.parametrize("auth", ["very-secret", "very secret:one", ":very-secret", "user:"])
def test_an_auth_that_is_none_is_refused_without_showing_it(tmp_path: Path, auth: str) -> None:
    with pytest.raises(SettingsError, match=r"prefect\.auth .* will not do: it is USER:PASSWORD") as refused:
        settings(tmp_path, FIRSTTOKEN_PREFECT__AUTH=auth)
    assert auth not in str(refused.value)


def test_everything_that_asks_prefect_is_given_the_password(tmp_path: Path) -> None:
    environment = prefect_environment(settings(tmp_path, FIRSTTOKEN_PREFECT__AUTH="me:mine"))
    assert environment["PREFECT_API_AUTH_STRING"] == environment["PREFECT_SERVER_API_AUTH_STRING"] == "me:mine"
    assert "PREFECT_API_AUTH_STRING" not in prefect_environment(settings(tmp_path))
