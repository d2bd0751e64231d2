"""Take the pictures of this folder anew: a consolidation as Prefect's UI shows it, and the report of a capacity plan.

    pip install playwright && apt-get install chromium
    PYTHONPATH=. python docs/images/take.py move report

Of the move: a platform of its own, whose front end starts SmolLM2-135M-Instruct as a pipeline of four stages, is asked for a
long answer; meanwhile the pipeline becomes one replica. Of the report: see plan.py.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import sync_playwright

from benchmarks.model import published_smollm2
from benchmarks.moves_operator import KEY, Operator
from docs.images.plan import example
from firsttoken.ports import free_port
from flows.capacity.page import page as report_of

HERE = Path(__file__).resolve().parent
PORTS = ("FRONTEND__PORT", "PREFECT__PORT", "CLUSTER__SCHEDULER_PORT", "CLUSTER__DASHBOARD_PORT")
WITHIN_S = 300.0
PICTURES = {"flow-run.png": "/runs/flow-run/{run}?tab=Task Runs", "flow-run-page.png": "/artifacts/artifact/{artifact}"}
SIZE = {"width": 1280, "height": 900}
REPORT, REPORT_SIZE = "capacity-report.png", {"width": 1180, "height": 1060}


def main() -> None:
    wanted = sys.argv[1:] or ["move", "report"]
    for name in wanted:
        {"move": take_move, "report": take_report}[name]()


def take_report() -> None:
    """The top of the report."""
    document = report_of(example(), "an example")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport=REPORT_SIZE)
        page.set_content(document)
        page.screenshot(path=HERE / REPORT)
        browser.close()


def take_move() -> None:
    """The move's flow run, and the page that it left."""
    store_url, model = published_smollm2()
    ports = {name: free_port() for name in PORTS}
    with tempfile.TemporaryDirectory(prefix="firsttoken-pictures-") as home:
        chosen = {name: str(port) for name, port in ports.items()} | {
            "HOME": home, "STORE__URL": store_url, "CLUSTER__NODES": "4", "NODE__THREADS": "1",
            "FRONTEND__POLICY": "fixed", "FRONTEND__DEGREE": "4", "FRONTEND__OPERATOR_KEY": KEY,
        }  # fmt: skip
        environment = os.environ | {f"FIRSTTOKEN_{name}": value for name, value in chosen.items()}
        platform = subprocess.Popen([sys.executable, "-m", "firsttoken", "up"], env=environment, cwd=HERE.parent.parent)
        try:
            url, prefect = (f"http://127.0.0.1:{ports[name]}" for name in ("FRONTEND__PORT", "PREFECT__PORT"))
            _wait(lambda: (Path(home) / "run" / "flows.ready").exists() and _ready(url))
            _photograph(prefect, _consolidated(Operator(url), model.name))
        finally:
            platform.terminate()
            platform.wait(60)


def _consolidated(operator: Operator, model: str) -> str:
    """The name of the move that made a pipeline whole under a stream."""
    asking = threading.Thread(target=_ask, args=(operator.url, model))
    asking.start()
    _wait(lambda: bool(operator.replicas(model)))
    moves = operator.moves() or [operator.order("consolidate", model=model)]
    move = str(operator.await_done(moves[0]["move"])["move"])
    asking.join()
    return move


def _photograph(prefect: str, move: str) -> None:
    tags = {"flow_runs": {"tags": {"all_": [f"move {move}"]}}}
    _wait(lambda: [run["state_type"] for run in _filter(prefect, "flow_runs", tags)] == ["COMPLETED"])
    (run,) = _filter(prefect, "flow_runs", tags)
    (artifact,) = _filter(prefect, "artifacts", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        for name, path in PICTURES.items():
            page.goto(prefect + path.format(run=run["id"], artifact=artifact["id"]), wait_until="networkidle")
            page.wait_for_timeout(3000)
            page.screenshot(path=HERE / name)
        browser.close()


def _ask(url: str, model: str) -> None:
    body = {"model": model, "prompt": "Once upon a time", "max_tokens": 400, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=WITHIN_S) as answer:
        for _ in answer.iter_lines():
            pass


def _ready(url: str) -> bool:
    nodes = httpx.get(f"{url}/admin/status", timeout=10).json()["nodes"]
    return len(nodes) == 4 and all(node["stage_processes"]["idle"] for node in nodes)


def _filter(prefect: str, what: str, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    found = httpx.post(f"{prefect}/api/{what}/filter", json=wanted, timeout=30).raise_for_status()
    return list(json.loads(found.text))


def _wait(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + WITHIN_S
    while True:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > until_s:
            raise TimeoutError("the platform did not get there")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
