"""The Triton twin of every operation: same names, same arguments, for CUDA tensors and without a gradient.

Importing a file of this room imports triton; `kernels/choice.py` alone decides when that happens.
"""
