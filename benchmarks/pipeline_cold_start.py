"""Cold starts over a real network: time to first token by degree, against what one would do without us.

    python benchmarks/pipeline_cold_start.py [--json] [--repeats N] [--rate 200mbit] [--only SCENARIO...]

Runs in the lab (infra/lab, as root): nodes in network namespaces of their own, each behind a card of the given rate,
and an S3 server. Every cold start begins with empty tiers, asked over HTTP by a streaming client on the machine itself.
The scenarios, each with a lab of its own:

- smollm2, llama: one model at degrees 1, 2 and 4; the store's card is not limited. Held against today (in a fresh
  process on one of the nodes, download the model's safetensors with s3fs, then transformers' from_pretrained, then
  generate the first token), our own degree 1, and the limit: the model's bytes over (degree x the card's measured rate).
- egress: the store's card is as narrow as a node's.
- peers: the same, and a fifth node, which is not in the group, holds all units in dram.
- two: two models at the same moment.
"""

import signal
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.pipeline_contention import NODES, egress, peers, two
from benchmarks.pipeline_lab import cold, link_rate
from benchmarks.pipeline_models import Subject, subjects
from benchmarks.pipeline_today import today
from benchmarks.report import Result, parser, report
from infra.lab.network import LabError
from infra.lab.platform import Lab, parse_rate, run_lab

DEGREES = (1, 2, 4)


def measure(name: str, repeats: int, bytes_per_s: float) -> list[Result]:
    """All figures of one model; medians."""
    prefix = "" if name == "smollm2" else f"{name}_"
    with (
        tempfile.TemporaryDirectory(prefix="firsttoken-lab-") as folder,
        run_lab(Path(folder), NODES, DEGREES, bytes_per_s) as lab,
    ):
        (subject,) = subjects(lab, [name])
        rate = link_rate(lab)
        link = Result(f"{prefix}link_bytes_per_s", rate, "B/s", "higher", bytes_per_s, "as set")
        return [link, *_figures(lab, subject, repeats, rate, prefix)]


def _figures(lab: Lab, subject: Subject, repeats: int, rate: float, prefix: str) -> list[Result]:
    found = {degree: statistics.median(cold(lab, subject, degree) for _ in range(repeats)) for degree in DEGREES}
    limits = {degree: subject.size_bytes / (degree * rate) for degree in DEGREES}
    whole = [today(lab, subject) for _ in range(max(1, repeats - 1))]
    today_s = statistics.median(seconds for seconds, _ in whole)
    download_s = statistics.median(seconds for _, seconds in whole)
    results = [
        Result(f"{prefix}ttft_degree{degree}_s", seconds, "s", "lower", limits[degree], "bytes / (degree x rate)")
        for degree, seconds in found.items()
    ]
    results += [
        Result(f"{prefix}ttft_degree{d}_over_limit", found[d] / limits[d], "x", "lower", 1.15 + 0.5 / limits[d], "goal")
        for d in DEGREES
    ]
    results += [
        Result(f"{prefix}ttft_today_s", today_s, "s", "lower", limits[1], "bytes / rate"),
        Result(f"{prefix}today_download_s", download_s, "s", "lower", limits[1], "bytes / rate"),
        Result(f"{prefix}speedup_degree2_over_degree1", found[1] / found[2], "x", "higher", 2.0, "degree"),
        Result(f"{prefix}speedup_degree4_over_degree1", found[1] / found[4], "x", "higher", 4.0, "degree"),
        Result(f"{prefix}speedup_degree4_over_today", today_s / found[4], "x", "higher"),
    ]
    return results


SCENARIOS = {
    "smollm2": partial(measure, "smollm2"),
    "llama": partial(measure, "llama"),
    "egress": egress,
    "peers": peers,
    "two": two,
}


def main() -> None:
    args = parser(__doc__.splitlines()[0])
    args.add_argument("--repeats", type=int, default=3, help="cold starts per figure; the median counts")
    args.add_argument("--rate", type=parse_rate, default="200mbit", help="each node's card, each way")
    args.add_argument(
        "--only", nargs="+", choices=tuple(SCENARIOS), default=list(SCENARIOS), help="these scenarios alone"
    )
    options = args.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the lab ends with us
    results: list[Result] = []
    try:
        for name in options.only:
            results += SCENARIOS[name](options.repeats, options.rate)
    except LabError as error:
        sys.exit(f"pipeline_cold_start: {error}")
    report("pipeline_cold_start", results, options.json)


if __name__ == "__main__":
    main()
