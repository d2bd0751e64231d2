"""A real Prefect server, scheduler, nodes and flow service in a home of their own, and what Prefect's API says."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from cluster.client import ClusterClient
from firsttoken.ports import assigned_ports
from firsttoken.settings import Settings, load_settings, write_settings
from schedules.facts import Rate
from tests.asking import NO_AUTHORITIES

MODEL = "tiny/Llama-1.0"
NODES = ("node-1", "node-2")
EVERY_S = 8.0
"""Until the first run; then the schedule is paused, for those that follow take cores from the other tests, seconds each."""
AUTH = ("firsttoken", "a-password")
_T = TypeVar("_T")
_STOP_WITHIN_S = 20.0
_ASK_EVERY_S = 0.3
_ANSWERS_WITHIN_S = 60.0
_ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def own_settings(home: Path, **environment: str) -> Settings:
    """Settings with free ports, written where components of this home read them."""
    ports = ("FRONTEND__PORT", "PREFECT__PORT", "CLUSTER__SCHEDULER_PORT", "CLUSTER__DASHBOARD_PORT")
    chosen = {f"FIRSTTOKEN_{port}": "0" for port in ports} | {"FIRSTTOKEN_HOME": str(home), **environment}
    with assigned_ports(load_settings(environment=chosen)) as settings:
        write_settings(settings, settings.run_dir / "settings.json")
    settings.logs_dir.mkdir(parents=True, exist_ok=True)
    return settings


@dataclass
class Components:
    """Components of one home, each started the way the supervisor, Slurm or Kubernetes start it."""

    settings: Settings
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, *command: str) -> None:
        """Start a component, known by the last word of its command."""
        config = str(self.settings.run_dir / "settings.json")
        with (self.settings.logs_dir / f"{command[-1]}.log").open("ab") as log:
            self.processes[command[-1]] = subprocess.Popen(
                [sys.executable, "-m", "firsttoken", *command, "--config", config],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, name: str) -> int:
        """End a component as the supervisor does, and return its exit status; TimeoutExpired if it does not end."""
        process = self.processes.pop(name)
        process.terminate()
        try:
            return process.wait(_STOP_WITHIN_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def started(settings: Settings) -> Iterator[Components]:
    """Components to start; what was started last ends first, and all end with the block."""
    components = Components(settings)
    try:
        yield components
    finally:
        with contextlib.ExitStack() as stops:  # one that does not end keeps no other from ending
            for name in list(components.processes):
                stops.callback(components.stop, name)


def within(seconds: float, condition: Awaitable[_T]) -> _T:
    """The condition's value, or TimeoutError."""

    async def wait() -> _T:
        return await asyncio.wait_for(condition, seconds)

    return asyncio.run(wait())


async def held(settings: Settings, nodes: Sequence[str]) -> set[tuple[str, str]]:
    """What the nodes, once all are there, say they hold: node and digest."""
    async with ClusterClient(settings.scheduler_address) as client:
        view = await client.nodes(minimum=len(nodes), timeout_s=50)
        return {(node.name, digest) for node in view.nodes for digest in node.units}


async def rates(settings: Settings, nodes: Sequence[str]) -> dict[str, Mapping[str, Rate]]:
    """What the nodes, once all are there, say they have measured."""
    async with ClusterClient(settings.scheduler_address) as client:
        view = await client.nodes(minimum=len(nodes), timeout_s=50)
        return {node.name: node.rates for node in view.nodes}


@dataclass(frozen=True)
class PrefectApi:
    """Prefect's REST API, as its own UI uses it. `auth` is user and password."""

    url: str
    auth: tuple[str, str]

    async def scheduled_run(self, flow: str) -> dict[str, Any]:
        """The first of the flow's runs that its schedule made, once it is completed. No scheduled run may fail."""
        wanted = {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_ASC"}
        while True:
            runs = [run for run in await self._post("/flow_runs/filter", wanted) if run["auto_scheduled"]]
            assert not [run["state"] for run in runs if run["state_type"] in ("FAILED", "CRASHED")]
            done = [run for run in runs if run["state_type"] == "COMPLETED"]
            if done:
                return dict(done[0])
            await asyncio.sleep(_ASK_EVERY_S)

    async def by_automation(self, flow: str) -> dict[str, Any]:
        """The flow's run that an automation made, once it is over."""
        while True:
            runs = await self._post("/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}})
            for run in runs:
                if (run["created_by"] or {}).get("type") == "AUTOMATION" and run["state_type"] in _ENDS:
                    return dict(run)
            await asyncio.sleep(_ASK_EVERY_S)

    async def next_scheduled_run(self, flow: str, after: str) -> dict[str, Any]:
        """The first that the flow's schedule made to begin after that time (as Prefect tells it), once it is over."""
        wanted = {
            "flows": {"name": {"any_": [flow]}},
            "flow_runs": {"expected_start_time": {"after_": after}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        while True:
            runs = [run for run in await self._post("/flow_runs/filter", wanted) if run["auto_scheduled"]]
            if runs and runs[0]["state_type"] in _ENDS:
                return dict(runs[0])
            await asyncio.sleep(_ASK_EVERY_S)

    async def deployment(self, flow: str) -> dict[str, Any]:
        """The flow's deployment."""
        return dict(await self._send("GET", f"/deployments/name/{flow}/firsttoken"))

    async def edit_schedule(self, flow: str, schedule: dict[str, Any]) -> None:
        """Have the flow's one schedule say something else, as the UI's form does."""
        deployment = await self.deployment(flow)
        (known,) = deployment["schedules"]
        path = f"/deployments/{deployment['id']}/schedules/{known['id']}"
        await self._send("PATCH", path, {"schedule": schedule, "active": True})

    async def resume(self, flow: str) -> None:
        """The flow's schedule makes runs again."""
        await self._post(f"/deployments/{await self._deployment(flow)}/resume_deployment", {})

    async def set_variable(self, name: str, value: Any) -> None:
        """As the UI's form does, for one that there is not yet; None takes it away."""
        if value is None:
            await self._send("DELETE", f"/variables/name/{name}")
        else:
            await self._post("/variables/", {"name": name, "value": value})

    async def pause(self, flow: str) -> None:
        """The flow's schedule makes no more runs."""
        await self._post(f"/deployments/{await self._deployment(flow)}/pause_deployment", {})

    async def begin(self, flow: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Have the flow's deployment run now."""
        path = f"/deployments/{await self._deployment(flow)}/create_flow_run"
        return dict(await self._post(path, {"parameters": parameters}))

    async def run(self, flow: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Run the flow's deployment now, and return the run once it is over, whatever became of it."""
        return await self.over((await self.begin(flow, parameters))["id"])

    async def over(self, run: str) -> dict[str, Any]:
        """The run once it is over, whatever became of it."""
        while True:
            (now,) = await self._post("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
            if now["state_type"] in _ENDS:
                return dict(now)
            await asyncio.sleep(_ASK_EVERY_S)

    async def of_move(self, move: str, *tags: str) -> dict[str, Any]:
        """The one run of the move, with these tags too, once it is over."""
        (run,) = await self._over_of(move, *tags)
        return run

    async def ends_of(self, move: str) -> set[str]:
        """What became of the runs of the move, once all are over."""
        return {run["state_type"] for run in await self._over_of(move)}

    async def _over_of(self, move: str, *tags: str) -> list[dict[str, Any]]:
        wanted = {"flow_runs": {"tags": {"all_": [f"move {move}", *tags]}}}
        while True:
            runs = await self._post("/flow_runs/filter", wanted)
            if runs and all(run["state_type"] in _ENDS for run in runs):
                return list(runs)
            await asyncio.sleep(_ASK_EVERY_S)

    async def run_of(self, move: str) -> dict[str, Any]:
        """The run of the move that began first, once it runs."""
        wanted = {"flow_runs": {"tags": {"all_": [f"move {move}"]}}, "sort": "START_TIME_ASC"}
        while True:
            runs = await self._post("/flow_runs/filter", wanted)
            if runs and runs[0]["state_type"] == "RUNNING":
                return dict(runs[0])
            await asyncio.sleep(_ASK_EVERY_S)

    async def cancel(self, run: str) -> None:
        """As the UI's button does."""
        state = {"type": "CANCELLING", "name": "Cancelling"}
        await self._post(f"/flow_runs/{run}/set_state", {"state": state})

    async def steps(self, run: dict[str, Any], *, least: int = 1) -> dict[str, str]:
        """The types of the states of the run's tasks, by task, in the order in which they began; once at least so many are
        known, which may be after the run's end, and all are over."""
        wanted = {"flow_runs": {"id": {"any_": [run["id"]]}}}
        while True:
            tasks = await self._post("/task_runs/filter", wanted)
            if len(tasks) >= least and all(task["state_type"] in _ENDS for task in tasks):
                tasks.sort(key=lambda task: task["start_time"])
                return {task["name"].rpartition("-")[0]: task["state_type"] for task in tasks}
            await asyncio.sleep(_ASK_EVERY_S)

    async def page(self, key: str, run: dict[str, Any]) -> str:
        """The text of the page that the run left under `key`."""
        wanted = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}, "key": {"any_": [key]}}}
        (artifact,) = await self._post("/artifacts/filter", wanted)
        assert artifact["type"] == "markdown"
        return str(artifact["data"])

    async def events(self, about: str, *, least: int) -> list[dict[str, Any]]:
        """The platform's events whose payload speaks of `about`, in the order in which they happened; at least so many."""
        wanted = {"filter": {"event": {"prefix": ["firsttoken."]}, "order": "ASC"}, "limit": 50}
        while True:
            events = [event for event in (await self._post("/events/filter", wanted))["events"] if about in str(event)]
            if len(events) >= least:
                return events
            await asyncio.sleep(_ASK_EVERY_S)

    async def table(self, key: str, run: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows of the table artifact that the run left under `key`."""
        wanted = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}, "key": {"any_": [key]}}}
        (artifact,) = await self._post("/artifacts/filter", wanted)
        assert artifact["type"] == "table"
        return list(json.loads(artifact["data"]))

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES, auth=self.auth, timeout=_ANSWERS_WITHIN_S)

    async def _deployment(self, flow: str) -> str:
        return str((await self.deployment(flow))["id"])

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        return await self._send("POST", path, body)

    async def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        async with self._client() as client:
            answer = await client.request(method, self.url + path, json=body)
            while answer.status_code == 503:  # SQLite is locked: Prefect's own client asks again too
                await asyncio.sleep(_ASK_EVERY_S)
                answer = await client.request(method, self.url + path, json=body)
            return answer.raise_for_status().json() if answer.content else None
