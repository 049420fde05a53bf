"""Few-step LoRAs: how their authors sample them, by the file's name or header, since its weights do not say.

Sources: the model cards of LCM-LoRA (Luo et al. 2023, arXiv 2311.05556), Hyper-SD (Ren et al. 2024, arXiv 2404.13686)
and TCD (Zheng et al. 2024, arXiv 2402.19159).
"""

from __future__ import annotations

import re
from pathlib import Path

from dreamcache.models.bases.distillation import FewSteps
from dreamcache.models.bases.original.stored import read_metadata

# Names that say nothing: then the folder's counts, in the Hub's cache the repository's.
_NAMELESS = ("pytorch_lora_weights", "adapter_model", "diffusion_pytorch_model", "model")
_TITLES = ("modelspec.title", "ss_output_name")
_REPOSITORY = "models--"


def recognise_few_steps(path: Path) -> FewSteps | None:
    """What a LoRA of few steps wants; None for every other, and for one that does not say what it is.

    Args:
        path: of a ``.safetensors`` file.
    """
    metadata = read_metadata(path)
    names = [path.stem, *(metadata[title] for title in _TITLES if title in metadata)]
    if path.stem in _NAMELESS:
        repository = [
            folder.name for folder in path.absolute().parents if folder.name.startswith(_REPOSITORY)
        ]
        names += [path.absolute().parent.name, *repository]
    return next((found for found in map(_named, names) if found is not None), None)


def _named(name: str) -> FewSteps | None:
    words = re.findall(r"[a-z]+|\d+", name.lower())
    count = re.search(r"(\d+)[ _-]?steps?", name.lower())
    steps = int(count[1]) if count is not None else 4
    if "hyper" in words and words[words.index("hyper") + 1 :][:1] in (["sd"], ["sdxl"]):
        if steps == 1:
            # The unified one, of 1 to 8 steps.
            return FewSteps("tcd", eta=1.0)
        return FewSteps("hyper", steps, guidance_scale=5.0 if "cfg" in words else 1.0)
    if "tcd" in words:
        return FewSteps("tcd", steps)
    return FewSteps("lcm", steps) if "lcm" in words else None
