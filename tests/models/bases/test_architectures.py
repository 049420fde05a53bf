"""The table of known architectures against the published figures, without memory for weights."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor

from dreamcache.models.bases.architectures import ARCHITECTURES, UNET_CONFIGS, known_architecture
from dreamcache.models.bases.distillation import recognise_sampling
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.walk.sites import find_sites
from dreamcache.models.walk.unet import stock, walk

# Millions, as published: Stable Diffusion's model card (860M); BK-SDM's README (0.58B, 0.49B, 0.33B) and
# table 1 of arXiv 2305.15798 (579.4M, 482.3M, 323.4M); Segmind's small and tiny remove the same blocks.
# SD 2's UNet is published as 865M, cut off (arXiv 2307.01952, table 1): 866; SDXL's there as 2.6B.
PUBLISHED = {
    "sd15": 860,
    "sd21": 866,
    "sd21-base": 866,
    "bk-sdm-base": 579.4,
    "bk-sdm-small": 482.3,
    "bk-sdm-tiny": 323.4,
    "small-sd": 579.4,
    "tiny-sd": 323.4,
    "lcm": 860,
    "sd-turbo": 866,
    "sdxl": 2567,
}
ADAPTERS = {"bk-sdm-base": 4, "bk-sdm-small": 3, "bk-sdm-tiny": 3}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameters_are_the_published_number(name: str) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET_CONFIGS[name])
        sites = ConditionedUNet(unet).sites
    millions = sum(parameter.numel() for parameter in unet.parameters()) / 1e6
    # 0.1 %: the figures are rounded to that.
    assert millions == pytest.approx(PUBLISHED[name], rel=1e-3)
    others = [figure for figure in PUBLISHED.values() if figure != PUBLISHED[name]]
    assert all(abs(millions - figure) > 5e-3 * figure for figure in others)
    if name in ADAPTERS:
        assert len(sites) == ADAPTERS[name]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_is_walked_at_its_true_size(name: str) -> None:
    config = UNET_CONFIGS[name]
    side, sites = config["sample_size"], {}

    def visit(place: str, transformer: Transformer2DModel, hidden: Tensor, text: Tensor) -> Tensor:
        sites[place] = tuple(hidden.shape[1:])
        return stock(place, transformer, hidden, text)

    top = config["down_block_types"][0] == "CrossAttnDownBlock2D"
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
        added = None if top else {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
        latent, text = torch.empty(1, 4, side, side), torch.empty(1, 77, config["cross_attention_dim"])
        assert walk(unet, latent, torch.empty(1), text, visit, added).shape == latent.shape
        with pytest.raises(RuntimeError, match=r"768|1024|640"):
            walk(unet, latent, torch.empty(1), text[..., :640], visit, added)
    tapped = find_sites(unet)
    assert [sites[site.name][0] for site in tapped] == [site.width for site in tapped]
    # The last site is at the latent's own size, SDXL's at half of it; the middle, where there is one, at the lowest.
    assert sites[tapped[-1].name] == ((320, side, side) if top else (640, side // 2, side // 2))
    if tapped[0].name.startswith("mid_block"):
        lowest = side // 2 ** (len(config["block_out_channels"]) - 1)
        assert sites[tapped[0].name] == (1280, lowest, lowest)


def test_how_each_is_sampled() -> None:
    kinds = {name: recognise_sampling(known.unet, known.scheduler) for name, known in ARCHITECTURES.items()}
    assert {name: kind for name, kind in kinds.items() if kind != "standard"} == {
        "lcm": "lcm",
        "sd-turbo": "turbo",
    }
    predictions = {name for name, known in ARCHITECTURES.items() if "v_pred" in str(known.scheduler)}
    assert predictions == {"sd21"}
    with pytest.raises(ValueError, match="sd15, sd21"):
        known_architecture("sd9")
