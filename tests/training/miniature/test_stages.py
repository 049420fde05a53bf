"""The training stages for a few steps: what they change, what they leave alone, and that they can be resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from dreamcache.models.bases.parts.segmenter import SubjectSegmenter
from dreamcache.models.bases.pixels import to_tensor
from dreamcache.training.evaluation.toys.attribute_classifier import AttributeClassifier, load_classifier
from dreamcache.training.miniature.latents import Latents
from dreamcache.training.miniature.loop import Schedule
from dreamcache.training.miniature.stages.attribute_classifier import save_classifier, train_classifier
from dreamcache.training.miniature.stages.autoencoder import (
    CROP,
    LATENT_CHANNELS,
    SIZE,
    draw_crops,
    make_autoencoder,
    toy_boxes,
    train_autoencoder,
)
from dreamcache.training.miniature.stages.perceptual import train_features
from dreamcache.training.miniature.stages.segmenter import iou_on_renders, train_segmenter
from dreamcache.training.miniature.stages.text_to_image import (
    draw_step,
    make_noise_schedule,
    noised,
    null_tokens,
    train_text_to_image,
)
from dreamcache.training.world.dataset import draw_batch, read_batch, shard_path, write_npz

ROWS = 12


def schedule(steps: int, batch: int = 4) -> Schedule:
    """Within the warm-up the rate does not depend on the number of steps, so a short run is a long one's start."""
    return Schedule(steps=steps, batch=batch, learning_rate=1e-2, warmup=100, ema=0.9)


def draw_latents(channels: int, tokenizer: CLIPTokenizer) -> Latents:
    """Noise in the place of pictures, with captions."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(ROWS, channels, 8, 8, generator=generator).half()
    texts = [f"a toy robot number {row}" for row in range(ROWS)]
    tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return Latents(targets, tokens, 1.0)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_caption_dropping_and_timesteps_are_as_stated(tokenizer: CLIPTokenizer) -> None:
    latents = draw_latents(4, tokenizer)
    null = null_tokens(tokenizer)
    dropped, timesteps = 0, []
    for step in range(100):
        _, _, timestep, tokens = draw_step(latents, schedule(1, batch=20), step, 0.1, null)
        dropped += int((tokens == null).all(1).sum())
        timesteps.append(timestep)
    # four standard deviations of 2000 draws
    assert dropped / 2000 == pytest.approx(0.1, abs=0.027)
    joined = torch.cat(timesteps)
    assert joined.min() >= 0
    assert joined.max() <= 999
    assert float(joined.float().mean()) == pytest.approx(499.5, abs=10)
    assert all(set((t // 50).tolist()) == set(range(20)) for t in timesteps), "one in each twentieth"


def test_noised_latents_and_velocity_are_a_rotation() -> None:
    scheduler = make_noise_schedule()
    clean, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timestep = torch.tensor([0, 500, 999])
    noisy, velocity = noised(scheduler, clean, noise, timestep)
    alpha = scheduler.alphas_cumprod[timestep][:, None, None, None]
    torch.testing.assert_close(alpha.sqrt() * noisy - (1 - alpha).sqrt() * velocity, clean)
    torch.testing.assert_close((1 - alpha).sqrt() * noisy + alpha.sqrt() * velocity, noise)
    torch.testing.assert_close(velocity, scheduler.get_velocity(clean, noise, timestep))


def resumed_equals_uninterrupted(
    stage: Callable[[Path, int], nn.Module], folder: Path, length: int = 2
) -> dict[str, Tensor]:
    """Train `length` steps at once, and one step and then the rest; return the weights."""
    whole = weights(stage(folder / "whole", length))
    shutil.rmtree(folder / "whole")
    first = weights(stage(folder / "parts", 1))
    parts = weights(stage(folder / "parts", length))
    assert json.loads((folder / "parts" / "losses.json").read_text())["steps"] == length
    shutil.rmtree(folder / "parts")
    assert equal(parts, whole)
    assert not equal(first, whole)
    return whole


def test_the_base_resumes_to_the_same_weights(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    latents = draw_latents(LATENT_CHANNELS, tokenizer)
    vae = make_autoencoder()

    def stage(folder: Path, steps: int) -> nn.Module:
        pipeline = train_text_to_image(latents, vae, tokenizer, folder, schedule(steps, batch=2))
        return nn.ModuleDict({"unet": pipeline.unet, "text_encoder": pipeline.text_encoder})

    trained = resumed_equals_uninterrupted(stage, tmp_path)
    assert all(value.isfinite().all() for value in trained.values())


def test_the_autoencoder_resumes_to_the_same_weights(small_shard: Path, tmp_path: Path) -> None:
    resumed_equals_uninterrupted(
        lambda folder, steps: train_autoencoder(small_shard, folder, schedule(steps), 1, schedule(2)),
        tmp_path,
    )


def test_the_autoencoder_learns_from_crops_that_lie_anywhere_and_most_on_the_toy() -> None:
    anywhere = toy_boxes(np.zeros((5, SIZE, SIZE), np.uint8))
    drawn = [draw_crops(SIZE, schedule(100, batch=16), anywhere, step) for step in range(100)]
    crops = [crop for step in drawn[:70:2] for crop in step]
    assert {row for row, _, _ in crops} == set(range(5))
    for axis in (1, 2):
        starts = [crop[axis].start for crop in crops]
        assert all(crop[axis].stop - crop[axis].start == CROP for crop in crops)
        assert min(starts) <= 1
        assert max(starts) >= SIZE - CROP - 1
        assert np.mean(starts) == pytest.approx((SIZE - CROP) / 2, abs=4)
    whole = slice(0, SIZE)
    for step in (*drawn[1:70:2], *drawn[70:]):
        assert [crop[1:] for crop in step] == [(whole, whole)] * 4, "as many pixels"
    small = draw_crops(CROP, schedule(1), anywhere, 0)
    assert [crop[1:] for crop in small] == [(slice(0, CROP), slice(0, CROP))] * 4
    masks = np.zeros((1, SIZE, SIZE), np.uint8)
    masks[0, 40:45, 70] = 255
    (boxes,) = toy_boxes(masks)
    assert boxes.tolist() == [[40, 44], [70, 70]]
    middles = [
        (rows.start + CROP // 2, columns.start + CROP // 2)
        for step in range(0, 70, 2)
        for _, rows, columns in draw_crops(SIZE, schedule(100, batch=16), boxes[None], step)
    ]
    assert np.mean([40 <= y <= 44 and x == 70 for y, x in middles]) == pytest.approx(0.75, abs=0.05)


def test_features_tell_a_smeared_picture_from_a_sharp_one(small_shard: Path, tmp_path: Path) -> None:
    batch = read_batch(small_shard, 0, 1)
    features = train_features(batch.targets, batch.labels, tmp_path, schedule(4))
    assert not any(value.requires_grad for value in features.parameters())
    sharp = to_tensor(batch.targets)
    smeared = nn.functional.avg_pool2d(sharp, 5, stride=1, padding=2, count_include_pad=False)
    assert float(features.distance(sharp, sharp)) == pytest.approx(0, abs=1e-6)
    assert float(features.distance(smeared, sharp)) > 4 * float(features.distance(sharp + 0.01, sharp)) > 0


def test_the_judge_resumes_to_the_same_weights(small_shard: Path, tmp_path: Path) -> None:
    resumed_equals_uninterrupted(
        lambda folder, steps: train_classifier({"one": (small_shard, 1)}, folder, schedule(steps)), tmp_path
    )


def test_the_segmenter_resumes_to_the_same_weights_and_learns(small_shard: Path, tmp_path: Path) -> None:
    resumed_equals_uninterrupted(
        lambda folder, steps: train_segmenter(small_shard, 1, folder, schedule(steps)), tmp_path
    )
    longer = Schedule(steps=60, batch=6, learning_rate=1e-2, warmup=5, ema=0.8, muon=True)
    learnt = train_segmenter(small_shard, 1, tmp_path / "run", longer)
    # six toys teach what a toy in the middle is, at another size too; a fresh network finds about half of a picture
    for size in (64, 128):
        assert iou_on_renders(learnt, size, 10) > 0.45 > 0.1 + iou_on_renders(SubjectSegmenter(), size, 10)


def test_the_judge_of_larger_pictures_has_another_stage_and_is_known_by_it(tmp_path: Path) -> None:
    rendered, path = tmp_path / "data", tmp_path / "judge.safetensors"
    write_npz(shard_path(rendered, 0), **vars(draw_batch(0, 0, 4, size=128)))
    judge = train_classifier({"one": (rendered, 1)}, tmp_path / "run", schedule(1))
    save_classifier(judge, path, {})
    loaded = load_classifier(path)
    assert (loaded.size, len(loaded.coarse)) == (128, 3)
    assert (AttributeClassifier().size, len(AttributeClassifier().coarse)) == (64, 2)
    assert loaded.classify(read_batch(rendered, 0, 1).targets).masks.shape == (4, 128, 128)
    with pytest.raises(RuntimeError):
        loaded.classify(draw_batch(0, 0, 1).targets)
