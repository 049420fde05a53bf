"""The base model: a Stable Diffusion from a diffusers folder, a Hub id or one safetensors checkpoint.

Only safetensors weights are read. Few-step bases are recognised and made ready (`distillation.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizerFast

from dreamcache.models.bases.diffusers_folder import load_folder
from dreamcache.models.bases.distillation import (
    FewSteps,
    Sampling,
    check_distilled,
    fold_guidance,
    recognise_sampling,
)
from dreamcache.models.bases.files import refuse_pickle
from dreamcache.models.bases.hub import fetch_base, is_model_id
from dreamcache.models.bases.joined.additions import NOTHING, Additions, JoinedFile
from dreamcache.models.bases.joined.other_vae import load_vae, own_config
from dreamcache.models.bases.original.single_file import load_single_file
from dreamcache.models.bases.parts.autoencoder import Autoencoder, encode_mean, factor_of, latent_shift
from dreamcache.models.bases.parts.clip_tokenizer import chunks_of
from dreamcache.models.bases.parts.overrides import AS_CONFIGURED, Overrides, skip_layers
from dreamcache.models.bases.parts.schedule import ddim_of, read_schedule
from dreamcache.models.bases.parts.second_text import Conditioning, SecondText, penultimate, time_ids
from dreamcache.models.bases.parts.soundness import refuse_non_finite
from dreamcache.models.bases.parts.together import Parts, check_together, settle_sample_size
from dreamcache.models.errors import AdapterError

MINI_DIR = Path(__file__).parents[1] / "weights" / "mini"
"""The shipped miniature: a diffusers folder with its trained adapters in it."""

MINI_ADAPTERS = MINI_DIR / "adapters.safetensors"


@dataclass(frozen=True)
class Base:
    """A text-to-image model in its parts, all in float32 and in evaluation mode.

    Attributes:
        scheduler: a DDIM scheduler with the folder's noise schedule and prediction type.
        path: the diffusers folder or checkpoint it came from; None for a model made in memory.
        sampling: how it wants to be sampled; few-step bases need no guidance.
        schedule: scheduler_config.json of its own scheduler, with nothing left out.
        joined: what was added to it.
        second: text side that SDXL has in addition; None for others.
        few_steps: what a few-step LoRA that was joined wants; comes before what the adapters recommend.
        folded: of a latent consistency model, what `fold_guidance` returned.
        text_chunks: how many times the text encoder's length a prompt may have.
    """

    vae: Autoencoder
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizerFast
    unet: UNet2DConditionModel
    scheduler: DDIMScheduler
    path: Path | None
    sampling: Sampling = "standard"
    schedule: Mapping[str, Any] = field(default_factory=dict)
    joined: tuple[JoinedFile, ...] = ()
    second: SecondText | None = None
    few_steps: FewSteps | None = None
    folded: Tensor | None = None
    text_chunks: int = 1

    @classmethod
    def of(
        cls,
        parts: Parts,
        path: Path | None = None,
        sampling: Sampling | None = None,
        joined: tuple[JoinedFile, ...] = (),
        overrides: Overrides = AS_CONFIGURED,
    ) -> Base:
        """A base of parts in memory, frozen; a UNet that takes a guidance scale gets a fixed one.

        Args:
            parts: that belong together.
            path: where they came from.
            sampling: None recognises it by the configs.
            joined: what was added to them.
            overrides: what comes before the configs.

        Raises:
            AdapterError: the parts do not belong together, or one says what is not supported.
        """
        name = "the base" if path is None else str(path)
        check_together(name, parts)
        models = {"unet": parts.unet, "vae": parts.vae, "text encoder": parts.text_encoder}
        if parts.second is not None:
            models["second text encoder"] = parts.second.encoder
        refuse_non_finite(name, models)
        schedule = read_schedule(name, parts.scheduler, repaired=parts.second is None) | overrides.schedule()
        skip_layers(name, parts.text_encoder, overrides.clip_skip, alone=parts.second is None)
        if sampling is None:
            check_distilled(name, parts.unet.config, schedule)
            sampling = recognise_sampling(parts.unet.config, schedule)
        settle_sample_size(name, parts)
        folded = fold_guidance(parts.unet)
        for model in models.values():
            model.eval().requires_grad_(False)
        return cls(
            vae=parts.vae,
            text_encoder=parts.text_encoder,
            tokenizer=parts.tokenizer,
            unet=parts.unet,
            scheduler=ddim_of(schedule),
            path=path,
            sampling=sampling,
            schedule=schedule,
            joined=joined,
            second=parts.second,
            folded=folded,
        )

    @property
    def parts(self) -> Parts:
        """What it is made of; its weights and its tokenizer are those of the base."""
        return Parts(self.vae, self.text_encoder, self.tokenizer, self.unet, dict(self.schedule), self.second)

    @property
    def text_length(self) -> int:
        """Tokens that the text encoder reads at once; a prompt embedding has `text_chunks` times as many."""
        return int(self.text_encoder.config.max_position_embeddings)

    @property
    def text_width(self) -> int:
        """Width of a prompt embedding: of both text encoders together."""
        second = 0 if self.second is None else int(self.second.encoder.config.hidden_size)
        return int(self.text_encoder.config.hidden_size) + second

    @property
    def vae_factor(self) -> int:
        """Pixels a latent cell stands for, along one side."""
        return factor_of(self.vae.config)

    def token_ids(self, prompts: Sequence[str]) -> list[Tensor]:
        """Ids [b · chunks, n] of each text encoder, chunk by chunk; longer prompts are cut."""
        tokenizers = [self.tokenizer, *([] if self.second is None else [self.second.tokenizer])]
        return [
            torch.tensor(
                [
                    chunk
                    for prompt in prompts
                    for chunk in chunks_of(prompt, tokenizer, self.text_length, self.text_chunks)
                ]
            )
            for tokenizer in tokenizers
        ]

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Prompt embeddings [b, chunks · n, c] of a base with one text encoder.

        Raises:
            AdapterError: SDXL, whose UNet reads more (`condition`).
        """
        if self.second is not None:
            raise AdapterError(
                "the base has two text encoders, as SDXL does; PyTorch's pipeline and training take SD 1.x and 2.x: "
                "give such a base, or export this one"
            )
        (ids,) = self.token_ids(prompts)
        return self._joined(cast(Tensor, self.text_encoder(ids.to(self.text_encoder.device))[0]))

    @torch.no_grad()
    def condition(self, prompts: Sequence[str], size: tuple[int, int], null: bool = False) -> Conditioning:
        """All that the UNet reads of prompts.

        Args:
            prompts: texts.
            size: height and width of the picture in pixels, which SDXL's UNet is told.
            null: they stand where the null text does: SDXL may want zeros for empty ones.
        """
        if self.second is None:
            return Conditioning(self.encode_text(prompts))
        first, other = (ids.to(self.text_encoder.device) for ids in self.token_ids(prompts))
        (narrow, _), (wide, pooled) = (
            penultimate(self.text_encoder, first),
            penultimate(self.second.encoder, other),
        )
        text, pooled = self._joined(torch.cat([narrow, wide], dim=-1)), pooled[:: self.text_chunks]
        if null and self.second.force_zeros_for_empty_prompt:
            kept = torch.tensor([float(prompt != "") for prompt in prompts], device=text.device)
            text, pooled = text * kept[:, None, None], pooled * kept[:, None]
        sizes = torch.tensor([time_ids(*size)], dtype=text.dtype, device=text.device).expand(len(prompts), -1)
        return Conditioning(text, {"text_embeds": pooled, "time_ids": sizes.contiguous()})

    def _joined(self, embeddings: Tensor) -> Tensor:
        """[b · chunks, n, c] to [b, chunks · n, c]."""
        return embeddings.reshape(-1, self.text_chunks * self.text_length, embeddings.shape[-1])

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """[b, 3, H, W] in -1..1 to scaled latents [b, z, h, w]: the mean, so that it is deterministic."""
        mean = encode_mean(self.vae, pixels.to(self.vae.dtype))
        return cast(Tensor, (mean - latent_shift(self.vae)) * self.vae.config.scaling_factor)

    @torch.no_grad()
    def decode_latents(self, latent: Tensor) -> Tensor:
        """Scaled latents [b, z, h, w] to pixels [b, 3, H, W], about -1..1 and not clipped."""
        unscaled = latent / self.vae.config.scaling_factor + latent_shift(self.vae)
        return cast(Tensor, self.vae.decode(unscaled).sample)


def load_base(
    source: str | Path,
    device: str | torch.device = "cpu",
    *,
    config: str | Path | None = None,
    variant: str | None = None,
    sampling: Sampling | None = None,
    additions: Additions = NOTHING,
    overrides: Overrides = AS_CONFIGURED,
) -> Base:
    """Load a base.

    Args:
        source: a diffusers folder, a model id of the Hugging Face Hub (``owner/name`` or ``owner/name@revision``), a
            ``.safetensors`` checkpoint in the original layout, or ``mini``.
        device: where the models go.
        config: for a checkpoint: a diffusers folder whose configs and tokenizer it shares, or the name of a
            known architecture; None recognises the architecture.
        variant: which weights of a folder or id, such as ``fp16``; None takes the plain ones if there are any.
        sampling: how the base wants to be sampled; None recognises it by the configs.
        additions: whose VAE takes the place of its own; LoRAs and textual inversions are joined afterwards.
        overrides: what comes before its configs.

    Raises:
        AdapterError: a base of a kind that is not supported, withdrawn, incomplete, or stored as a pickle.
        FileNotFoundError: the source is absent, or the folder lacks a part.
        OSError: a part cannot be read (diffusers and transformers say which).
    """
    path = resolve_base(source, variant)
    vae: Autoencoder | None = None
    joined: tuple[JoinedFile, ...] = ()
    if additions.vae is not None:
        vae, record = load_vae(additions.vae, own_config(path, config))
        joined = (record,)
    if path.is_dir():
        if config is not None:
            raise AdapterError(
                f"{source} brings its own configs; leave the config out, it is for single checkpoints"
            )
        if overrides.ema:
            raise AdapterError(
                f"{source} is a diffusers folder, whose averaged weights are files of their own; leave --ema out, it "
                "is for single checkpoints, or give --variant"
            )
        parts = load_folder(path, variant, vae)
    elif variant is not None:
        raise AdapterError(f"{source} is one checkpoint; leave the variant out, it is for folders and ids")
    else:
        parts = load_single_file(path, config, vae, overrides)
    base = Base.of(parts, path, sampling, joined, overrides)
    for model in (base.vae, base.text_encoder, base.unet):
        model.to(device)
    if base.second is not None:
        base.second.encoder.to(device)
    return base


def resolve_base(source: str | Path, variant: str | None = None) -> Path:
    """The folder or checkpoint behind a source; a model id is downloaded (its safetensors parts alone).

    Raises:
        AdapterError: a pickle, or a model id that is known not to work.
        FileNotFoundError: neither ``mini``, nor a folder or file, nor the form of a model id.
    """
    if str(source) == "mini":
        return MINI_DIR
    path = Path(source)
    if path.is_dir():
        return path
    refuse_pickle(source)
    if path.is_file():
        return path
    if isinstance(source, str) and path.suffix != ".safetensors" and is_model_id(source):
        return fetch_base(source, variant)
    raise FileNotFoundError(
        f"no base at {str(source)!r}; give a diffusers folder, a .safetensors checkpoint, a Hub id such as "
        "owner/name, or mini"
    )
