"""A platform of small scripts, run by the real supervisor: `python -m tests.firsttoken.fake_platform HOME NAME...`.

Each component starts a child of its own that ignores SIGTERM, as a server's workers may. A name says how it behaves:
`good` serves; `stubborn` serves and ignores SIGTERM; `patient` too, but notes a SIGINT and ends; `broken` ends at once;
`robbed` too, for others took its port; `mute` never serves; `mortal` serves and ends after a moment; `brief` too, but only
the first time. Prints every step and, once all serve, "all ready".
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from firsttoken import ready
from firsttoken.errors import FirsttokenError, PortInUse
from firsttoken.local import Platform, Step, platform
from firsttoken.process import Component
from firsttoken.settings import Settings, load_settings

SCRIPT = """
import pathlib, signal, subprocess, sys, time
kind, file = sys.argv[1], pathlib.Path(sys.argv[2])
print("hello from", kind, flush=True)
if kind in ("broken", "robbed"):
    sys.exit("it is broken")
ignores = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
subprocess.Popen([sys.executable, "-S", "-c", ignores])
if kind in ("stubborn", "patient"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if kind == "patient":
    signal.signal(signal.SIGINT, lambda *_: file.with_suffix(".ended").touch() or sys.exit())
again = file.exists()
if kind != "mute":
    file.touch()
time.sleep(0.5 if kind == "mortal" or (kind == "brief" and not again) else 600)
"""


def robbed() -> None:
    raise PortInUse("another has its port")


def fake_components(names: list[str], settings: Settings, environment: Mapping[str, str]) -> list[Component]:
    """A component per name; those named first are ended first."""
    return [
        Component(
            name=name,
            command=(sys.executable, "-S", "-c", SCRIPT, name, str(settings.run_dir / name)),
            environment=environment,
            ready=partial(ready.file_there, settings.run_dir / name),
            start_timeout_s=2.0 if name == "mute" else 20.0,
            stop_rank=rank,
            stop_signal=signal.SIGINT if name == "patient" else signal.SIGTERM,
            check_ports=robbed if name == "robbed" else lambda: None,
        )
        for rank, name in enumerate(names)
    ]


def say(line: str) -> None:
    """One line at once, for the test that reads along."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(home: Path, names: list[str]) -> None:
    """Run until a signal or a failure."""

    def report(step: Step) -> None:
        say(f"{step.component} {step.phase}")

    async def stay(running: Platform) -> None:
        await running.ready()
        say("all ready")
        await asyncio.Event().wait()

    ports = ("FRONTEND__PORT", "PREFECT__PORT", "CLUSTER__SCHEDULER_PORT", "CLUSTER__DASHBOARD_PORT")
    environment = {f"FIRSTTOKEN_{port}": "0" for port in ports} | {"FIRSTTOKEN_HOME": str(home)}
    async with platform(load_settings(environment=environment), report, build=partial(fake_components, names)) as up:
        await up.during(stay(up))


if __name__ == "__main__":
    try:
        asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
    except FirsttokenError as error:
        say(f"failed: {error}")
        os._exit(1)
