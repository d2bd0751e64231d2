"""What ServerlessLLM (OSDI'24) measured of its loader: results and machines that its repository has (benchmarks/)."""

from typing import NamedTuple


class Loaded(NamedTuple):
    """A row of its table: seconds until a model is on its GPU, from the disks or from the host's memory, in the mean."""

    machine: str
    model: str
    tier: str
    serverlessllm_s: float
    safetensors_s: float | None


H100, A5000 = "8 H100, NVMe of 29.4 GB/s", "A5000, 2 NVMe in RAID 0"
LOADED = (
    Loaded(H100, "Qwen3-32B", "ssd", 3.216, 20.592),
    Loaded(H100, "Qwen3-32B", "dram", 1.253, 12.466),
    Loaded(H100, "R1-Distill-Qwen-32B", "ssd", 3.220, 19.090),
    Loaded(H100, "R1-Distill-Qwen-32B", "dram", 1.184, 10.165),
    Loaded(H100, "Llama-3.1-8B", "ssd", 0.678, 4.437),
    Loaded(A5000, "OPT-6.7B", "ssd", 1.175, 5.095),
)
FITTED_ON = "Qwen3-32B"
"""Its rows give the rates of the H100 machine's tiers; the others are predicted."""
A5000_SSD_BYTES_PER_S = 2 * 6.8e9
"""Two P5510 by their data sheet: of that machine there is no second row to take a rate from."""
