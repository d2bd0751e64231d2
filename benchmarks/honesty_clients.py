"""Clients that send a trace when its time comes, and what each of them saw."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from benchmarks.honesty_models import VOCABULARY
from benchmarks.moves_operator import NO_AUTHORITIES
from schedules.traces.trace import Trace

PATIENCE_S = 120.0
LEAD_S = 1.0
"""Before the first of them: each has a connection by then."""


@dataclass
class Seen:
    """One request, as its client saw it: seconds from the trace's begin to when it was sent, and from there to its first and
    its last token; None if that never came. `fault` is what it was told instead."""

    at_s: float = 0.0
    ttft_s: float | None = None
    last_s: float | None = None
    tokens: int = 0
    fault: str = ""


async def alone(url: str, asked: Sequence[tuple[str, int, int]], seed: int) -> tuple[float, list[Seen]]:
    """Requests one after the other, each of a model's name, a prompt and an answer in tokens; the unix seconds that their
    times count from, and what became of each."""
    rng = np.random.default_rng(seed)
    async with httpx.AsyncClient(timeout=PATIENCE_S, verify=NO_AUTHORITIES) as client:
        await client.get(f"{url}/healthz")
        begin_s, begin_unix_s = asyncio.get_running_loop().time(), time.time()
        seen = [Seen() for _ in asked]
        for each, (model, prompt, answer) in zip(seen, asked, strict=True):
            await _ask(client, url, _body(model, _prompt(prompt, rng), answer), each, begin_s)
    return begin_unix_s, seen


async def send(url: str, trace: Trace, seed: int) -> tuple[float, list[Seen]]:
    """All requests of the trace; the unix seconds of its begin, and what became of each."""
    rng = np.random.default_rng(seed)
    prompts = [_prompt(tokens, rng) for tokens in trace.prompt_tokens.tolist()]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=600.0)
    async with httpx.AsyncClient(timeout=PATIENCE_S, verify=NO_AUTHORITIES, limits=limits) as client:
        await asyncio.gather(*[client.get(f"{url}/healthz") for _ in range(16)])
        loop = asyncio.get_running_loop()
        begin_s, begin_unix_s = loop.time() + LEAD_S, time.time() + LEAD_S
        seen = [Seen() for _ in range(len(trace))]

        async def one(place: int) -> None:
            await asyncio.sleep(begin_s + float(trace.at_s[place]) - loop.time())
            body = _body(trace.models[trace.model[place]], prompts[place], int(trace.answer_tokens[place]))
            await _ask(client, url, body, seen[place], begin_s)

        await asyncio.gather(*[one(place) for place in range(len(trace))])
    return begin_unix_s, seen


def _prompt(tokens: int, rng: np.random.Generator) -> list[int]:
    found: list[int] = rng.integers(3, VOCABULARY, size=tokens).tolist()
    return found


def _body(model: str, prompt: list[int], answer_tokens: int) -> dict[str, Any]:
    return {
        "model": model, "prompt": prompt, "ignore_eos": True, "max_tokens": answer_tokens, "temperature": 0,
        "stream": True, "return_token_ids": True,
    }  # fmt: skip


async def _ask(client: httpx.AsyncClient, url: str, body: dict[str, Any], seen: Seen, begin_s: float) -> None:
    now = asyncio.get_running_loop().time
    sent_s = now()
    seen.at_s = sent_s - begin_s
    try:
        async with client.stream("POST", f"{url}/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                seen.fault = str(json.loads(await answer.aread())["error"]["message"])
                return
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                said = json.loads(line[6:])
                if "error" in said:
                    seen.fault = str(said["error"]["message"])
                    continue
                tokens = sum(len(choice["token_ids"]) for choice in said["choices"])
                if tokens:
                    seen.last_s = now() - sent_s
                    seen.ttft_s = seen.last_s if seen.ttft_s is None else seen.ttft_s
                    seen.tokens += tokens
    except httpx.HTTPError as error:
        seen.fault = repr(error)
    if not seen.fault and seen.tokens < body["max_tokens"]:
        seen.fault = f"{seen.tokens} of {body['max_tokens']} tokens came"
