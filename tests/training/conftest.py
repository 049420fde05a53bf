"""What the tests of training share: whole toys, the tokenizer, and a few rendered samples on disk."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

SAMPLES = 6


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # tiny models are slower on many threads, and bit-equal sums need one number of them
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """Accelerate's state is per process, and each test starts anew."""
    yield
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


@pytest.fixture(scope="session")
def tokenizer() -> CLIPTokenizer:
    """The miniature's tokenizer."""
    from dreamcache.training.miniature.tokenizer import make_tokenizer

    return make_tokenizer()


@pytest.fixture(scope="session")
def small_shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose first and only shard holds six samples."""
    from dreamcache.training.world.dataset import draw_batch, shard_path, write_npz

    folder = tmp_path_factory.mktemp("data")
    write_npz(shard_path(folder, 0), **vars(draw_batch(0, 0, SAMPLES)))
    return folder
