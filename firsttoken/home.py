"""The home of a running platform: who holds it, and the file that says so.

The lock is the kernel's (flock), so it goes with its last holder; the file beside it only tells where things are.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from firsttoken.errors import AlreadyUp, FirsttokenError, NotUp
from firsttoken.settings import Settings
from firsttoken.settings.types import netloc
from storage_tiers.plain_files import whole

_STATE, _LOCK = "up.json", "up.lock"
FLOWS_READY_FILE = "flows.ready"
"""In the run folder once the flows are registered with Prefect."""


@dataclass(frozen=True)
class UpState:
    """What runs in a home: the supervisor's process and where to reach its components."""

    pid: int
    urls: Mapping[str, str]
    nodes: int


def urls(settings: Settings) -> dict[str, str]:
    """Where a person reaches the platform."""
    return {
        "page": f"{settings.frontend_url}/",
        "api": f"{settings.frontend_url}/v1",
        "docs": f"{settings.frontend_url}/docs",
        "prefect": settings.prefect.api_url.removesuffix("/api"),
        "dask": f"http://{netloc(settings.cluster.host, settings.cluster.dashboard_port)}/status",
    }


@contextlib.contextmanager
def hold_home(run_dir: Path) -> Iterator[int]:
    """Hold the home whose run folder this is; yields the lock's descriptor. AlreadyUp if somebody else holds it."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(run_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FirsttokenError(f"cannot write in {run_dir}: {error.strerror}; set home (FIRSTTOKEN_HOME)") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyUp(
                f"firsttoken is already up (or still stopping) in {run_dir.parent}: see `firsttoken status`,"
                " stop it with `firsttoken down`"
            ) from error
        clear_state(run_dir)
        yield lock
    finally:
        os.close(lock)


def write_state(run_dir: Path, state: UpState) -> None:
    """Say what runs here; readers see the whole file or none."""
    with whole(run_dir / _STATE) as file:
        file.write(json.dumps(asdict(state)).encode())


def clear_state(run_dir: Path) -> None:
    """Nothing runs here any more."""
    (run_dir / _STATE).unlink(missing_ok=True)


def read_state(run_dir: Path) -> UpState | None:
    """What runs here, or None. A file left by a supervisor that was killed is cleared."""
    try:
        lock = os.open(run_dir / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FirsttokenError(
            f"cannot tell what runs in {run_dir.parent}: {run_dir / _LOCK}: {error.strerror}; set home (FIRSTTOKEN_HOME)"
        ) from error
    try:
        state = UpState(**json.loads((run_dir / _STATE).read_text(encoding="utf-8")))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return state
    except (ValueError, TypeError) as error:
        raise FirsttokenError(f"{run_dir / _STATE} cannot be read: remove it ({error})") from error
    else:
        clear_state(run_dir)
        return None
    finally:
        os.close(lock)


def take_down(run_dir: Path, timeout_s: float) -> None:
    """Ask the supervisor that runs here to end, and wait for it. NotUp if none runs; FirsttokenError if it stays."""
    state = read_state(run_dir)
    if state is None:
        raise NotUp(f"nothing runs in {run_dir.parent}")
    try:
        supervisor = os.pidfd_open(state.pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(supervisor, signal.SIGTERM)
        if not select.select([supervisor], [], [], timeout_s)[0]:
            raise FirsttokenError(f"process {state.pid} is still there after {timeout_s:.0f} s: kill it with -9")
    except ProcessLookupError:
        return
    finally:
        os.close(supervisor)


def away(settings: Settings) -> str:
    """What is to be said where the front end does not answer: a platform may be about to mend that."""
    said = f"no front end answers at {frontend_url(settings)}"
    if read_state(settings.run_dir) is None:
        return f"{said}: start one with `firsttoken up`"
    return f"{said}: the platform in {settings.home} is starting it, or stopping"


def frontend_url(settings: Settings) -> str:
    """Where the front end answers: that of the platform which runs in this home, else the one in the settings."""
    state = read_state(settings.run_dir)
    return state.urls["api"].removesuffix("/v1") if state else settings.frontend_url
