"""`coreml/README.md` of a bundle: what an app developer needs to call the packages, with the bundle's own numbers."""

from __future__ import annotations

from collections.abc import Mapping
from string import Template

from dreamcache.export.coreml.convert import PRECISE, coreml_name
from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.bundle.contract import GuidanceDefaults, SchedulerSpec, VaeSpec
from dreamcache.runtime.bundle.coreml import CoreMLPart

_PAGE = Template(
    """# $name for Core ML

Made by `dreamcache export`; `../dreamcache.json` has the same facts for programs. From $target on, in
$compute, UNet weights as $weights, attention `$attention`. Shapes are fixed.$pieces

$tables
## Text

$prompts

## The constants

| | |
|---|---|
| prediction | $prediction |
| betas | $beta_schedule from $beta_start to $beta_end, $train_steps training timesteps |
| caching | once a subject, at timestep $cache_timestep: `cache` of `sqrt(ᾱ) · latent + sqrt(1 - ᾱ) · noise` |
| latent | (VAE encoder's mean - $shift) · $scaling; the VAE decoder takes `latent / $scaling + $shift` |
| guidance | $guidance |
| `reference_strength` | 0 is the stock model, exactly; 1 is DreamCache |

## The loop, in Swift

Not compiled where this was written: read it as the order of calls. `scheduler`, `features`, `array` and `guided` are
the app's own; apple/ml-stable-diffusion has their like. A `.subject.safetensors` file of `dreamcache cache` holds the
same keys and values under the contract's names, so a subject can also come from elsewhere.

```swift
$swift
```
"""
)

_TWO_FUNCTIONS = """let configuration = MLModelConfiguration()
configuration.computeUnits = $units
configuration.functionName = "cache"
var cacheModel: MLModel? = try MLModel(contentsOf: unetURL, configuration: configuration)
configuration.functionName = "denoise"
let denoiser = try MLModel(contentsOf: unetURL, configuration: configuration)"""
_TWO_PACKAGES = """let configuration = MLModelConfiguration()
configuration.computeUnits = $units
var cacheModel: MLModel? = try MLModel(contentsOf: unetCacheURL, configuration: configuration)
let denoiser = try MLModel(contentsOf: unetURL, configuration: configuration)"""
_LOOP = """
// Once a subject: keys and values of every site, [1, tokens, d].
let subject = try cacheModel!.prediction(from: features(["latent": noisedReference]))
cacheModel = nil

func predict(_ latent: MLMultiArray, _ timestep: Float, _ text: MLMultiArray, strength: Float) throws -> MLMultiArray {
    var inputs: [String: Any] = [
        "latent": latent, "timestep": array([timestep]), "text": text, "reference_strength": array([strength]),
    ]
    for name in subject.featureNames { inputs[name] = subject.featureValue(for: name) }
    return try denoiser.prediction(from: features(inputs)).featureValue(for: "prediction")!.multiArrayValue!
}

for timestep in scheduler.timesteps {
    let stock = try predict(latent, timestep, nullText, strength: 0)
    let reference = try predict(latent, timestep, nullText, strength: 1)
    let both = try predict(latent, timestep, promptText, strength: 1)
    // Dual guidance, in 32 bits: stock + text · (both - reference) + ref · (reference - stock).
    latent = scheduler.step(guided(stock, reference, both, text: $text, reference: $ref), timestep, latent)
}"""


def write_guide(
    part: CoreMLPart,
    architecture: Architecture,
    scheduler: SchedulerSpec,
    guidance: GuidanceDefaults,
    vae: VaeSpec,
    cache_timestep: int,
    prompts: str,
) -> str:
    """The page's text; `prompts` says how a prompt becomes ids."""
    merged = any("cache" in model.functions for model in part.models.values())
    units = ".cpuAndNeuralEngine" if part.attention == "split_einsum" else ".cpuAndGPU"
    swift = Template((_TWO_FUNCTIONS if merged else _TWO_PACKAGES) + "\n" + _LOOP).substitute(
        units=units, text=f"{guidance.guidance_scale:g}", ref=f"{guidance.reference_guidance_scale:g}"
    )
    return _PAGE.substitute(
        name=architecture.name,
        target=part.target,
        compute=part.compute,
        weights=part.weights,
        attention=part.attention,
        pieces=_pieces(part),
        tables="\n".join(_tables(part)),
        prediction=scheduler.prediction_type,
        beta_schedule=scheduler.beta_schedule,
        beta_start=f"{scheduler.beta_start:g}",
        beta_end=f"{scheduler.beta_end:g}",
        train_steps=scheduler.num_train_timesteps,
        cache_timestep=cache_timestep,
        prompts=prompts,
        scaling=f"{vae.scaling_factor:g}",
        shift=f"{vae.shift_factor or 0.0:g}",
        guidance=_guidance(guidance),
        swift=swift,
    )


def _tables(part: CoreMLPart) -> list[str]:
    lines: list[str] = []
    for name, model in part.models.items():
        for function, spec in model.functions.items():
            lines += [f"## `{name}.mlpackage`, function `{function}`", "", "| | name | shape | type | what |"]
            lines.append("|---|---|---|---|---|")
            for side, tensors in (("in", spec.inputs), ("out", spec.outputs)):
                for tensor in tensors:
                    shape = " × ".join(str(size) for size in tensor.shape)
                    kind = _TYPES.get(tensor.dtype, "float16") if tensor.name not in PRECISE else "float32"
                    lines.append(
                        f"| {side} | `{coreml_name(tensor.name)}` | {shape} | {kind} | {tensor.meaning} |"
                    )
            lines.append("")
    return lines


def _pieces(part: CoreMLPart) -> str:
    """What chunks and further resolutions ask of the caller."""
    said = ""
    if len(part.graphs["denoise"]) > 1:
        names = " and ".join(f"`{piece.model}`" for piece in part.graphs["denoise"])
        said += (
            f" The UNet is in chunks, {names}: each takes what its tables below name, the second one also what the "
            "first returned. The loop below shows one model; call the two in turn."
        )
    sizes = sorted(name.removeprefix("denoise_") for name in part.graphs if name.startswith("denoise_"))
    if sizes:
        said += f" For {', '.join(sizes)} px take the functions or packages whose names end in it."
    return said


_TYPES: Mapping[str, str] = {"int64": "int32", "int32": "int32"}


def _guidance(guidance: GuidanceDefaults) -> str:
    return (
        f"{guidance.mode}: text {guidance.guidance_scale:g}, reference {guidance.reference_guidance_scale:g}; "
        f"{guidance.scheduler}, {guidance.steps} steps"
    )
