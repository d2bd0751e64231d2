"""What one would do without us: download the model with s3fs, load it with transformers, generate."""

import json
import subprocess
import sys
import tempfile

from benchmarks.cold_start import QUESTION
from benchmarks.pipeline_models import Subject
from infra.lab.platform import BUCKET, Lab

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


def today(lab: Lab, subject: Subject) -> tuple[float, float]:
    """Seconds to the first token, and of them for the download, in a fresh process on the first node."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [f"{BUCKET}/{subject.source}", folder, QUESTION, json.dumps(dict(lab.store_options))]
        command = lab.network.command(lab.nodes[0], [sys.executable, "-c", _TODAY, *arguments])
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    whole_s, download_s = json.loads(done.stdout.strip().splitlines()[-1])
    return whole_s, download_s
