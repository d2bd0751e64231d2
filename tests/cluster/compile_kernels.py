"""Compile every kernel for a GPU of the Hopper kind, which needs none: how many of its loads are of 16 and of 8 bytes.

Run by itself, since where kernels are interpreted none can be compiled.
"""

import json
import re
import sys
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

from cluster.stage.kernels import activation, matvec, norm, rotary

_TARGET = GPUTarget("cuda", 90, 32)
_NUMBERS = {"eps": "fp32", "width": "i32", "inner": "i32", "outputs": "i32", "rows": "i32"}
_TENSORS = ("x", "weight", "bias", "out", "gate", "up", "q", "k", "cos", "sin", "q_out", "k_out")
_ODD = ("eps", "inner", "rows", "q_heads", "k_heads", "q_blocks")


def _wide_loads(kernel: Any, warps: int, **constants: Any) -> dict[str, int]:
    """As it is compiled for tensors in bfloat16 that lie at multiples of 16 bytes, with sizes that are multiples of 16."""
    names = kernel.arg_names
    kinds = {
        name: "constexpr" if name in constants else "*bf16" if name in _TENSORS else _NUMBERS.get(name, "i32")
        for name in names
    }
    even = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name not in (*constants, *_ODD)}
    values = {(names.index(name),): value for name, value in constants.items()}
    compiled = compile_kernel(ASTSource(kernel, kinds, values, even), target=_TARGET, options={"num_warps": warps})
    loads = re.findall(r"ld\.global\S*\.(v\d)\.b32", compiled.asm["ptx"])
    return {"bytes16": loads.count("v4"), "bytes8": loads.count("v2")}


def main() -> None:
    heads = {"half": 64, "rest": 0, "half_block": 64, "rest_block": 1, "head_block": 4, "rounds": True}
    tile = {"row_block": 1, "output_block": 8, "input_block": 512, "stages": 1}
    found = {
        **{f"norm {form.name}": _wide_loads(norm._rms_norm, 16, form=int(form), block=4096) for form in norm.Form},
        **{act.name: _wide_loads(activation._gated, 4, tanh=act == 1, block=1024) for act in activation.Act},
        "rotary": _wide_loads(rotary._rotate, 2, **heads),
        "rotary partial": _wide_loads(rotary._rotate, 2, **{**heads, "half": 16, "rest": 96, "rest_block": 128}),
        "matvec": _wide_loads(matvec._matvec, 4, inputs=4096, biased=True, even=True, **tile),
        "matvec in stages": _wide_loads(
            matvec._matvec, 4, inputs=4096, biased=True, even=True, **{**tile, "stages": 3}
        ),
        "matvec uneven": _wide_loads(matvec._matvec, 4, inputs=4000, biased=False, even=False, **tile),
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
