"""The cache of encoded samples: equal to computing them, keyed by what they depend on, whole or made again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import TINY, Toys

from dreamcache.models.bases.base import Base, load_base
from dreamcache.training.adapters import encoded as cache
from dreamcache.training.adapters.data import PlainTriplet
from dreamcache.training.adapters.encoded import EncodedData, Share, encode, encoding_fingerprint, file_path
from dreamcache.training.augmentation import augment_reference
from dreamcache.training.errors import DivergenceError

TOYS = Toys()


@pytest.fixture
def base(tiny_base: Path) -> Base:
    return load_base(tiny_base)


class Closed(Toys):
    """A source that must not be opened."""

    def __iter__(self) -> Iterator[PlainTriplet]:
        raise AssertionError("opened")


def test_what_is_kept_equals_computing_it(base: Base, tmp_path: Path) -> None:
    assert encode(tmp_path, Toys(), base, TINY) == 1
    data = EncodedData(tmp_path, 9)
    taken = data.take([4, 0], [1, 0])
    samples = list(Toys())
    for place, (row, variant) in enumerate(((4, 1), (0, 0))):
        reference = augment_reference(
            samples[row].reference, np.random.default_rng([TINY.seed, row, variant]), TINY.chances
        )
        for kept, picture in ((taken.targets, samples[row].target), (taken.references, reference)):
            pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 127.5 - 1
            # float16 keeps eleven bits
            torch.testing.assert_close(kept[place], base.encode_images(pixels)[0], atol=2e-3, rtol=1e-3)
        text = base.encode_text([samples[row].caption])[0]
        torch.testing.assert_close(taken.text[place], text, atol=2e-3, rtol=1e-3)
    rows = list(range(9))
    first, second = (data.take(rows, [variant] * 9).references for variant in (0, 1))
    assert any(not torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert (data.latent_shape, len(data), data.key(4)) == ((4, 8, 8), 9, "toy4")


def test_a_hit_is_the_same_bytes_and_opens_no_picture(base: Base, tmp_path: Path) -> None:
    encode(tmp_path / "one", Toys(), base, TINY)
    kept = file_path(tmp_path / "one", 0).read_bytes()
    assert encode(tmp_path / "one", Closed(), base, TINY) == 0
    encode(tmp_path / "two", Toys(), base, TINY)
    assert file_path(tmp_path / "two", 0).read_bytes() == kept
    with pytest.raises(AssertionError, match="opened"):
        encode(tmp_path / "three", Closed(), base, TINY)


def test_the_key_changes_with_all_that_the_numbers_depend_on(base: Base) -> None:
    def key(source: Toys = TOYS, **changes: object) -> str:
        return encoding_fingerprint(source, base, TINY.replaced(**changes))

    keys = [key(), key(Toys(spoilt=3)), key(seed=1), key(variants=3), key(erase=0.0)]
    with torch.no_grad():
        next(base.vae.parameters())[0] += 1e-3
    keys.append(key())
    with torch.no_grad():
        next(base.text_encoder.parameters())[0] += 1e-3
    keys.append(key())
    assert len(set(keys)) == len(keys)
    # what is of the training alone changes nothing
    assert key(learning_rate=1.0, batch=1, steps=1) == key()


def test_files_are_shared_out_and_a_damaged_one_is_made_again(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "FILE_SAMPLES", 4)
    assert [encode(tmp_path, Toys(), base, TINY, Share(i, 2)) for i in (0, 1)] == [2, 1]
    kept = [file_path(tmp_path, i).read_bytes() for i in range(3)]
    file_path(tmp_path, 1).write_bytes(kept[1][:-7])
    file_path(tmp_path, 2).unlink()
    assert encode(tmp_path, Toys(), base, TINY) == 2
    assert [file_path(tmp_path, i).read_bytes() for i in range(3)] == kept
    assert EncodedData(tmp_path, 9).take([8], [0]).targets.shape == (1, 4, 8, 8)
    assert not list(tmp_path.glob(".*"))


def test_an_encoder_that_gives_nan_is_named(base: Base, tmp_path: Path) -> None:
    with torch.no_grad():
        next(base.vae.parameters()).fill_(torch.nan)
    with pytest.raises(DivergenceError, match="sample toy0: finite targets are expected"):
        encode(tmp_path, Toys(), base, TINY)
    assert not list(tmp_path.iterdir())
