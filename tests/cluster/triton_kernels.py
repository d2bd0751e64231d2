"""Our kernels, run on a GPU where the tests compute on one, elsewhere by Triton's interpreter: import them from here.

How a kernel runs is settled when its file is imported. The interpreter cannot compute in bfloat16.
"""

import os
from typing import Any
from unittest import mock

import pytest

from tests.device import DEVICE

triton = pytest.importorskip("triton")
if DEVICE.type == "cpu":
    import triton.language as tl
    from triton.runtime import interpreter
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    for _name, _function in list(vars(tl).items()):
        if isinstance(_function, JITFunction):  # something has imported Triton before us
            setattr(tl, _name, InterpretedFunction(_function.fn))
    _patch = interpreter._patch_lang_tensor

    def _patched(tensor: Any, scope: Any) -> None:
        """Its bounds of loops are arrays of one element, of which NumPy 2.4 makes no number."""
        _patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    _patched_for: set[str] = set()

    def _called(self: Any, *args: Any, **kwargs: Any) -> Any:
        """A function that a kernel calls. Triton patches its language anew at each call, a quarter of all time, and leaves
        it patched: once for each module is enough."""
        if self.fn.__module__ not in _patched_for:
            _patched_for.add(self.fn.__module__)
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **kwargs)

    interpreter._patch_lang_tensor = _patched
    InterpretedFunction.__call__ = _called
    with mock.patch.dict(os.environ, {"TRITON_INTERPRET": "1"}):
        from cluster.stage.kernels import activation, attention, forms, matvec, norm, rotary
else:
    from cluster.stage.kernels import activation, attention, forms, matvec, norm, rotary

__all__ = ["DEVICE", "activation", "attention", "forms", "matvec", "norm", "rotary"]
