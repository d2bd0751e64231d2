"""Who holds a home, and what is left when a supervisor is killed."""

import os
from pathlib import Path

import pytest

from firsttoken.errors import AlreadyUp, FirsttokenError, NotUp
from firsttoken.home import UpState, away, clear_state, frontend_url, hold_home, read_state, take_down, write_state
from firsttoken.settings import load_settings

STATE = UpState(os.getpid(), {"api": "http://127.0.0.1:1234/v1"}, 2)


def test_a_home_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with hold_home(tmp_path), pytest.raises(AlreadyUp, match="firsttoken down"), hold_home(tmp_path):
        pass


def test_a_home_that_was_let_go_can_be_held_again(tmp_path: Path) -> None:
    for _ in range(2):
        with hold_home(tmp_path):
            assert read_state(tmp_path) is None


def test_what_runs_is_read_back_while_it_is_held(tmp_path: Path) -> None:
    with hold_home(tmp_path):
        write_state(tmp_path, STATE)
        assert read_state(tmp_path) == STATE


def test_a_file_whose_writer_is_gone_is_cleared(tmp_path: Path) -> None:
    """A killed supervisor leaves its file; the kernel drops its lock."""
    with hold_home(tmp_path):
        write_state(tmp_path, STATE)
    assert read_state(tmp_path) is None
    assert not (tmp_path / "up.json").exists()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    with hold_home(tmp_path):
        (tmp_path / "up.json").write_text("{")
        with pytest.raises(FirsttokenError, match=r"up\.json cannot be read"):
            read_state(tmp_path)
        clear_state(tmp_path)


def test_a_home_that_cannot_be_looked_into_is_named(tmp_path: Path) -> None:
    """A bare "[Errno 20] Not a directory" was shown."""
    (tmp_path / "home").touch()
    with pytest.raises(FirsttokenError, match=r"cannot tell what runs in .*home: .*FIRSTTOKEN_HOME"):
        read_state(tmp_path / "home" / "run")


def test_nothing_runs_in_an_empty_home(tmp_path: Path) -> None:
    with pytest.raises(NotUp, match="nothing runs in"):
        take_down(tmp_path / "run", timeout_s=1)


def test_commands_find_the_front_end_of_the_running_platform(tmp_path: Path) -> None:
    settings = load_settings(environment={"FIRSTTOKEN_HOME": str(tmp_path)})
    assert frontend_url(settings) == "http://127.0.0.1:8000"
    with hold_home(settings.run_dir):
        write_state(settings.run_dir, STATE)
        assert frontend_url(settings) == "http://127.0.0.1:1234"
        assert away(settings).endswith(
            f"at http://127.0.0.1:1234: the platform in {tmp_path} is starting it, or stopping"
        )
    assert away(settings) == "no front end answers at http://127.0.0.1:8000: start one with `firsttoken up`"
