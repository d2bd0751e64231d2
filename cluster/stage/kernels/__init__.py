"""Kernels of our own for CUDA, in Triton, each beside what it computes in plain torch.

Triton comes with torch's CUDA builds. It compiles a kernel at its first call, which takes up to some seconds: nothing here
is called for the first time on the way to a first token.
"""
