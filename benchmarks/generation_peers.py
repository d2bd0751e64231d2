"""What others generate with: transformers one by one, in a padded batch, and by its continuous batching.

    python -m benchmarks.generation_peers   <- a Peer as JSON on stdin, then a list of requests a line

It says {} when the model is loaded and the peer set up, then for every list when each token came. Nothing of ours runs
in the process. The weights are copied to memory of torch's own, aligned as a computed tensor is.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.generation_work import Outcome, Request, check

KV_BLOCKS, BLOCK_TOKENS, BATCH_TOKENS = 64, 256, 512
"""Of continuous batching. By default its cache takes most of the machine's memory and seconds to make, and is slower."""
_ROOT = Path(__file__).resolve().parent.parent
_DEADLINE_S = 300.0

Generate = Callable[[Sequence[Request]], list[Outcome]]


@dataclass(frozen=True)
class Peer:
    """`kind` is the name of a function below; `folder` holds the model."""

    kind: str
    folder: str
    dtype: str
    threads: int


def one_by_one(model: Any, stack: ExitStack) -> Generate:
    """`generate`, one request after the other; when they arrive does not matter."""

    def generate(requests: Sequence[Request]) -> list[Outcome]:
        started_s = time.perf_counter()
        return [_generate(model, [request], started_s)[0] for request in requests]

    return generate


def padded(model: Any, stack: ExitStack) -> Generate:
    """`generate` for all at once. Its best case: prompts of one length that end together, so nothing is padded."""
    return lambda requests: _generate(model, requests, time.perf_counter())


def continuous(model: Any, stack: ExitStack) -> Generate:
    """What `generate_batch` runs, set up before; requests are added when they arrive.

    Attention is sdpa: the fastest that it has on a CPU ("paged|eager" is slower, flash attention wants a GPU).
    """
    from transformers import ContinuousBatchingConfig, GenerationConfig

    manager = stack.enter_context(
        model.continuous_batching_context_manager(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1),  # -1: none
            continuous_batching_config=ContinuousBatchingConfig(
                num_blocks=KV_BLOCKS, page_size=BLOCK_TOKENS, max_batch_tokens=BATCH_TOKENS, auto_switch_to_flash=False
            ),
            timeout=_DEADLINE_S,
        )
    )

    def generate(requests: Sequence[Request]) -> list[Outcome]:
        started_s, names = time.perf_counter(), []
        for request in requests:
            time.sleep(max(0.0, started_s + request.arrival_s - time.perf_counter()))
            names.append(
                manager.add_request(list(request.prompt), max_new_tokens=request.new_tokens, record_timestamps=True)
            )
        found: dict[str, Any] = {}
        while len(found) < len(requests):
            result = manager.get_result(timeout=_DEADLINE_S)
            if result is None or result.error:
                raise RuntimeError(f"continuous batching failed: {result and result.error}")
            if result.is_finished():
                found[result.request_id] = result
        return [
            Outcome(tuple(o.generated_tokens), tuple(time_s - started_s for time_s in o.timestamps))
            for o in (found[name] for name in names)
        ]

    return generate


KINDS = {kind.__name__: kind for kind in (one_by_one, padded, continuous)}


def _generate(model: Any, requests: Sequence[Request], started_s: float) -> list[Outcome]:
    import torch
    from transformers import GenerationConfig

    new_tokens, prompt_tokens = requests[0].new_tokens, len(requests[0].prompt)
    times_s: list[float] = []

    def clock(_tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        times_s.append(time.perf_counter() - started_s)
        return scores

    prompts = torch.tensor([request.prompt for request in requests])
    out = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        generation_config=GenerationConfig(
            max_new_tokens=new_tokens, do_sample=False, eos_token_id=None, pad_token_id=0
        ),
        logits_processor=[clock],
    )
    times_s[-1] = time.perf_counter() - started_s
    return [Outcome(tuple(tokens), tuple(times_s)) for tokens in out[:, prompt_tokens:].tolist()]


@contextlib.contextmanager
def run_peer(peer: Peer) -> Iterator[Generate]:
    """A peer in a fresh process of its own, set up, until the block ends. RuntimeError if it ends early."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.generation_peers"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=_ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    log: list[str] = []
    listener = threading.Thread(target=log.extend, args=(process.stderr,), daemon=True)
    listener.start()

    def ask(value: Any) -> Any:
        alarm = threading.Timer(_DEADLINE_S, process.kill)
        alarm.start()
        try:
            process.stdin.write(json.dumps(value) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            line = process.stdout.readline()  # type: ignore[union-attr]
        finally:
            alarm.cancel()
        if not line:
            raise RuntimeError(f"{peer.kind} ended early: {''.join(log[-20:])}")
        return json.loads(line)

    def generate(requests: Sequence[Request]) -> list[Outcome]:
        found = ask([asdict(request) for request in requests])
        outcomes = [Outcome(tuple(outcome["tokens"]), tuple(outcome["times_s"])) for outcome in found]
        check(requests, outcomes)
        return outcomes

    try:
        ask(asdict(peer))
        yield generate
    finally:
        process.kill()
        process.wait()
        listener.join()
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print do not disturb the answers

    def answer(value: Any) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    peer = Peer(**json.loads(sys.stdin.readline()))
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(peer.threads)
    model = AutoModelForCausalLM.from_pretrained(
        peer.folder, dtype=getattr(torch, peer.dtype), attn_implementation="sdpa"
    ).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    with ExitStack() as stack:
        generate = KINDS[peer.kind](model, stack)
        answer({})
        for line in sys.stdin:
            requests = [Request(**{**fields, "prompt": tuple(fields["prompt"])}) for fields in json.loads(line)]
            answer([asdict(outcome) for outcome in generate(requests)])


if __name__ == "__main__":
    main()
