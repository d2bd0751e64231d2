"""The chaos on a platform of its own: three nodes, a tiny model, and what is left when all is over."""

import os
import uuid
from pathlib import Path

from benchmarks.moves_chaos import Account, Chaos, leaks
from benchmarks.moves_models import publish_tiny
from benchmarks.moves_operator import SETTINGS
from benchmarks.running import run_platform

NODES, EVERY_S, CLIENTS, TOKENS = 3, 1.0, 4, 400
_MARK = "MOVES_CHAOS"
_SEEDED = {
    "temperature": 0.9, "top_p": 0.95, "seed": 11, "presence_penalty": 0.3, "frequency_penalty": 0.2, "logprobs": 2,
}  # fmt: skip
_FRONTEND = {"degree": 2, "max_replicas": 2, "request_timeout_s": 120, "start_timeout_s": 60, **SETTINGS}


def bodies(model: str, tokens: int = TOKENS) -> list[dict[str, object]]:
    """Greedy and seeded requests."""
    common = {"model": model, "max_tokens": tokens, "ignore_eos": True}
    return [
        {**common, "prompt": [5, 6, 7], "temperature": 0},
        {**common, "prompt": [9, 8, 7, 6], **_SEEDED},
        {**common, "prompt": list(range(3, 40)), "temperature": 0},
        {**common, "prompt": [11, 12], **_SEEDED, "seed": 12},
    ]


def survived(folder: Path, kills: int, seed: int) -> tuple[Account, list[str]]:
    """What became of the streams, and what is left behind, in words."""
    store = folder / "store"
    store.mkdir()
    model = publish_tiny(f"file://{store}").name
    mark = uuid.uuid4().hex
    os.environ[_MARK] = mark
    try:
        with run_platform(
            folder, f"file://{store}", NODES, (), frontends={"chaos": {"frontend": _FRONTEND}}
        ) as platform:
            url = platform.named["chaos"]
            account = Chaos(platform, url, bodies(model)).run(kills, EVERY_S, seed, CLIENTS)
            left = leaks(platform, url)
    finally:
        del os.environ[_MARK]
    return account, left + _outlived(mark)


def _outlived(mark: str) -> list[str]:
    """Processes of the platform that are still there."""
    wanted, found = f"{_MARK}={mark}".encode(), []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if wanted in (process / "environ").read_bytes().split(b"\0"):
                    found.append(f"process {process.name} outlives it: {(process / 'cmdline').read_bytes()!r}")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return found
