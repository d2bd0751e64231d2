"""What HydraServe (NSDI'26, arXiv 2502.15524) measured: the figures its artifact has (ae_scripts/figure7.py, figure9.py,
figure11.py, figs/figure13-a.pdf and -b.pdf), and on what (ae_scripts/Installation-aliyun.md, src/ModelInfo.py)."""

from collections.abc import Mapping
from typing import NamedTuple

VLLM, SLLM, SLLM_CACHED = "Serverless vLLM", "ServerlessLLM", "ServerlessLLM, cached"
HYDRA_1, HYDRA_4 = "HydraServe, one worker", "HydraServe, four workers"
HYDRA, HYDRA_CACHE = "HydraServe", "HydraServe with cache"

FIGURE7_TTFT_S: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "V100": {
        VLLM: {"OPT-2.7B": 16.78, "OPT-6.7B": 23.63, "OPT-13B": 40.26, "Llama-2-7B": 23.16, "Llama-2-13B": 38.58,
               "Llama-3-8B": 29.21, "Falcon-7B": 25.43},
        SLLM: {"OPT-2.7B": 13.10, "OPT-6.7B": 17.11, "OPT-13B": 26.15, "Llama-2-7B": 19.09, "Llama-2-13B": 26.19,
               "Llama-3-8B": 21.16, "Falcon-7B": 19.09},
        SLLM_CACHED: {"OPT-2.7B": 11.09, "OPT-6.7B": 11.75, "OPT-13B": 14.77, "Llama-2-7B": 12.11, "Llama-2-13B": 15.14,
                      "Llama-3-8B": 13.15, "Falcon-7B": 12.10},
        HYDRA_1: {"OPT-2.7B": 7.92, "OPT-6.7B": 9.74, "OPT-13B": 17.03, "Llama-2-7B": 9.91, "Llama-2-13B": 17.39,
                  "Llama-3-8B": 11.70, "Falcon-7B": 10.23},
        HYDRA_4: {"OPT-2.7B": 7.93, "OPT-6.7B": 8.18, "OPT-13B": 8.52, "Llama-2-7B": 7.66, "Llama-2-13B": 8.71,
                  "Llama-3-8B": 8.57, "Falcon-7B": 8.30},
    },
    "A10": {
        VLLM: {"OPT-2.7B": 10.14, "OPT-6.7B": 17.02, "Llama-2-7B": 16.57, "Llama-3-8B": 19.33, "Falcon-7B": 16.21},
        SLLM: {"OPT-2.7B": 10.05, "OPT-6.7B": 14.10, "Llama-2-7B": 14.08, "Llama-3-8B": 17.07, "Falcon-7B": 14.10},
        SLLM_CACHED: {"OPT-2.7B": 7.06, "OPT-6.7B": 7.74, "Llama-2-7B": 8.08, "Llama-3-8B": 9.09, "Falcon-7B": 8.08},
        HYDRA_1: {"OPT-2.7B": 4.68, "OPT-6.7B": 8.33, "Llama-2-7B": 8.36, "Llama-3-8B": 10.25, "Falcon-7B": 8.98},
        HYDRA_4: {"OPT-2.7B": 4.75, "OPT-6.7B": 5.86, "Llama-2-7B": 5.59, "Llama-3-8B": 6.31, "Falcon-7B": 6.17},
    },
}  # fmt: skip
"""Seconds to the first token of a cold start, by GPU, system and model."""
DEGREES: Mapping[str, int] = {VLLM: 1, SLLM: 1, SLLM_CACHED: 1, HYDRA_1: 1, HYDRA_4: 4}
FIGURE7_PROMPT_TOKENS = 20
""""Write a story in 500 words", with its template."""


class Cell(NamedTuple):
    """Of figure 9: the burstiness that the trace was made with, and its rate."""

    cv: float
    rate_per_s: float


CELLS = tuple(Cell(cv, rate) for cv in (2.0, 4.0, 8.0) for rate in (0.6, 0.7, 0.8))
_FIGURE9 = {
    VLLM: (46.7, 45.7, 43.9, 49.9, 48.6, 44.7, 53.5, 53.3, 48.5),
    SLLM: (57.5, 49.8, 45.3, 61.5, 57.7, 47.7, 60.3, 57.7, 54.0),
    HYDRA: (81.1, 77.2, 73.8, 84.2, 78.2, 71.8, 82.5, 76.3, 75.2),
    HYDRA_CACHE: (83.7, 79.1, 78.3, 88.2, 83.8, 79.3, 88.2, 85.0, 78.5),
}
FIGURE9_ATTAINED: Mapping[str, Mapping[Cell, float]] = {
    system: {cell: percent / 100 for cell, percent in zip(CELLS, percents, strict=True)}
    for system, percents in _FIGURE9.items()
}
"""Share of requests whose first token came within the time that is wanted of its model; those without any missed it."""

TASKS = ("chat", "code", "summarisation")
FIGURE11_CELL = Cell(8.0, 0.6)
FIGURE11_ATTAINED: Mapping[str, Mapping[str, float]] = {
    VLLM: {"chat": 0.518, "code": 0.450, "summarisation": 0.915},
    SLLM: {"chat": 0.606, "code": 0.481, "summarisation": 0.996},
    HYDRA: {"chat": 0.835, "code": 0.766, "summarisation": 0.973},
    HYDRA_CACHE: {"chat": 0.895, "code": 0.830, "summarisation": 0.991},
}

FIGURE13_CELL = Cell(8.0, 0.6)
FIGURE13_MODELS = 101
"""So many of the 384 models were called in the hour of that cell."""


class Spread(NamedTuple):
    """Over models."""

    mean: float
    median: float
    largest: float | None


FIGURE13_TPOT, FIGURE13_COST = Spread(1.083, 1.053, 1.86), Spread(0.835, 0.802, None)
"""HydraServe without cache over serverless vLLM, by model: time per output token, and memory of GPUs times time."""

KV_BYTES, BATCH = 5 << 30, 8
"""Each worker that runs a whole model has so much for KV cache, and takes so many requests at once."""
KEEP_ALIVE_S = 30.0
WARM_TPOT_S: Mapping[str, float] = {"Llama-2-7B": 0.042, "Llama-2-13B": 0.058}
"""What its service levels are twice of, and so what a token takes once a model is there."""
