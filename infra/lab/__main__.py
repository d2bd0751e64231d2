"""Bring up a lab and keep it until Ctrl-C: a cluster to rehearse on, each node behind a card of a set rate.

python -m infra.lab [--nodes 4] [--rate 200mbit] [--store-rate RATE] [--degree 4] [--publish SOURCE]
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from firsttoken.demo import find_gguf
from infra.lab.network import LabError
from infra.lab.platform import Lab, parse_rate, run_lab
from storage_tiers.errors import StorageError
from storage_tiers.publish import publish
from storage_tiers.remote import ModelStore, ObjectStore


def main() -> int:
    options = _parser().parse_args()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _stop)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="firsttoken-lab-") as folder,
            run_lab(Path(folder), options.nodes, [options.degree], options.rate, options.store_rate) as lab,
        ):
            for source in options.publish or [str(find_gguf())]:
                _publish(lab, source)
            _say(lab, options)
            signal.pause()
    except (LabError, StorageError) as error:
        print(f"firsttoken: {error}", file=sys.stderr)
        return 1
    return 0


def _stop(_signum: int, _frame: object) -> None:
    """End in an orderly way, once: a second Ctrl-C does not leave half a lab behind."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    print("stopping ...", flush=True)
    sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra.lab", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=4, help="nodes, each in a network namespace of its own")
    parser.add_argument("--rate", type=parse_rate, default="200mbit", help="a node's card, each way (200mbit, 25MB)")
    parser.add_argument("--store-rate", type=parse_rate, help="the object store's card; unlimited without it")
    parser.add_argument("--degree", type=int, default=4, help="a cold model is spread over up to that many nodes")
    parser.add_argument(
        "--publish", action="append", default=None, metavar="SOURCE",
        help="a model to publish (folder, GGUF, hub id); may be given again; without it the demo's model",
    )  # fmt: skip
    return parser


def _publish(lab: Lab, source: str) -> None:
    """Past the network: straight into the bucket's folder."""
    name = Path(source).stem.lower()
    print(f"publishing {source} as {name} ...")
    publish(source, name, ModelStore(ObjectStore(f"file://{lab.folder}/buckets/models")))


def _say(lab: Lab, options: argparse.Namespace) -> None:
    (url,) = lab.urls.values()
    print(f"{len(lab.nodes)} nodes behind {options.rate * 8 / 1e6:.0f} Mbit/s each; logs in {lab.folder}")
    print(f"  API         {url}/v1   (curl {url}/v1/models)")
    print(f"  store       {lab.store_url} at {lab.store_options['endpoint_url']}")
    print(f"  a shell on a node:  ip netns exec {lab.network.name}-node-0 bash")
    print("Ctrl-C ends it and removes every namespace.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
