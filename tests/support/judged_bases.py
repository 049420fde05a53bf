"""The judge of altered bases: a bundle's picture against diffusers' pipeline on the same folder, or one line."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from altered_bases import AlteredBase, joined_file
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from tiny_models import TEXT_LENGTH, write_tiny_sdxl

from dreamcache.export import bundle
from dreamcache.export.errors import ExportError
from dreamcache.export.options import OnnxOptions
from dreamcache.export.source import Source, loaded_base, random_adapters
from dreamcache.models.bases.base import load_base
from dreamcache.models.bases.distillation import LCM_GUIDANCE_SCALE
from dreamcache.models.bases.joined.additions import Additions
from dreamcache.models.checkpoint import save_adapters
from dreamcache.models.errors import AdapterError
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.sampling.noise import noise_source
from dreamcache.runtime.sampling.prompts import PromptTokenizer, PromptWarning
from dreamcache.runtime.sampling.schedulers import make_scheduler

PROMPTS = ["a robot", "", "a <my-toy> on a cat, 1990", "A <My-Toy>!"]
SEED, GUIDANCE = 3, 7.5
EQUAL_DB = 55.0
# Entries that are not in a graph but in the contract, or nowhere.
_NOT_TRACED = ("scaling_factor", "force_upcast", "sample_size")
_STOCHASTIC = ("lcm", "tcd", "euler_ancestral_discrete", "dpmsolver_multistep")


class Outcome(NamedTuple):
    """Of one altered base: "equal", "different", "refused" or "broken"; "skipped" where it needs graphs of its own.

    diffusers: the scheduler's class there. ours: sampler and spacing, or the refusal. db: of the two pictures.
    """

    case: str
    outcome: str
    diffusers: str | None = None
    ours: str | None = None
    db: float | None = None


class Judge:
    """Exports altered bases; each distinct set of graphs is traced once, contract and tokenizer every time."""

    def __init__(self, base: Path, room: Path, steps: int, own_graphs: bool = True) -> None:
        self.bases = {"sd": base}
        self.room, self.steps, self.own_graphs = room, steps, own_graphs
        self._written: dict[str, tuple[Path, Any]] = {}
        self._theirs: dict[str, Any] = {}

    def judged(self, case: AlteredBase, folder: Path) -> Outcome:
        """Alter a copy of the base at `folder`, export it, and compare with diffusers where it exports."""
        if case.own_graphs and not self.own_graphs:
            return Outcome(case.name, "skipped")
        base = self._base(case.kind)
        shutil.copytree(base, folder)
        case.alter(folder)
        out, known = folder.parent / f"{folder.name}-bundle", len(self._written)
        try:
            with warnings.catch_warnings(), self._shared_graphs():
                warnings.simplefilter("ignore")
                bundle.export_bundle(self._source(case, folder), out, onnx=OnnxOptions(attention="mha"))
        except _OwnGraphsError:
            return Outcome(case.name, "skipped")
        except (AdapterError, ExportError) as error:
            line = _without_places(str(error), folder)
            late = "\n" in line or len(self._written) > known or out.exists()
            return Outcome(case.name, "refused late" if late else "refused", None, line)
        except Exception as error:
            return Outcome(case.name, "broken", None, f"{type(error).__name__}: {error}"[:300])
        ours = Pipeline.load(out, threads=1, check_hashes=False)
        try:
            theirs = self._pipeline(case, folder)
        except Exception as error:
            line = " ".join(f"does not load: {type(error).__name__}: {error}"[:200].split())
            return Outcome(case.name, "different", line, ours.contract.guidance.scheduler)
        try:
            return self._compared(case, theirs, ours)
        except Exception as error:
            line = " ".join(f"does not draw: {type(error).__name__}: {error}"[:200].split())
            return Outcome(case.name, "different", line, ours.contract.guidance.scheduler)

    def _base(self, kind: str) -> Path:
        if kind not in self.bases:
            self.bases[kind] = write_tiny_sdxl(self.room / kind)
        return self.bases[kind]

    def _source(self, case: AlteredBase, folder: Path) -> Source:
        if case.joins is None:
            base = loaded_base(str(folder))
            return Source("tiny", base, random_adapters(base))
        adapters = self.room / f"{case.kind}.safetensors"
        if not adapters.is_file():
            adapters.parent.mkdir(parents=True, exist_ok=True)
            save_adapters(adapters, random_adapters(load_base(self._base(case.kind))))
        given = f"{joined_file(folder)}:{case.given}" if case.given else str(joined_file(folder))
        joined = Additions(loras=(given,)) if case.joins == "lora" else Additions(inversions=(given,))
        return Source.load(str(folder), adapters, additions=joined)

    def _compared(self, case: AlteredBase, theirs: Any, ours: Pipeline) -> Outcome:
        contract = ours.contract
        same = True
        for which, tokenizer in _tokenizers(ours).items():
            own = getattr(theirs, which)
            texts = [theirs.maybe_convert_prompt(prompt, own) for prompt in PROMPTS]
            wanted = own(texts, padding="max_length", max_length=TEXT_LENGTH, truncation=True).input_ids
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PromptWarning)
                same &= [tokenizer.encode(prompt)[0].tolist() for prompt in PROMPTS] == wanted
        prompt = PROMPTS[2] if case.joins == "textual_inversion" else PROMPTS[0]
        shape = contract.architecture
        noise = noise_source(SEED, shape.latent_shape)
        latents = torch.from_numpy(noise())
        # A UNet that takes a guidance scale is drawn without guidance, at the scale that was folded into it.
        takes_scale = theirs.unet.config.time_cond_proj_dim is not None
        with _their_noise(lambda *_, **__: torch.from_numpy(noise())):
            expected = theirs(
                prompt,
                height=shape.image_height,
                width=shape.image_width,
                num_inference_steps=self.steps,
                guidance_scale=LCM_GUIDANCE_SCALE if takes_scale else GUIDANCE,
                latents=latents,
                output_type="np",
            ).images[0]
        sampler, spec = contract.guidance.scheduler, contract.scheduler
        timesteps = make_scheduler(spec, sampler, self.steps).timesteps
        asked = theirs.scheduler.timesteps.numpy()
        same &= timesteps.shape == asked.shape and bool(np.allclose(timesteps, asked, atol=1e-2))
        received = ours.generate(
            prompt,
            steps=self.steps,
            seed=SEED,
            guidance_mode="none" if takes_scale else "classic",
            guidance_scale=GUIDANCE,
        )
        error = float(np.mean((np.asarray(received, np.float64) / 255 - expected) ** 2))
        db = 99.0 if error == 0 else -10 * math.log10(error)
        said = sampler if spec.sigma_spacing == "timesteps" else f"{sampler}, {spec.sigma_spacing}"
        outcome = "equal" if same and db >= EQUAL_DB else "different"
        return Outcome(case.name, outcome, type(theirs.scheduler).__name__, said, round(db, 1))

    def _pipeline(self, case: AlteredBase, folder: Path) -> Any:
        """diffusers' pipeline on a folder, with what is joined; parts that were not altered are loaded once."""
        base = self._base(case.kind)
        if (
            not (folder / "tokenizer" / "vocab.json").is_file()
            and (folder / "tokenizer/tokenizer.json").is_file()
        ):
            # The transformers installed cannot read the newer form, which holds the same tokenizer.
            shutil.copytree(base / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
        kind: Any = StableDiffusionXLPipeline if case.kind == "sdxl" else StableDiffusionPipeline
        # What no picture from text needs may be absent.
        idle: dict[str, Any] = {"feature_extractor": None, "image_encoder": None}
        extra = idle | ({"add_watermarker": False} if case.kind == "sdxl" else {"safety_checker": None})
        if any(folder.glob("*/*.fp16.safetensors")):
            extra["variant"] = "fp16"
        if case.kind not in self._theirs:
            first = kind.from_pretrained(base, **extra)
            models = ("unet", "vae", "text_encoder", "text_encoder_2")
            self._theirs[case.kind] = {part: getattr(first, part) for part in models if hasattr(first, part)}
        kept = {
            part: model
            for part, model in self._theirs[case.kind].items()
            if case.joins is None
            and _digest(folder / part) == _digest(base / part)
            and _stated(folder, part) == _stated(base, part)
        }
        theirs = kind.from_pretrained(folder, **extra, **kept)
        theirs.set_progress_bar_config(disable=True)
        if case.joins == "lora":
            theirs.load_lora_weights(str(joined_file(folder)))
            theirs.fuse_lora(lora_scale=float(case.given or 1))
        elif case.joins == "textual_inversion":
            theirs.load_textual_inversion(str(joined_file(folder)), token=case.given)
        return theirs

    @contextmanager
    def _shared_graphs(self) -> Iterator[None]:
        write = bundle.write_onnx

        def written(source: Source, folder: Path, architecture: Any, *rest: Any) -> Any:
            key = _traced(source, architecture)
            if key not in self._written:
                if self._written and not self.own_graphs:
                    raise _OwnGraphsError
                before = {path for path in folder.rglob("*") if path.is_file()}
                result = write(source, folder, architecture, *rest)
                store = self.room / key
                _link(folder, store, {path for path in folder.rglob("*") if path.is_file()} - before)
                self._written[key] = store, result
            else:
                store, result = self._written[key]
                _link(store, folder, {path for path in store.rglob("*") if path.is_file()})
            return result

        bundle.write_onnx = written
        try:
            yield
        finally:
            bundle.write_onnx = write


def _tokenizers(ours: Pipeline) -> dict[str, PromptTokenizer]:
    """By diffusers' names."""
    texts = {"tokenizer": ours.contract.text, "tokenizer_2": ours.contract.text_2}
    return {name: PromptTokenizer.of(ours.bundle, text) for name, text in texts.items() if text is not None}


def _without_places(text: str, folder: Path) -> str:
    return text.replace(str(joined_file(folder)), "FILE").replace(str(folder), "BASE")


def _stated(folder: Path, part: str) -> object:
    return json.loads((folder / "model_index.json").read_text(encoding="utf-8")).get(part)


class _OwnGraphsError(Exception):
    """A base whose graphs are not those of the unaltered one."""


def _link(source: Path, target: Path, files: set[Path]) -> None:
    for file in files:
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, place)


def _traced(source: Source, architecture: Any) -> str:
    """A digest of everything that a graph is made of."""
    digest = hashlib.sha256(architecture.model_dump_json().encode())
    second = source.base.second
    models = (source.base.unet, source.base.vae, source.base.text_encoder)
    for model in models if second is None else (*models, second.encoder):
        config = model.config if isinstance(model.config, dict) else model.config.to_dict()
        kept = {name: value for name, value in config.items() if name not in _NOT_TRACED and name[0] != "_"}
        digest.update(json.dumps(kept, sort_keys=True, default=str).encode())
        for name, tensor in model.state_dict().items():
            digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _digest(part: Path) -> str:
    if not part.is_dir():
        return ""
    files = sorted(path for path in part.iterdir() if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@contextmanager
def _their_noise(draw: Any) -> Iterator[None]:
    """diffusers' samplers draw the runner's noise."""
    modules = [import_module(f"diffusers.schedulers.scheduling_{name}") for name in _STOCHASTIC]
    kept = [module.randn_tensor for module in modules]
    for module in modules:
        module.randn_tensor = draw
    try:
        yield
    finally:
        for module, function in zip(modules, kept, strict=True):
            module.randn_tensor = function
