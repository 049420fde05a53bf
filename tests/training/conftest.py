"""What the tests of training share: whole toys, the tokenizer, and a few rendered samples on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

SAMPLES = 6


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # tiny models are slower on many threads, and bit-equal sums need one number of them
    torch.set_num_threads(1)


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
