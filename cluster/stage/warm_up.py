"""What a waiting stage process goes through once, since it is slower the first time: after its order nothing is."""

import itertools
import time
from collections.abc import Callable, Sequence

import torch
from torch.distributed import HashStore

from cluster.model_facts import model_config
from cluster.stage.attending.paged_attention import Flash, flash_attention
from cluster.stage.building.model import build_pipeline
from cluster.stage.joining.membership import join, leave
from cluster.stage.kernels.ahead import build_common
from cluster.stage.stepping.acceleration import means
from cluster.stage.steps import Segment

_CONFIG = {
    "model_type": "llama", "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "vocab_size": 64,
    "num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_CPU_DTYPES = (torch.float32, torch.bfloat16)
_GPU_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_STEPS = ([Segment(1, 2, 0, True, 64)], [Segment(1, 1, 2, True, 64)])
_MORE_STEPS = (
    [Segment(2, 9, 0, True, 64), Segment(3, 5, 0, False, 64)],
    [Segment(2, 1, 9, True, 64), Segment(3, 4, 5, True, 64)],
    [Segment(1, 1, 3, True, 64), Segment(2, 1, 10, True, 64), Segment(3, 1, 9, True, 64)],
)
"""Of several requests, at a piece of a prompt and at tokens of their own: what a GPU has further kernels for."""
_HIDDEN, _ROWS = (4096, 2048, 1024, 8192), (1, 16, 32, 64, 128, 256, 2048)
_HEAD_DIMS = (128, 64)
_SHAPES = ((1, 1), (4, 1), (1, 4))
_MOST_WEIGHT_BYTES = 128 << 20
_PRODUCTS_S = 1.0

_MOST_VOCABULARY = 152_064


def prepare(device: torch.device) -> None:
    """Before anything is computed: no attention by cuDNN, which builds a plan for each new length, for 50 ms and longer."""
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def warm_up(device: torch.device) -> None:
    """Go once through everything that is slower the first time, with models of 64 dimensions in the types that the device is
    likely to meet. A GPU loads its kernels one by one, and has more of them to load."""
    if device.type == "cuda":
        form_once(device, _GPU_DTYPES, (*_STEPS, *_MORE_STEPS))
        load_kernels(device, time.perf_counter() + _PRODUCTS_S, attend=flash_attention)
        build_common(device, _GPU_DTYPES[0])
        torch.cuda.empty_cache()
    else:
        form_once(device, _CPU_DTYPES)


def form_once(device: torch.device, dtypes: Sequence[torch.dtype], steps: Sequence[Sequence[Segment]] = _STEPS) -> None:
    """Be a group of one, with a small model in each of `dtypes` that does the steps, and leave it."""
    join(HashStore(), 0, 1, device, timeout_s=60.0)
    for dtype in dtypes:
        run_steps(device, dtype, steps)
    leave()


def run_steps(device: torch.device, dtype: torch.dtype, steps: Sequence[Sequence[Segment]]) -> None:
    """The steps, one after the other, through a model of zeros. The process must be in a group of one."""
    pipeline, model = build_pipeline(model_config(_CONFIG), dtype, (0, 1), lambda _unit, _gate: None)
    pipeline.to_empty(device=device)
    for parameter in pipeline.parameters():
        parameter.data.zero_()
    cache, _ = means(pipeline, model, 256, device)
    with torch.inference_mode():
        for segments in steps:
            model.turn_to(cache.plan(segments))
            tokens = sum(segment.tokens for segment in segments)
            pipeline(torch.ones(1, tokens, dtype=torch.int64, device=device)).argmax(-1).tolist()


def load_kernels(
    device: torch.device,
    until_s: float,
    hidden: Sequence[int] = _HIDDEN,
    vocabulary: int = _MOST_VOCABULARY,
    clock: Callable[[], float] = time.perf_counter,
    attend: Flash | None = None,
) -> int:
    """Products in the shapes of common models, likeliest first, until the moment `until_s` of `clock`; then what tokens are
    chosen with. Returns how many matrices there were, each of which was multiplied with few rows and with many."""
    done = 0
    with torch.inference_mode():
        for dtype, width, (out, into) in itertools.product(_GPU_DTYPES, hidden, _SHAPES):
            if clock() >= until_s:
                break
            if out * into * width * width * dtype.itemsize <= _MOST_WEIGHT_BYTES:
                _multiply(torch.zeros(out * width, into * width, dtype=dtype, device=device))
                done += 1
        for dtype, dim in itertools.product(_GPU_DTYPES[:2], _HEAD_DIMS if attend is not None else ()):
            assert attend is not None
            _attend(attend, torch.zeros(8, 4, dim, dtype=dtype, device=device))
        for dtype in _GPU_DTYPES:
            _choose(torch.zeros(2, vocabulary, dtype=dtype, device=device))
    return done


def _multiply(weights: torch.Tensor) -> None:
    for rows in _ROWS:
        product = torch.nn.functional.linear(weights.new_zeros(rows, weights.shape[1]), weights)
    product[0, 0].item()  # it is done: the clock is the host's


def _attend(attend: Flash, heads: torch.Tensor) -> None:
    """A prompt of eight tokens, and the second half of one."""
    starts, half = (torch.tensor([0, end], dtype=torch.int32, device=heads.device) for end in (8, 4))
    attend(heads, heads[:, :1], heads[:, :1], starts, starts, 8, 8, 1.0, None)
    attend(heads[4:], heads[:, :1], heads[:, :1], half, starts, 4, 8, 1.0, None)


def _choose(logits: torch.Tensor) -> None:
    greatest, tokens = torch.max(logits, -1)
    torch.where(torch.isfinite(greatest), tokens, -1).tolist()
    numbers = logits.float()
    ordered, _places = numbers.softmax(-1).sort(-1, descending=True)
    ordered.cumsum(-1).topk(8, -1)
    numbers.log_softmax(-1).gather(-1, logits.argmax(-1, keepdim=True)).tolist()
