"""Twins in Triton: same file, name and arguments as the plain truth, for CUDA tensors and without a gradient.

Importing a file of this folder imports triton; `kernels/dispatch.py` alone decides when that happens.
"""
