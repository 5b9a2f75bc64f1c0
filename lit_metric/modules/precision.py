"""What a processor is slow at."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger(__name__)


def warn_of_slow_bfloat16(precision: str, device: torch.device) -> None:
    """Say that training will be slow where the processor doesn't multiply bfloat16 matrices in hardware.

    None with no more than AVX2 does. Of those with AVX-512 only some do, which is not looked into.

    Args:
        precision: as the trainer has it.
        device: that is trained on.
    """
    slow = torch.backends.cpu.get_cpu_capability() == "AVX2"
    if slow and device.type == "cpu" and precision.startswith("bf16"):
        log.warning(
            "--trainer.precision %s on a processor without bfloat16 in hardware (no avx512_bf16 or amx_bf16 "
            "in lscpu) takes several times as long as 32-true",
            precision,
        )
