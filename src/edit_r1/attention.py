"""Which attention kernels of torch are trusted."""

from __future__ import annotations

import torch


def without_cudnn() -> None:
    """Switch attention by cuDNN off, for the whole process; torch then takes the next of its kernels.

    torch 2.11 prefers it on an H200. There, in bfloat16, gradients through it were NaN or an illegal memory access
    (LOG.md).
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
