"""Two toys in one picture: how they are drawn, learned from and judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import CLIPTokenizer

from dreamcache.models.conditioned import Cache
from dreamcache.training.evaluation.toys.attribute_classifier import load_classifier
from dreamcache.training.evaluation.toys.halves import halves
from dreamcache.training.evaluation.toys.pairs import draw_pair_cases, own_halves, score_pairs
from dreamcache.training.miniature.latents import encode_dataset, join_samples, load_latents
from dreamcache.training.miniature.stages.autoencoder import make_autoencoder
from dreamcache.training.world.captions import draw_pair_words, pair_caption
from dreamcache.training.world.dataset import Of, draw_batch, read_shards, shard_path, write_npz
from dreamcache.training.world.identity import is_held_out
from dreamcache.training.world.render import render_pair
from dreamcache.training.world.samples import draw_pair, draw_two

PAIRS = 60


def test_the_first_toy_stands_on_the_left() -> None:
    for index in range(12):
        sample = draw_pair(0, index)
        left, right = (np.nonzero(mask > 127)[1] for mask in sample.mask)
        assert left.mean() < 24
        assert right.mean() > 40
        # Neither is cut off, and each has its half to itself but for a pixel or two.
        assert (left > 34).mean() < 0.02
        assert (right < 30).mean() < 0.02
        kinds = [toy.kind for toy in sample.identities]
        words = sample.caption.replace(",", "").split()
        assert words.index(kinds[0]) < words.index(kinds[1])
        assert not any(is_held_out(toy) for toy in sample.identities)
        assert sample.labels.shape == (2, 6)


def test_a_pair_is_the_same_whoever_draws_it() -> None:
    one, again, other = draw_pair(0, 3), draw_pair(0, 3), draw_pair(0, 4)
    np.testing.assert_array_equal(one.target, again.target)
    np.testing.assert_array_equal(one.reference, again.reference)
    assert one.caption == again.caption
    assert (one.target != other.target).any()


def test_captions_name_both() -> None:
    rng = np.random.default_rng(0)
    toys = draw_two(rng, held_out=False)
    captions = {draw_pair_words(toys, "beach", rng).caption for _ in range(200)}
    assert all(all(toy.kind in caption for toy in toys) for caption in captions)
    assert len(captions) > 15
    plain = pair_caption(toys, "beach")
    assert plain == f"a toy {toys[0].kind} and a toy {toys[1].kind} on the beach"


def test_samples_with_two_toys_join_those_with_one(tmp_path: Path, tokenizer: CLIPTokenizer) -> None:
    torch.manual_seed(0)
    vae = make_autoencoder().eval()
    write_npz(shard_path(tmp_path / "pairs", 0), **vars(draw_batch(0, 0, 3, of="two")))
    write_npz(shard_path(tmp_path / "data", 0), **vars(draw_batch(0, 0, 4)))
    for name in ("pairs", "data"):
        encode_dataset(tmp_path / name, tmp_path / f"{name}-latents", 1, vae, tokenizer)
    (batch,) = read_shards(tmp_path / "pairs", 1)
    assert batch.references.shape == (3, 2, 64, 64, 3)
    latents = load_latents(tmp_path / "data-latents", 1)
    pairs = load_latents(tmp_path / "pairs-latents", 1, latents.scale)
    assert pairs.scale == latents.scale
    both = join_samples([latents, pairs])
    assert len(both.targets) == len(both.tokens) == 7
    assert torch.equal(both.targets[4:], pairs.targets)
    assert torch.equal(both.tokens[4:], pairs.tokens)
    assert (pairs.tokens[0] != latents.tokens[0]).any()


def test_the_judge_reads_each_half() -> None:
    cases = draw_pair_cases(PAIRS, size=128)
    rng = np.random.default_rng(0)
    renders = np.stack([render_pair(case.toys, case.scene, rng, 128).image for case in cases])
    judge = load_classifier()
    right = score_pairs(judge, renders, cases)
    assert right.own.mean > 0.9
    assert right.kind.mean > 0.9
    assert right.scene.mean > 0.9
    assert right.other.mean < 0.05
    assert min(right.sides) > 0.85
    # Toys that changed places are told from toys in theirs.
    swapped = np.stack(
        [render_pair((case.toys[1], case.toys[0]), case.scene, rng, 128).image for case in cases]
    )
    wrong = score_pairs(judge, swapped, cases)
    assert wrong.own.mean < 0.3
    assert wrong.other.mean > 0.9
    assert wrong.kind.mean < 0.05


def test_a_half_is_cut_out_and_enlarged() -> None:
    picture = np.zeros((1, 64, 64, 3), np.uint8)
    picture[0, 20:52, 32:] = 255
    left, right = halves(picture)[0]
    assert left[:, :60].max() == 0
    assert right.min() == 255
    assert halves(picture, (4, 0))[0, 1].min() == 255, "a cut does not leave the picture"
    assert halves(picture, (0, -4))[0, 1].min() == 0


def test_each_half_reads_its_own_cache() -> None:
    cache: Cache = {"site": torch.zeros(3, 2 * 16, 8)}
    visible = own_halves(cache, 3)["site"]
    assert visible.shape == (3, 16, 32)
    grid = visible[0].view(4, 4, 2, 16)
    assert grid[:, :2, 0].all()
    assert grid[:, 2:, 1].all()
    assert not grid[:, :2, 1].any()
    assert not grid[:, 2:, 0].any()


def test_the_judge_learns_from_halves(tmp_path: Path) -> None:
    from dreamcache.training.miniature.loop import Schedule
    from dreamcache.training.miniature.stages.attribute_classifier import train_classifier

    write_npz(shard_path(tmp_path / "data", 0), **vars(draw_batch(0, 0, 2)))
    write_npz(shard_path(tmp_path / "pairs", 0), **vars(draw_batch(0, 0, 3, of="two")))
    schedule = Schedule(steps=1, batch=8, learning_rate=1e-2, warmup=1, ema=0.0)
    singles: dict[Of, tuple[Path, int]] = {"one": (tmp_path / "data", 1)}
    weights = [
        train_classifier(data, tmp_path / name, schedule).state_dict()
        for name, data in (("without", singles), ("with", singles | {"two": (tmp_path / "pairs", 1)}))
    ]
    assert any(not torch.equal(value, weights[1][name]) for name, value in weights[0].items())
