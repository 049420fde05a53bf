"""Where the parts of a checkpoint lie: found by a weight that every such part has, whatever a tool calls the place.

Names are then those of the original layout of latent diffusion. Keys outside all parts are accounted for too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dreamcache.models.bases.original.other_tools import TEXT, TEXT_ENCODER, UNET, VAE, is_weight
from dreamcache.models.bases.parts.soundness import without_meaning
from dreamcache.models.errors import AdapterError


class _Part(NamedTuple):
    """landmark: a key that the part has once. heads: how its keys go on. place: where they belong."""

    words: str
    landmark: re.Pattern[str]
    heads: tuple[str, ...]
    place: str


_CLIP = "text encoder"
_PARTS = (
    _Part(
        "UNet",
        re.compile(r"(?P<place>.*\.|)input_blocks\.0\.0\.weight"),
        ("input_blocks.", "middle_block.", "output_blocks.", "out.", "time_embed.", "label_emb."),
        UNET,
    ),
    _Part(
        "VAE",
        re.compile(r"(?P<place>.*\.|)decoder\.conv_in\.weight"),
        ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "loss."),
        VAE,
    ),
    _Part(
        _CLIP,
        re.compile(r"(?P<place>.*\.|)embeddings\.token_embedding\.weight"),
        ("embeddings.", "encoder.layers.", "final_layer_norm."),
        f"{TEXT}text_model.",
    ),
    _Part(
        _CLIP,
        re.compile(r"(?P<place>(?:.*\.)?(?!embeddings\.)[^.]+\.|)token_embedding\.weight"),
        ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection"),
        f"{TEXT_ENCODER}model.",
    ),
)
# A ControlNet has half a UNet of its own.
_NO_UNET = re.compile(r"(?:^|\.)control_model\.$")
# diffusers, before and after it renamed the attention of its VAE, and what latent diffusion calls it.
_ATTENTION = re.compile(r"(\.mid\.attn_1\.)(to_q|query|to_k|key|to_v|value|to_out\.0|proj_attn)\.")
_ATTENTION_NAMES = {
    "to_q": "q",
    "query": "q",
    "to_k": "k",
    "key": "k",
    "to_v": "v",
    "value": "v",
    "to_out.0": "proj_out",
    "proj_attn": "proj_out",
}
# What latent diffusion computes from its noise schedule and saves beside the weights, a counter of its trainer, marks,
# and a ControlNet that was trained beside the base.
_BUFFERS = re.compile(
    r"(?:(?:state_dict|module|model|_orig_mod)\.)*"
    r"(?:betas|alphas_cumprod(?:_prev)?|(?:sqrt|log)_\w*alphas_cumprod|posterior_\w+|logvar|lvlb_weights|scale_factor"
    r"|(?:\w+\.)?(?:sigmas|log_sigmas)|global_step|control_model\..+)"
    r"|v_pred|ztsnr"
)
_DIFFUSERS = re.compile(r"(?:^|\.)(?:down_blocks|up_blocks|mid_block)\.")


def originals(path: object, names: Iterable[str], *, vae_alone: bool = False) -> dict[str, str]:
    """Of each key its name in the original layout.

    Args:
        path: of the file, for the message.
        names: its keys.
        vae_alone: nothing else is looked for.

    Raises:
        AdapterError: a part that the file has twice.
    """
    result = {name: name for name in names}
    found: dict[str, list[str]] = {}
    for part in _PARTS:
        if vae_alone and part.place != VAE:
            continue
        places = _places(part, result)
        found.setdefault(part.words, []).extend(places)
        if len(found[part.words]) > 1:
            both = " and ".join(repr(place) for place in sorted(found[part.words]))
            raise AdapterError(
                f"{path} has more than one {part.words} (keys that begin with {both}), expected one; give a checkpoint "
                "with one of them"
            )
        for place in places:
            result |= {name: part.place + rest for name in result if (rest := _rest(part, place, name))}
    return {
        name: _ATTENTION.sub(lambda match: f"{match[1]}{_ATTENTION_NAMES[match[2]]}.", new)
        for name, new in result.items()
    }


def in_diffusers_names(names: Iterable[str]) -> str | None:
    """The first key that has a name of diffusers' for a part of UNet or VAE."""
    return min(filter(_DIFFUSERS.search, names), default=None)


def refuse_unplaced(path: object, placed: Mapping[str, str]) -> None:
    """Refuse keys outside all parts, but for what changes no picture.

    Args:
        path: of the checkpoint.
        placed: what `originals` returned.

    Raises:
        AdapterError: names them.
    """
    parts = (UNET, VAE, TEXT_ENCODER)
    unplaced = sorted(
        name
        for name, new in placed.items()
        if not (
            new.startswith(parts) or not is_weight(name) or _BUFFERS.fullmatch(name) or without_meaning(name)
        )
    )
    if unplaced:
        more = f" and {len(unplaced) - 3} more" if len(unplaced) > 3 else ""
        raise AdapterError(
            f"{path} has keys that no part of Stable Diffusion reads: {', '.join(unplaced[:3])}{more}; give the base "
            "without them, and a LoRA or an embedding by --lora or --textual-inversion"
        )


def _places(part: _Part, names: Iterable[str]) -> list[str]:
    """What comes before a part's keys, wherever the file has one."""
    matches = (part.landmark.fullmatch(name) for name in names if is_weight(name))
    return [match["place"] for match in matches if match and not _NO_UNET.search(match["place"])]


def _rest(part: _Part, place: str, name: str) -> str:
    """How a key of a part at a place goes on; nothing for another key."""
    rest = name.removeprefix(place) if name.startswith(place) else ""
    # Without anything before it, CLIP's encoder looks like the VAE's.
    clip = part.place == VAE and rest.startswith("encoder.layers.")
    return rest if rest.startswith(part.heads) and not clip else ""
