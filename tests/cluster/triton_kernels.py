"""Our kernels, run where there is a GPU on it, elsewhere by Triton's interpreter: import them from here.

How a kernel runs is settled when its file is imported. The interpreter cannot compute in bfloat16.
"""

import os
from unittest import mock

import pytest
import torch

triton = pytest.importorskip("triton")
DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")

if DEVICE.type == "cpu":
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    if isinstance(tl.sum, JITFunction):  # something has imported Triton before us
        tl.sum = InterpretedFunction(tl.sum.fn)
    with mock.patch.dict(os.environ, {"TRITON_INTERPRET": "1"}):
        from cluster.stage.kernels import activation, forms, matvec, norm, rotary
else:
    from cluster.stage.kernels import activation, forms, matvec, norm, rotary

__all__ = ["DEVICE", "activation", "forms", "matvec", "norm", "rotary"]
