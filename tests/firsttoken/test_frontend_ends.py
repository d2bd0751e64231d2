"""A front end that is told to end while somebody listens to it without end."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from firsttoken.ports import free_port
from tests.firsttoken.command_line import clean_environment
from tests.serving.test_scheduler_loss import wait_until

pytestmark = pytest.mark.timeout(90)


def test_who_listens_is_let_go_of_in_order_and_the_key_is_in_the_home(tmp_path: Path) -> None:
    """Their stream kept it from ending until it was cut off."""
    port = free_port()
    environment = clean_environment() | {
        "FIRSTTOKEN_HOME": str(tmp_path),
        "FIRSTTOKEN_FRONTEND__PORT": str(port),
        "FIRSTTOKEN_CLUSTER__SCHEDULER_PORT": str(free_port()),
    }
    command = [sys.executable, "-m", "firsttoken", "frontend"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: _serves(port), "the front end")
            headers = {"Authorization": f"Bearer {(tmp_path / 'operator.key').read_text()}"}
            with (
                httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30.0, trust_env=False) as client,
                client.stream("GET", "/v1/notices", headers=headers) as answer,
            ):
                lines = answer.iter_lines()
                assert json.loads(next(lines)) == {"notice": "alive"}
                process.terminate()
                assert all(json.loads(line) == {"notice": "alive"} for line in lines)
            process.wait(30)
        finally:
            process.kill()


def _serves(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).is_success
    except httpx.HTTPError:
        return False
