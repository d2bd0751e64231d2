"""Bring up a lab and keep it until Ctrl-C: a cluster to rehearse on, each node behind a card of a set rate.

python -m infra.lab [--nodes 4] [--rate 200mbit] [--store-rate RATE] [--disk-rate RATE] [--degree N...]
                    [--publish SOURCE] [--seconds N]

While it is up it obeys what is typed, or comes through a pipe: `help` lists it.
"""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from firsttoken.demo.model import find_gguf
from firsttoken.errors import DemoModelMissing
from infra.lab.console import converse
from infra.lab.network import LabError
from infra.lab.platform import Lab, parse_rate, run_lab
from storage_tiers.errors import StorageError
from storage_tiers.model_store import ModelStore
from storage_tiers.object_store import ObjectStore
from storage_tiers.publishing.publish import publish

MOST_NODES, MOST_S = 64, 86_400.0


def main() -> int:
    options = parser().parse_args()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _stop)
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)  # in the background it goes on, and is not stopped by what is typed
    try:
        with (
            tempfile.TemporaryDirectory(prefix="firsttoken-lab-") as folder,
            run_lab(
                Path(folder),
                options.nodes,
                options.degree,
                options.rate,
                options.store_rate,
                disk_bytes_per_s=options.disk_rate,
            ) as lab,
        ):
            for source in options.publish or [str(find_gguf())]:
                _publish(lab, source)
            _introduce(lab, options)
            until_s = None if options.seconds is None else time.monotonic() + options.seconds
            converse(lab, None if sys.stdin is None else sys.stdin.fileno(), until_s, _say)
    except (LabError, StorageError, DemoModelMissing) as error:
        print(f"firsttoken: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    made = argparse.ArgumentParser(prog="python -m infra.lab", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--nodes", type=positive, default=4, help="nodes, each in a network namespace of its own")
    made.add_argument("--rate", type=parse_rate, default="200mbit", help="a node's card, each way (200mbit, 25MB)")
    made.add_argument("--store-rate", type=parse_rate, help="the object store's card; unlimited without it")
    made.add_argument("--disk-rate", type=parse_rate, help="what a node reads from its disk; unlimited without it")
    made.add_argument(
        "--degree", type=positive, nargs="+", default=[4],
        help="a cold model is spread over up to that many nodes; one front end for each that is given",
    )  # fmt: skip
    made.add_argument(
        "--publish", action="append", default=None, metavar="SOURCE",
        help="a model to publish (folder, GGUF, hub id); may be given again; without it the demo's model",
    )  # fmt: skip
    made.add_argument("--seconds", type=seconds, help="end by itself so long after it has come up")
    return made


def positive(text: str) -> int:
    if not 1 <= int(text) <= MOST_NODES:
        raise argparse.ArgumentTypeError(f"{text} is not within 1 and {MOST_NODES}")
    return int(text)


def seconds(text: str) -> float:
    if not 0 < float(text) <= MOST_S:
        raise argparse.ArgumentTypeError(f"{text} is not within 0 and {MOST_S} s")
    return float(text)


def _stop(_signum: int, _frame: object) -> None:
    """End in an orderly way, once: a second Ctrl-C does not leave half a lab behind."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    _say("stopping ...")
    sys.exit(0)


def _say(text: str) -> None:
    if text:
        print(text, flush=True)


def _publish(lab: Lab, source: str) -> None:
    """Past the network: straight into the bucket's folder."""
    name = Path(source).stem.lower()
    _say(f"publishing {source} as {name} ...")
    publish(source, name, ModelStore(ObjectStore(f"file://{lab.folder}/buckets/models")))


def _introduce(lab: Lab, options: argparse.Namespace) -> None:
    _say(f"{len(lab.nodes)} nodes behind {options.rate * 8 / 1e6:g} Mbit/s each; logs in {lab.folder}")
    for degree, url in lab.urls.items():
        _say(f"  API, degree {degree}  {url}/v1   (curl {url}/v1/models)")
    _say(f"  store          {lab.store_url} at {lab.store_options['endpoint_url']}")
    _say(f"  a shell on a node:  ip netns exec {lab.network.name}-node-0 bash")
    _say("Ctrl-C ends it and removes every namespace; help lists what can be typed here.")


if __name__ == "__main__":
    sys.exit(main())
