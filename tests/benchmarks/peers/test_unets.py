"""The UNets of the other methods: the IP-Adapter against diffusers', the second UNet against what must hold."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from diffusers import StableDiffusionPipeline  # noqa: E402
from tiny_models import MINI_SHAPED, tiny_unet  # noqa: E402

from peers.prepare import ADAPTER_FILE, ENCODERS, load_ip_adapter_unet, write_ip_adapter  # noqa: E402
from peers.unets import ConditionedUnet, ReferenceUnet  # noqa: E402


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(1, 4, 8, 8, generator=generator)
    return latent, torch.tensor([500.0]), torch.randn(1, 16, 32, generator=generator)


@torch.no_grad()
def test_the_second_unet_feeds_the_first() -> None:
    unet = tiny_unet(**MINI_SHAPED)
    latent, timestep, text = inputs()
    stock = unet(latent, timestep, text).sample
    reference, conditioned = ReferenceUnet(unet, "sdpa"), ConditionedUnet(unet, "sdpa")
    own = reference(latent, timestep, text)
    assert len(own) == 11  # 2 × 2 in the encoder, 1 in the middle, 2 × 3 in the decoder
    # Attention over the same keys twice is attention over them once.
    assert torch.allclose(conditioned(latent, timestep, text, *own), stock, atol=2e-5)
    empty = [feature[:, :0] for feature in own]
    assert torch.allclose(conditioned(latent, timestep, text, *empty), stock, atol=2e-5)
    other = reference(inputs(1)[0], timestep, text)
    assert (conditioned(latent, timestep, text, *other) - stock).abs().max() > 1e-3
    with pytest.raises(ValueError, match="11 features are expected, received 10"):
        conditioned(latent, timestep, text, *other[:-1])


@torch.no_grad()
def test_our_ip_adapter_is_diffusers(tiny_base: Path, tmp_path: Path) -> None:
    write_ip_adapter(tmp_path, tiny_base, "tiny")
    pipe = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None, local_files_only=True)
    latent, timestep, text = inputs()
    stock = pipe.unet(latent, timestep, text).sample
    ours = load_ip_adapter_unet(pipe.unet, tmp_path / ADAPTER_FILE, "sdpa")
    # Without biases, tokens of nothing add nothing.
    assert torch.allclose(ours(latent, timestep, text, torch.zeros(1, 4, 32)), stock, atol=2e-5)

    embedding = torch.randn(
        1, 1, ENCODERS["tiny"]["projection_dim"], generator=torch.Generator().manual_seed(2)
    )
    pipe.load_ip_adapter(
        str(tmp_path), subfolder="", weight_name=ADAPTER_FILE, image_encoder_folder="image_encoder"
    )
    theirs = pipe.unet(latent, timestep, text, added_cond_kwargs={"image_embeds": [embedding]}).sample
    image = pipe.unet.encoder_hid_proj.image_projection_layers[0](embedding[:, 0])
    base = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None, local_files_only=True).unet
    adapted = load_ip_adapter_unet(base, tmp_path / ADAPTER_FILE, "sdpa")
    assert torch.allclose(adapted(latent, timestep, text, image.reshape(1, 4, 32)), theirs, atol=2e-5)
    assert (theirs - stock).abs().max() > 1e-4
