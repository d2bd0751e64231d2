"""Cold starts over a real network: time to first token by degree, against what one would do without us.

    python benchmarks/pipeline_cold_start.py [--json] [--repeats N] [--rate 200mbit] [--only smollm2|llama]

Runs in the lab (infra/lab, as root): four nodes in network namespaces of their own, each behind a card of the given
rate, an S3 server whose card is not limited. Every cold start begins with empty tiers, asked over HTTP by a streaming
client on the machine itself. Held against, in the same run:

- today: in a fresh process on one of the nodes, download the model's safetensors with s3fs, then transformers'
  from_pretrained, then generate the first token;
- our own degree 1;
- the limit: the model's bytes over (degree x the card's measured rate).
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.cold_start import QUESTION, ttft
from benchmarks.generation_model import measured_model
from benchmarks.model import published_smollm2
from benchmarks.report import Result, parser, report
from cluster.client import ClusterClient
from infra.lab.network import LabError
from infra.lab.platform import BUCKET, STORE, Lab, parse_rate, run_lab, settled
from storage_tiers.checkpoint import Checkpoint
from storage_tiers.publish import publish
from storage_tiers.remote import ModelStore, ObjectStore

NODES, DEGREES = 4, (1, 2, 4)
SETTLE_S = 120.0
_TODAY = """
import json, sys, time
started_s = time.perf_counter()
bucket, folder, question, options = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
import s3fs
s3fs.S3FileSystem(**options).get(bucket + "/", folder + "/", recursive=True)
got_s = time.perf_counter()
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(2)
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
chat = [{"role": "user", "content": question}]
text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
with torch.inference_mode():
    model.generate(**ids, max_new_tokens=1, do_sample=False)
print(json.dumps([time.perf_counter() - started_s, got_s - started_s]))
"""
_RATE = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as s:
    started_s, got = time.perf_counter(), 0
    while data := s.recv(1 << 20):
        got += len(data)
    print(got / (time.perf_counter() - started_s))
"""
_SEND = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as listener:
    peer, _ = listener.accept()
    with peer:
        for _ in range(40):
            peer.sendall(bytes(1 << 20))
"""


@dataclass(frozen=True)
class Subject:
    """A model to start: as published, and as a folder that transformers loads, in the bucket under `source`."""

    name: str
    checkpoint: Checkpoint
    source: str

    @property
    def size_bytes(self) -> int:
        return sum(unit.size_bytes for unit in self.checkpoint.units)


def link_rate(lab: Lab) -> float:
    """Payload bytes per second that a plain socket brings through a node's card."""
    host, port = lab.network.addresses[STORE], "9999"
    sender = lab.network.start(STORE, [sys.executable, "-c", _SEND, host, port])
    time.sleep(1.0)
    command = lab.network.command(lab.nodes[0], [sys.executable, "-c", _RATE, host, port])
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    sender.wait(10)
    return float(found)


def today(lab: Lab, subject: Subject) -> tuple[float, float]:
    """Seconds to the first token, and of them for the download, without us."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [f"{BUCKET}/{subject.source}", folder, QUESTION, json.dumps(dict(lab.store_options))]
        command = lab.network.command(lab.nodes[0], [sys.executable, "-c", _TODAY, *arguments])
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    whole_s, download_s = json.loads(done.stdout.strip().splitlines()[-1])
    return whole_s, download_s


async def _empty(lab: Lab, checkpoint: Checkpoint) -> None:
    async with ClusterClient(lab.scheduler_address) as client:
        for node in (await client.nodes(NODES)).nodes:
            await client.evict(node.name, checkpoint)


def cold(lab: Lab, subject: Subject, degree: int) -> float:
    """TTFT in seconds of one cold start from empty tiers."""
    url, until_s = lab.urls[degree], time.monotonic() + SETTLE_S
    while not settled(lab, url):
        if time.monotonic() > until_s:
            raise TimeoutError("the lab did not come to rest")
        time.sleep(0.1)
    asyncio.run(_empty(lab, subject.checkpoint))
    return ttft(url, subject.name)


def measure(lab: Lab, subject: Subject, repeats: int, rate: float, prefix: str) -> list[Result]:
    """All figures of one model; medians."""
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


def subjects(lab: Lab, wanted: Sequence[str]) -> dict[str, Subject]:
    """The models, put straight into the bucket's folder."""
    bucket = lab.folder / "buckets" / BUCKET
    store = ModelStore(ObjectStore(f"file://{bucket}"))
    made: dict[str, Subject] = {}
    for name in wanted:
        source = bucket / f"sources-{name}"
        _save_smollm2(source) if name == "smollm2" else _save_llama(source)
        made[name] = Subject(name, publish(str(source), name, store), source.name)
    return made


def _save_smollm2(folder: Path) -> None:
    """The published model as transformers would have it, in bfloat16."""
    measured_model("bf16").save(folder)
    _save_tokenizer(folder)


def _save_llama(folder: Path) -> None:
    """A random llama of half a gigabyte with untied embeddings; the tokenizer is SmolLM2's."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        hidden_size=768, num_hidden_layers=24, intermediate_size=2048, num_attention_heads=12, num_key_value_heads=4,
        vocab_size=49152, tie_word_embeddings=False, max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    _save_tokenizer(folder)


def _save_tokenizer(folder: Path) -> None:
    store_url, checkpoint = published_smollm2()
    store = ModelStore(ObjectStore(store_url))
    for file in checkpoint.files:
        if file.name != "config.json":
            (folder / file.name).write_bytes(store.read_file(checkpoint.name, file))


def main() -> None:
    args = parser(__doc__.splitlines()[0])
    args.add_argument("--repeats", type=int, default=3, help="cold starts per degree; the median counts")
    args.add_argument("--rate", type=parse_rate, default="200mbit", help="each node's card, each way")
    args.add_argument("--only", choices=("smollm2", "llama"), help="one model alone")
    options = args.parse_args()
    wanted = [options.only] if options.only else ["smollm2", "llama"]
    try:
        with (
            tempfile.TemporaryDirectory(prefix="firsttoken-lab-") as folder,
            run_lab(Path(folder), NODES, DEGREES, options.rate) as lab,
        ):
            found = subjects(lab, wanted)
            rate = link_rate(lab)
            results = [Result("link_bytes_per_s", rate, "B/s", "higher", options.rate, "as set")]
            for name, subject in found.items():
                results += measure(lab, subject, options.repeats, rate, "" if name == "smollm2" else f"{name}_")
    except LabError as error:
        sys.exit(f"pipeline_cold_start: {error}")
    report("pipeline_cold_start", results, options.json)


if __name__ == "__main__":
    main()
