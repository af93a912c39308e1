"""Plain page writes. Contracts: `kernels/pages.py`."""

from torch import Tensor


def write_pages(k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, slots: Tensor) -> None:
    k_pages.view(-1, *k_pages.shape[2:]).index_copy_(0, slots, k)
    v_pages.view(-1, *v_pages.shape[2:]).index_copy_(0, slots, v)
