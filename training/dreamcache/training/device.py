"""Where training runs: on a CUDA device when there is one, else on the CPU."""

import torch


def training_device() -> torch.device:
    """CUDA when present, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
