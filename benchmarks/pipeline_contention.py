"""Cold starts that compete for a wire: the store's narrow card, a peer beside it, two models at once."""

import asyncio
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from benchmarks.cold_start import ttft
from benchmarks.pipeline_lab import SETTLE_S, calibrated, cold, empty, fetched_bytes, link_rate, rest
from benchmarks.pipeline_models import Subject, subjects
from benchmarks.report import Result
from cluster.client import ClusterClient
from infra.lab.platform import Lab, run_lab

NODES, DEGREE = 4, 4


def egress(repeats: int, bytes_per_s: float) -> list[Result]:
    """The store's card lets no more through than one node's: more nodes cannot be faster, but should not be slower.

    A front end that decides by itself is asked what it would do, and then for the model.
    """
    with (
        tempfile.TemporaryDirectory(prefix="firsttoken-lab-") as folder,
        run_lab(Path(folder), NODES, [1, DEGREE], bytes_per_s, bytes_per_s, planner=True) as lab,
    ):
        (subject,) = subjects(lab, ["smollm2"])
        limit_s = subject.size_bytes / link_rate(lab)
        calibrated(lab)
        found = [
            Result(
                f"egress_ttft_degree{degree}_s", statistics.median(cold(lab, subject, degree) for _ in range(repeats)),
                "s", "lower", limit_s, "bytes / the store's rate",
            )
            for degree in (1, DEGREE)
        ]  # fmt: skip
        return [*found, *_planned(lab, subject, limit_s)]


def _planned(lab: Lab, subject: Subject, limit_s: float) -> list[Result]:
    rest(lab, lab.planner)
    empty(lab, [subject.checkpoint])
    answer = httpx.get(f"{lab.planner}/admin/explain/{subject.name}", timeout=60).raise_for_status().json()
    for one in answer["now"]["candidates"]:
        told = "chosen" if one["chosen"] else one["ruled_out"]
        print(f"degree {one['degree']}: {told}", file=sys.stderr)
    ttft_s = ttft(lab.planner, subject.name)
    query = {"model": subject.name}
    starts = httpx.get(f"{lab.planner}/admin/cold-starts", params=query, timeout=60).raise_for_status().json()
    return [
        Result("egress_planned_degree", starts["cold_starts"][0]["degree"], "stages", "lower", 1, "goal"),
        Result("egress_planned_ttft_s", ttft_s, "s", "lower", limit_s, "bytes / the store's rate"),
    ]


def peers(repeats: int, bytes_per_s: float) -> list[Result]:
    """The same, and a node that has no room for a stage holds all units in dram: it is a second source."""
    holder = f"node-{NODES}"
    with (
        tempfile.TemporaryDirectory(prefix="firsttoken-lab-") as folder,
        run_lab(
            Path(folder), NODES + 1, [DEGREE], bytes_per_s, bytes_per_s, settings_of={holder: {"device_bytes": 1}}
        ) as lab,
    ):
        (subject,) = subjects(lab, ["smollm2"])
        limit_s = subject.size_bytes / (2 * link_rate(lab))
        calibrated(lab)
        _hold(lab, subject, holder)
        found = [cold(lab, subject, DEGREE, but=[holder]) for _ in range(repeats)]
        fetched = fetched_bytes(lab, subject, DEGREE)
    share = fetched.get(f"peer {holder}", 0) / sum(fetched.values())
    return [
        Result("peers_ttft_degree4_s", statistics.median(found), "s", "lower", limit_s, "bytes / both rates"),
        Result("peers_share_from_peer", share, "fraction", "higher", 0.5, "both rates used up"),
    ]


def _hold(lab: Lab, subject: Subject, node: str) -> None:
    """Bring all units into the node's dram, and wait until the front end has heard of it."""
    asyncio.run(_stage(lab, subject, node))
    until_s = time.monotonic() + SETTLE_S
    while True:
        known = httpx.get(f"{lab.urls[DEGREE]}/admin/status", timeout=10).raise_for_status().json()["nodes"]
        if any(one["name"] == node and one["dram_used_bytes"] >= subject.size_bytes for one in known):
            return
        if time.monotonic() > until_s:
            raise TimeoutError(f"the front end does not hear that {node} holds {subject.name}")
        time.sleep(0.1)


async def _stage(lab: Lab, subject: Subject, node: str) -> None:
    async with ClusterClient(lab.scheduler_address) as client:
        await client.nodes(len(lab.nodes))
        await client.bring(node, subject.checkpoint, [u.name for u in subject.checkpoint.units], "dram", SETTLE_S)


def two(repeats: int, bytes_per_s: float) -> list[Result]:
    """Two models of one size, asked at the same moment: when the first has its token, and when the second."""
    with (
        tempfile.TemporaryDirectory(prefix="firsttoken-lab-") as folder,
        run_lab(Path(folder), NODES, [DEGREE], bytes_per_s) as lab,
        ThreadPoolExecutor(2) as askers,
    ):
        both = subjects(lab, ["smollm2", "twin"])
        limit_s = both[0].size_bytes / (DEGREE * link_rate(lab))
        found: list[list[float]] = []
        for _ in range(repeats):
            rest(lab, lab.urls[DEGREE])
            empty(lab, [subject.checkpoint for subject in both])
            found.append(sorted(askers.map(lambda subject: ttft(lab.urls[DEGREE], subject.name), both)))
    first_s, second_s = (statistics.median(times) for times in zip(*found, strict=True))
    against = "bytes / (degree x rate)"
    return [
        Result("two_models_ttft_first_s", first_s, "s", "lower", limit_s, f"its {against}"),
        Result("two_models_ttft_second_s", second_s, "s", "lower", 2 * limit_s, f"both models' {against}"),
    ]
