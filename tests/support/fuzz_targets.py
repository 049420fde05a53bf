"""What is fuzzed: for each kind of file, a whole one, ways to damage it, and what reads it.

A case passes when its reader takes the file or raises one of this project's errors in one line.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import tiny_bundle
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import ValidationError
from random_graphs import sizes_target

from dreamcache.benchmarks.record import read_record
from dreamcache.runtime import Pipeline
from dreamcache.runtime.bundle.contract import CONTRACT_NAME, SchedulerKind, SchedulerSpec
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.cli.picture_text import drawn_with, read_drawn_with
from dreamcache.runtime.errors import DreamCacheError
from dreamcache.runtime.reference.prepare import prepare_reference
from dreamcache.runtime.sampling.prompts import PromptTokenizer
from dreamcache.runtime.sampling.schedulers import make_scheduler
from dreamcache.runtime.settings import check_prompt, resolve_settings

Case = Callable[[random.Random], None]
"""Makes one damaged input and reads it."""

ODD: list[Any] = [
    None, True, "", "x", [], {}, 0, -1, 1, 2, 0.5, 1e9, -1e9, 1e-300, 1e300, 2**31, 2**40, 2**63, 2**64, 10**400,
    "../x", "/etc/passwd", "a\x00b", "[/x]", "é" * 300, [[]], {"a": {}}, [0] * 1000,
]  # fmt: skip


def changed_json(value: Any, rng: random.Random) -> Any:
    """The same with one to three entries replaced, removed, doubled or scaled; what is doubled is a copy."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 3)):
        places = list(_places(value))
        if not places:
            return deepcopy(rng.choice(ODD))
        holder, key = rng.choice(places)
        kind = rng.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, list):
            holder.append(deepcopy(holder[key]))
        elif kind == 2 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
            holder[key] = type(holder[key])(holder[key] * rng.choice([-1, 0, 2, 3, 16, 1000]))
        elif kind == 3:
            holder[key] = deepcopy(holder[rng.choice(places_of(holder))])
        else:
            holder[key] = deepcopy(rng.choice(ODD))
    return value


def places_of(holder: Any) -> list[Any]:
    """Keys or indices of one container."""
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, (dict, list)):
        for key in places_of(value):
            yield value, key
            yield from _places(value[key])


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """The same with bytes changed, cut out, doubled or the end missing."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not changed:
            break
        # most of what a reader decides on stands at the beginning
        at = (
            min(int(rng.expovariate(1 / 200)), len(changed) - 1)
            if rng.random() < 0.5
            else rng.randrange(len(changed))
        )
        kind = rng.randrange(4)
        if kind == 0:
            changed[at] = rng.choice([0, 255, 127, 128, rng.randrange(256)])
        elif kind == 1:
            del changed[at : at + rng.randint(1, 40)]
        elif kind == 2:
            changed[at:at] = changed[at : at + rng.randint(1, 40)]
        else:
            del changed[at:]
    return bytes(changed)


def _toy() -> Image.Image:
    picture = np.full((24, 24, 3), 255, np.uint8)
    picture[6:18, 6:18] = (200, 30, 40)
    return Image.fromarray(picture)


def _draw(folder: Path) -> None:
    pipeline = Pipeline.load(folder, check_hashes=False)
    subject = pipeline.cache(_toy())
    pipeline.generate("a toy on the beach", subject, steps=2, seed=0, guidance_mode="classic")


def contract_target(folder: Path) -> Case:
    """`dreamcache.json`; read, and a picture drawn with it."""
    bundle = tiny_bundle.build(folder / "contract")
    whole = json.loads((bundle / CONTRACT_NAME).read_text(encoding="utf-8"))
    # What is written only where it is not the default.
    whole["architecture"] |= {"text_chunks": 1, "pooled_width": None, "reference": None}

    def case(rng: random.Random) -> None:
        (bundle / CONTRACT_NAME).write_text(json.dumps(changed_json(whole, rng)), encoding="utf-8")
        _draw(bundle)

    return case


def graph_target(folder: Path) -> Case:
    """The denoiser's ONNX file; read, opened and run."""
    bundle = tiny_bundle.build(folder / "graph")
    path = bundle / "unet/model.onnx"
    whole = path.read_bytes()

    def case(rng: random.Random) -> None:
        path.write_bytes(changed_bytes(whole, rng))
        tiny_bundle.seal(bundle)
        _draw(bundle)

    return case


def scheduler_target(_: Path) -> Case:
    """The contract's `scheduler` with every sampler, over a whole trajectory."""

    def case(rng: random.Random) -> None:
        fields: dict[str, Any] = {
            "num_train_timesteps": rng.choice([1, 2, 10, 50, 100, 999, 1000, 4000, 10**9]),
            "beta_schedule": rng.choice(["linear", "scaled_linear", "squaredcos_cap_v2", "other"]),
            "beta_start": rng.choice([1e-12, 1e-4, 0.00085, 0.5, 1.0, 2.0, rng.random()]),
            "beta_end": rng.choice([1e-12, 0.012, 0.02, 0.999, 1.0, 30.0, rng.random()]),
            "prediction_type": rng.choice(["epsilon", "v_prediction"]),
            "timestep_spacing": rng.choice(["leading", "trailing", "linspace"]),
            "steps_offset": rng.choice([0, 1, 5, 1000, 2**40]),
            "set_alpha_to_one": rng.random() < 0.5,
            "clip_sample": rng.random() < 0.5,
            "clip_sample_range": rng.choice([1e-9, 1.0, 1e30]),
            "rescale_betas_zero_snr": rng.random() < 0.3,
            "sigma_spacing": rng.choice(["timesteps", "karras", "exponential", "sgm_uniform"]),
            "original_inference_steps": rng.choice([1, 4, 50, 1000, 10**9]),
            "eta": rng.choice([0.0, 0.3, 1.0, 2.0]),
        }
        try:
            spec = SchedulerSpec(**fields)
        except ValidationError:
            return
        kind = rng.choice(get_args(SchedulerKind))
        scheduler = make_scheduler(spec, kind, rng.choice([1, 2, 3, 4, 8, 20, 50, 100, 1000]))
        draws = np.random.default_rng(0)
        latent = draws.standard_normal((1, 1, 2, 2)).astype(np.float32) * np.float32(
            scheduler.init_noise_sigma
        )
        for index in range(min(len(scheduler.timesteps), 30)):
            given = scheduler.scale_input(latent, index)
            latent = scheduler.step(
                0.9 * given, index, latent, lambda: draws.standard_normal((1, 1, 2, 2)).astype(np.float32)
            )
        if len(scheduler.timesteps) <= 30 and not np.isfinite(latent).all():
            raise AssertionError(f"{kind} {spec} gives {latent.ravel()[0]}")

    return case


def subject_target(folder: Path) -> Case:
    """A subject file."""
    pipeline = Pipeline.load(tiny_bundle.build(folder / "subject"))
    path = folder / "a.subject.safetensors"
    whole = pipeline.cache(_toy()).save(path).read_bytes()

    def case(rng: random.Random) -> None:
        path.write_bytes(changed_bytes(whole, rng))
        pipeline.load_subject(path)

    return case


def image_target(folder: Path) -> Case:
    """Reference pictures in five formats."""
    wholes = []
    for form, options in (
        ("PNG", {}),
        ("JPEG", {}),
        ("WEBP", {}),
        ("GIF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ):
        stream = BytesIO()
        _toy().save(stream, form, **options)
        wholes.append(stream.getvalue())
    path = folder / "picture"

    def case(rng: random.Random) -> None:
        path.write_bytes(changed_bytes(rng.choice(wholes), rng))
        prepare_reference(path, size=16)

    return case


def tokenizer_target(folder: Path) -> Case:
    """`tokenizer.json`, and prompts through it."""
    folder = tiny_bundle.build(folder / "tokenizer")
    from tokenizers import Tokenizer  # type: ignore[import-untyped]

    bundle = open_bundle(folder)
    path = folder / "tokenizer/tokenizer.json"
    tokenizer: Tokenizer = PromptTokenizer.of(bundle)._tokenizer
    whole = json.loads(tokenizer.to_str())
    tiny_bundle.seal(folder)

    def case(rng: random.Random) -> None:
        path.write_text(json.dumps(changed_json(whole, rng)), encoding="utf-8")
        tiny_bundle.seal(folder)
        reader = PromptTokenizer.of(open_bundle(folder, check_hashes=False))
        reader.encode(
            "".join(rng.choice("a robot снег\u0301 9!'s\x00") for _ in range(rng.choice([0, 5, 2000])))
        )

    return case


def record_target(folder: Path) -> Case:
    """A record of `dreamcache bench`."""
    committed = Path(__file__).parents[2] / "docs/results"
    path = folder / "record.json"
    records = [p for p in committed.glob("*.json") if '"schema_version"' in p.read_text(encoding="utf-8")]
    wholes = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(records)]
    assert wholes

    def case(rng: random.Random) -> None:
        text = json.dumps(changed_json(rng.choice(wholes), rng))
        path.write_bytes(changed_bytes(text.encode(), rng) if rng.random() < 0.3 else text.encode())
        read_record(path)

    return case


def settings_target(folder: Path) -> Case:
    """Settings inside a PNG, as `generate --from` reads them."""
    contract = Pipeline.load(tiny_bundle.build(folder / "settings")).contract
    drawn = drawn_with(contract, "a robot", resolve_settings(contract, seed=1), "exact", 1)
    path, whole = folder / "drawn.png", json.loads(drawn.model_dump_json())

    def case(rng: random.Random) -> None:
        texts = PngInfo()
        texts.add_text("dreamcache", json.dumps(changed_json(whole, rng)))
        _toy().save(path, "PNG", pnginfo=texts)
        if rng.random() < 0.3:
            path.write_bytes(changed_bytes(path.read_bytes(), rng))
        known = read_drawn_with(path)
        check_prompt(known.prompt, resolve_settings(contract, **known.options()))

    return case


TARGETS: dict[str, Callable[[Path], Case]] = {
    "contract": contract_target,
    "scheduler": scheduler_target,
    "subject": subject_target,
    "image": image_target,
    "tokenizer": tokenizer_target,
    "record": record_target,
    "graph": graph_target,
    "settings": settings_target,
    "sizes": sizes_target,
}


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Errors of this project pass when they are one line; warnings are not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except DreamCacheError as error:
            if "\n" in str(error):
                raise ValueError(f"an error of several lines: {error}") from error
