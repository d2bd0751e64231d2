"""Credentials: made where they are needed, kept where only the owner reads them, shown to nobody."""

import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.errors import BadCertificate
from cluster.wire.encryption import Tls
from firsttoken.components import prefect_environment, run_prefect, tls_of
from firsttoken.credentials import PREFECT_AUTH_FILE, TLS_FOLDER, with_certificates, with_prefect_auth
from firsttoken.errors import SettingsError
from firsttoken.operator_key import FILE as KEY_FILE
from firsttoken.operator_key import operator_key
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


def test_whoever_comes_first_makes_the_operators_key_and_all_have_the_same(tmp_path: Path) -> None:
    """The front end, the flow service and a command may come at once."""
    ours = settings(tmp_path / "home")
    with ThreadPoolExecutor(8) as pool:
        (key,) = set(pool.map(lambda _: operator_key(ours), range(32)))
    file = tmp_path / "home" / KEY_FILE
    assert (stat.S_IMODE(file.stat().st_mode), file.read_text()) == (0o600, key)
    assert len(key) > 40
    assert list(file.parent.iterdir()) == [file]
    own = settings(tmp_path / "other", FIRSTTOKEN_FRONTEND__OPERATOR_KEY="own-key")
    assert operator_key(own) == "own-key"
    assert "own-key" not in repr(own)
    assert not (tmp_path / "other").exists()


def test_a_key_that_lets_everybody_in_or_cannot_be_sent_is_none(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_text("\n")
    with pytest.raises(SettingsError, match="remove the file"):
        operator_key(settings(tmp_path))
    with pytest.raises(SettingsError, match=r"operator_key .* will not do: a key has") as refused:
        settings(tmp_path, FIRSTTOKEN_FRONTEND__OPERATOR_KEY="two words")
    assert "two words" not in str(refused.value)


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


# ---- certificates

NOW = datetime.now(UTC)


def certificates(home: Path, now: datetime = NOW) -> tuple[Tls, dict[str, bytes]]:
    """What a secure platform of this home uses, and all files of it."""
    cluster = with_certificates(settings(home), now).cluster
    files = {path.name: path.read_bytes() for path in (home / TLS_FOLDER).iterdir()}
    return Tls(cluster.tls_ca, cluster.tls_cert, cluster.tls_key), files


def test_certificates_are_made_for_the_owner_alone_and_used_again(tmp_path: Path) -> None:
    tls, files = certificates(tmp_path)
    tls.check()
    assert set(files) == {"ca.pem", "ca-key.pem", "cert.pem", "key.pem"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / TLS_FOLDER).iterdir()} == {0o600}
    assert certificates(tmp_path, NOW + timedelta(days=100)) == (tls, files)


def test_a_certificate_is_renewed_in_good_time_by_the_same_authority(tmp_path: Path) -> None:
    _, before = certificates(tmp_path, NOW - timedelta(days=300))
    tls, after = certificates(tmp_path)
    tls.check()
    assert {name for name in before if before[name] == after[name]} == {"ca.pem", "ca-key.pem"}
    _, much_later = certificates(tmp_path, NOW + timedelta(days=3600))
    assert not {name for name in after if after[name] == much_later[name]}


@pytest.mark.parametrize("damaged", ["ca.pem", "ca-key.pem", "cert.pem", "key.pem"])
@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None])
def test_what_is_damaged_or_does_not_belong_together_is_made_anew(
    tmp_path: Path, damaged: str, content: bytes | None
) -> None:
    certificates(tmp_path / "home")
    _, others = certificates(tmp_path / "other")
    (tmp_path / "home" / TLS_FOLDER / damaged).write_bytes(others[damaged] if content is None else content)
    certificates(tmp_path / "home")[0].check()


def test_certificates_that_are_set_are_left_alone(tmp_path: Path) -> None:
    tls, _ = certificates(tmp_path / "other")
    own = settings(
        tmp_path / "home",
        FIRSTTOKEN_CLUSTER__TLS_CA=tls.ca_file,
        FIRSTTOKEN_CLUSTER__TLS_CERT=tls.cert_file,
        FIRSTTOKEN_CLUSTER__TLS_KEY=tls.key_file,
    )
    assert with_certificates(own, NOW) == own
    assert own.scheduler_address == "tls://127.0.0.1:8786"
    assert tls_of(own) == tls
    assert tls_of(settings(tmp_path / "home")) is None


def test_all_files_are_set_or_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"go together: set cluster\.tls_cert and cluster\.tls_key too"):
        settings(tmp_path, FIRSTTOKEN_CLUSTER__TLS_CA="ca.pem")


def test_files_that_will_not_do_are_named(tmp_path: Path) -> None:
    tls, _ = certificates(tmp_path / "home")
    other, _ = certificates(tmp_path / "other")
    expired, _ = certificates(tmp_path / "expired", NOW - timedelta(days=400))
    for files, fault in (
        (replace(tls, ca_file="/absent/ca.pem"), r"/absent/ca\.pem cannot be used: .*No such file"),
        (replace(tls, ca_file=tls.key_file), r"key\.pem cannot be used"),
        (replace(tls, key_file=other.key_file), r"cert\.pem with .*key\.pem cannot be used: .*MISMATCH"),
        (replace(tls, cert_file="/absent/cert.pem"), r"/absent/cert\.pem with"),
        (expired, r"cert\.pem is good from .* and not today"),
    ):
        with pytest.raises(BadCertificate, match=fault):
            files.check()
