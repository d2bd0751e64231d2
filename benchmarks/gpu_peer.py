"""transformers on the same device, as one uses it without us: `from_pretrained`, then `generate`.

    python -m benchmarks.gpu_peer DEVICE  <- questions, one a line, as JSON; an answer a line

A fresh process, in which nothing of ours runs. What it imports it imports when the first model is asked for.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
_DEADLINE_S = 200.0
_FIRST_TOKEN = 5
"""Prompts of rates are of tokens that every model has, from this one on."""


class Peer:
    """The process, from its first question to the end of the block. RuntimeError if it ends early."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None:
            with self._process:  # closes its pipes, and waits
                self._process.kill()

    def load(self, folder: Path, prompt: Sequence[int]) -> dict[str, float]:
        """Load the folder's model, and give its first token: seconds of each step, imports too if it is the first."""
        steps: dict[str, float] = self._ask("load", folder, prompt=list(prompt))
        return steps

    def greedy(self, folder: Path, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        """What the folder's model says after each prompt alone."""
        found: list[list[int]] = self._ask("greedy", folder, prompts=[list(p) for p in prompts], new_tokens=new_tokens)
        return found

    def worst_gap(self, folder: Path, prompt: Sequence[int], answer: Sequence[int]) -> float:
        """By how much, at most, a token of the answer is below the likeliest there (logits)."""
        return float(self._ask("worst_gap", folder, prompt=list(prompt), answer=list(answer)))

    def rates(self, folder: Path, requests: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
        """Tokens a second of a batch whose lengths it meets for the first time, and of one where they are known."""
        told = {"requests": requests, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens}
        first, again = self._ask("rates", folder, **told)
        return first, again

    def _ask(self, what: str, folder: Path, **told: object) -> Any:
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        alarm = threading.Timer(_DEADLINE_S, process.kill)
        alarm.start()
        try:
            process.stdin.write(json.dumps({"what": what, "folder": str(folder), **told}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        finally:
            alarm.cancel()
        if not line:
            raise RuntimeError(f"transformers ended at {what}, see above")
        return json.loads(line)

    def _start(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu_peer", self._device],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip


class _Models:
    """What the questions are about, in the process: models by their folders, which stay when they are loaded."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._loaded: dict[str, Any] = {}

    def load(self, folder: str, prompt: Sequence[int]) -> dict[str, float]:
        steps: dict[str, float] = {}
        since_s = time.perf_counter()

        def done(step: str) -> None:
            nonlocal since_s
            steps[step], since_s = time.perf_counter() - since_s, time.perf_counter()

        import torch
        import transformers

        getattr(
            transformers, transformers.AutoConfig.from_pretrained(folder).architectures[0]
        )  # comes when it is named
        done("imports_s")
        torch.zeros(1, device=self._device).tolist()
        done("context_s")
        model = self._model(folder)
        self._finish()
        done("load_s")
        with torch.inference_mode():
            logits = model(torch.tensor([list(prompt)], device=self._device), logits_to_keep=1).logits
            logits[0, -1].argmax().tolist()
        done("first_token_s")
        return steps

    def greedy(self, folder: str, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        return [self._generate(folder, [prompt], new_tokens)[0] for prompt in prompts]

    def worst_gap(self, folder: str, prompt: Sequence[int], answer: Sequence[int]) -> float:
        import torch

        with torch.inference_mode():
            ids = torch.tensor([[*prompt, *answer]], device=self._device)
            logits = self._model(folder)(ids).logits[0, len(prompt) - 1 : -1].float()
            chosen = logits.gather(1, ids[0, len(prompt) :, None])[:, 0]
            return float((logits.max(-1).values - chosen).max())

    def rates(self, folder: str, requests: int, prompt_tokens: int, new_tokens: int) -> list[float]:
        prompts = [
            [_FIRST_TOKEN + (i * prompt_tokens + j) % 900 for j in range(prompt_tokens)] for i in range(requests)
        ]
        self._generate(folder, prompts, 4)
        found = []
        for _ in range(2):
            started_s = time.perf_counter()
            self._generate(folder, prompts, new_tokens)
            found.append(requests * new_tokens / (time.perf_counter() - started_s))
        return found

    def _model(self, folder: str) -> Any:
        if folder not in self._loaded:
            from transformers import AutoModelForCausalLM

            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype="auto", device_map=self._device, attn_implementation="sdpa"
            ).eval()
            model.generation_config.eos_token_id = None
            self._loaded[folder] = model
        return self._loaded[folder]

    def _generate(self, folder: str, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        """The new tokens, on the host. RuntimeError if there are not as many as are wanted."""
        import torch

        ids = torch.tensor([list(prompt) for prompt in prompts], device=self._device)
        mask = torch.ones_like(ids)
        options = {"max_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
        out = self._model(folder).generate(ids, attention_mask=mask, **options)[:, ids.shape[1] :]
        if out.shape[1] != new_tokens:
            raise RuntimeError(f"{new_tokens} tokens were wanted, {out.shape[1]} came")
        found: list[list[int]] = out.tolist()
        return found

    def _finish(self) -> None:
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.synchronize()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print do not disturb the answers
    models = _Models(sys.argv[1])
    for line in sys.stdin:
        told = json.loads(line)
        ask: Callable[..., object] = getattr(models, told.pop("what"))
        answers.write(json.dumps(ask(**told)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
