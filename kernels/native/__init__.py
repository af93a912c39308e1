"""Twins for a CPU: in C, built at first use where a C compiler is, and by the libraries inside torch's build."""

import os

# oneDNN keeps code and scratch space of the last 1024 shapes that it met. Every sentence has lengths of its own, and 200 of
# them took 115 MB more than with 64. A step of decoding needs a few dozen. It reads this once, at its first product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
