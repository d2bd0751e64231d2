"""Ports of a platform: checked before anything starts."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from firsttoken.errors import PortInUse
from firsttoken.ports import assigned_ports, check_ports
from firsttoken.settings import FrontendSettings, Settings, load_settings

ANY = {
    "FIRSTTOKEN_FRONTEND__PORT": "0",
    "FIRSTTOKEN_PREFECT__PORT": "0",
    "FIRSTTOKEN_CLUSTER__SCHEDULER_PORT": "0",
    "FIRSTTOKEN_CLUSTER__DASHBOARD_PORT": "0",
}


@pytest.fixture
def busy_port() -> Iterator[int]:
    """A port that something listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def settings_with(tmp_path: Path, **environment: str) -> Settings:
    """Settings whose ports are free to choose, but for those given."""
    return load_settings(environment={"FIRSTTOKEN_HOME": str(tmp_path), **ANY, **environment})


def assign_ports(settings: Settings, **how: bool) -> Settings:
    """What a platform would have whose end is at once."""
    with assigned_ports(settings, **how) as assigned:
        return assigned


def ports(settings: Settings) -> list[int]:
    """All ports of a platform."""
    cluster = settings.cluster
    return [settings.frontend.port, settings.prefect.port, cluster.scheduler_port, cluster.dashboard_port]


def test_port_zero_becomes_a_free_port_of_its_own(tmp_path: Path) -> None:
    chosen = ports(assign_ports(settings_with(tmp_path)))
    assert 0 not in chosen
    assert len(set(chosen)) == 4


def test_a_busy_port_is_refused_with_the_way_out(tmp_path: Path, busy_port: int) -> None:
    with pytest.raises(PortInUse) as refused:
        assign_ports(settings_with(tmp_path, FIRSTTOKEN_FRONTEND__PORT=str(busy_port)))
    assert str(refused.value) == (
        f"port {busy_port} is in use: set frontend.port (FIRSTTOKEN_FRONTEND__PORT) or stop what listens there"
    )


def test_one_port_for_two_components_is_refused(tmp_path: Path) -> None:
    free = str(ports(assign_ports(settings_with(tmp_path)))[0])
    with pytest.raises(PortInUse, match=r"set prefect\.port"):
        assign_ports(settings_with(tmp_path, FIRSTTOKEN_FRONTEND__PORT=free, FIRSTTOKEN_PREFECT__PORT=free))


def test_a_busy_default_may_move_but_a_chosen_port_never(
    tmp_path: Path, busy_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_with(tmp_path, FIRSTTOKEN_FRONTEND__PORT=str(busy_port))
    with pytest.raises(PortInUse):
        assign_ports(settings, move_defaults=True)
    monkeypatch.setattr(FrontendSettings.model_fields["port"], "default", busy_port)
    assert assign_ports(settings, move_defaults=True).frontend.port not in (0, busy_port)


def test_no_picked_port_is_one_that_the_system_gives_to_others(tmp_path: Path) -> None:
    assert all(20_000 <= port < 32_000 for port in ports(assign_ports(settings_with(tmp_path)))), (
        "Linux: 32768 and above"
    )


def test_what_one_platform_was_given_no_other_gets_until_its_end(tmp_path: Path) -> None:
    """Nothing listens there for seconds, so each of two that started at once found all ports free."""
    with assigned_ports(settings_with(tmp_path)) as first:
        port = str(first.prefect.port)
        with (
            pytest.raises(PortInUse, match=rf"port {port} is .* set prefect\.port \(FIRSTTOKEN_PREFECT__PORT\)"),
            assigned_ports(settings_with(tmp_path, FIRSTTOKEN_PREFECT__PORT=port)),
        ):
            pass
        check_ports(first, "prefect")  # nobody listens there
    assert assign_ports(settings_with(tmp_path, FIRSTTOKEN_PREFECT__PORT=port)).prefect.port == int(port)


def test_a_default_that_another_platform_was_given_may_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with assigned_ports(settings_with(tmp_path)) as first:
        monkeypatch.setattr(FrontendSettings.model_fields["port"], "default", first.frontend.port)
        other = settings_with(tmp_path, FIRSTTOKEN_FRONTEND__PORT=str(first.frontend.port))
        assert assign_ports(other, move_defaults=True).frontend.port not in ports(first)


def test_the_port_on_which_others_came_to_listen_is_named(tmp_path: Path, busy_port: int) -> None:
    settings = settings_with(tmp_path, FIRSTTOKEN_CLUSTER__DASHBOARD_PORT=str(busy_port))
    with pytest.raises(PortInUse, match=r"set cluster\.dashboard_port"):
        check_ports(settings, "cluster")
    for section in ("frontend", "prefect", ""):
        check_ports(settings, section)


def test_of_a_host_of_any_name_it_is_said_that_nobody_can_listen_there(tmp_path: Path) -> None:
    settings = settings_with(
        tmp_path, FIRSTTOKEN_FRONTEND__HOST=f"{'a' * 60}.{'b' * 60}", FIRSTTOKEN_FRONTEND__PORT="8"
    )
    with pytest.raises(PortInUse, match=r"cannot listen on a+\.b+:8 \(frontend\.host"):
        assign_ports(settings)
