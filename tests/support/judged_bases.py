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
from altered_bases import AlteredBase
from diffusers import StableDiffusionPipeline

from dreamcache.export import bundle
from dreamcache.export.errors import ExportError
from dreamcache.export.source import Source, random_adapters
from dreamcache.models.bases.base import load_base
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
    """Of one altered base: "equal", "different" or "refused"; "skipped" where it needs graphs of its own.

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
        self.base, self.room, self.steps, self.own_graphs = base, room, steps, own_graphs
        self._written: dict[str, tuple[Path, Any]] = {}
        self._theirs: dict[str, Any] = {}

    def judged(self, case: AlteredBase, folder: Path) -> Outcome:
        """Alter a copy of the base at `folder`, export it, and compare with diffusers where it exports."""
        shutil.copytree(self.base, folder)
        case.alter(folder)
        out, known = folder.parent / f"{folder.name}-bundle", len(self._written)
        try:
            with warnings.catch_warnings(), self._shared_graphs():
                warnings.simplefilter("ignore")
                base = load_base(folder)
                source = Source("tiny", base, random_adapters(base))
                bundle.export_bundle(source, out)
        except _OwnGraphsError:
            return Outcome(case.name, "skipped")
        except (AdapterError, ExportError) as error:
            line = str(error).replace(str(folder), "BASE")
            late = "\n" in line or len(self._written) > known or out.exists()
            return Outcome(case.name, "refused late" if late else "refused", None, line)
        return self._compared(case.name, folder, Pipeline.load(out, threads=1, check_hashes=False))

    def _compared(self, name: str, folder: Path, ours: Pipeline) -> Outcome:
        theirs, contract = self._pipeline(folder), ours.contract
        wanted = theirs.tokenizer(PROMPTS, padding="max_length", max_length=16, truncation=True).input_ids
        tokenizer = PromptTokenizer.of(ours.bundle)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PromptWarning)
            same = [tokenizer.encode(prompt)[0].tolist() for prompt in PROMPTS] == wanted
        shape = contract.architecture
        noise = noise_source(SEED, shape.latent_shape)
        latents = torch.from_numpy(noise())
        with _their_noise(lambda *_, **__: torch.from_numpy(noise())):
            expected = theirs(
                PROMPTS[0],
                height=shape.image_height,
                width=shape.image_width,
                num_inference_steps=self.steps,
                guidance_scale=GUIDANCE,
                latents=latents,
                output_type="np",
            ).images[0]
        sampler, spec = contract.guidance.scheduler, contract.scheduler
        timesteps = make_scheduler(spec, sampler, self.steps).timesteps
        asked = theirs.scheduler.timesteps.numpy()
        same &= timesteps.shape == asked.shape and bool(np.allclose(timesteps, asked, atol=1e-2))
        received = ours.generate(
            PROMPTS[0], steps=self.steps, seed=SEED, guidance_mode="classic", guidance_scale=GUIDANCE
        )
        error = float(np.mean((np.asarray(received, np.float64) / 255 - expected) ** 2))
        db = 99.0 if error == 0 else -10 * math.log10(error)
        said = sampler if spec.sigma_spacing == "timesteps" else f"{sampler}, {spec.sigma_spacing}"
        outcome = "equal" if same and db >= EQUAL_DB else "different"
        return Outcome(name, outcome, type(theirs.scheduler).__name__, said, round(db, 1))

    def _pipeline(self, folder: Path) -> Any:
        """diffusers' pipeline on a folder; parts that were not altered are loaded once."""
        if not (folder / "tokenizer" / "vocab.json").is_file():
            # The transformers installed cannot read the newer form, which holds the same tokenizer.
            shutil.copytree(self.base / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
        if not self._theirs:
            first = StableDiffusionPipeline.from_pretrained(self.base, safety_checker=None)
            self._theirs = {part: getattr(first, part) for part in ("unet", "vae", "text_encoder")}
        kept = {
            part: model
            for part, model in self._theirs.items()
            if _digest(folder / part) == _digest(self.base / part)
        }
        theirs = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, **kept)
        theirs.set_progress_bar_config(disable=True)
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
    for model in (source.base.unet, source.base.vae, source.base.text_encoder):
        config = model.config if isinstance(model.config, dict) else model.config.to_dict()
        kept = {name: value for name, value in config.items() if name not in _NOT_TRACED and name[0] != "_"}
        digest.update(json.dumps(kept, sort_keys=True, default=str).encode())
        for name, tensor in model.state_dict().items():
            digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _digest(part: Path) -> str:
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
