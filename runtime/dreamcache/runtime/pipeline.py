"""From a reference picture and a prompt to pictures: the stages of `dreamcache`, one after the other.

    reference -> VAE encoder -> noise at t = 1 -> caching graph -> subject
    prompt -> text encoder; noise -> denoiser (each step, each guidance branch) -> VAE decoder -> picture

Only the graph of the running stage is in memory, unless sessions are kept.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamcache.runtime.arguments import check_functions, latents_of, named, pixels_of, switch
from dreamcache.runtime.bundle.contract import Contract
from dreamcache.runtime.bundle.folder import Bundle, open_bundle
from dreamcache.runtime.errors import BundleError
from dreamcache.runtime.progress import Progress
from dreamcache.runtime.reference.picture_sources import Source
from dreamcache.runtime.reference.prepare import prepare_reference
from dreamcache.runtime.reference.salient import chosen_segmenter
from dreamcache.runtime.reference.segmenter import find_subject
from dreamcache.runtime.sampling.decoding import check_tiled, open_decoder, to_image
from dreamcache.runtime.sampling.denoiser import Conditioning, Denoiser, Latent
from dreamcache.runtime.sampling.fast_math import check_fast_math
from dreamcache.runtime.sampling.noise import noise_source, noised_reference
from dreamcache.runtime.sampling.prompt_weights import check_weights
from dreamcache.runtime.sampling.prompts import PromptTokenizer, conditioning, embedded
from dreamcache.runtime.sampling.schedulers import make_scheduler
from dreamcache.runtime.sampling.trajectory import Step, trajectory
from dreamcache.runtime.sessions.profiles import Profile, check_profile
from dreamcache.runtime.sessions.providers import Math, check_math, choose_providers, warn_of_attention
from dreamcache.runtime.sessions.session import SessionOpener, check_finite, check_threads
from dreamcache.runtime.settings import (
    CallOptions,
    check_text,
    own_names,
    resolve_settings,
    warn_of_no_effect,
)
from dreamcache.runtime.subject import Subject, join_subjects, listed_subjects, load_subject

if TYPE_CHECKING:
    from typing_extensions import Unpack

Observer = Callable[[str, float], None]
"""Called with a stage ("text", "segment", "vae_encode", "cache", "step", "vae_decode") and the seconds it took."""


class Pipeline:
    """A loaded bundle. `Pipeline.load` makes one."""

    def __init__(self, bundle: Bundle, sessions: SessionOpener, observe: Observer | None = None) -> None:
        self.bundle, self.sessions, self._observe = bundle, sessions, observe
        texts = (bundle.contract.text, bundle.contract.text_2)
        self._tokenizers = [PromptTokenizer.of(bundle, text) for text in texts if text is not None]

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        keep_sessions: bool = False,
        check_hashes: bool = True,
        profile: Profile = "speed",
        math: Math = "exact",
        progress: Progress | None = None,
        observe: Observer | None = None,
    ) -> Pipeline:
        """Open and check a bundle; no graph is loaded yet.

        path: a folder, owner/name on the Hub, or "mini", the bundle that comes with the runner.
        providers: ONNX Runtime's, by short or full name, in order of preference, or openvino alone; None is the CPU.
        threads: within an operator; None leaves it to the engine. keep_sessions: leave every graph open after its
        first use: many pictures sooner, in the memory of all graphs together. check_hashes: False compares sizes only.
        profile: "speed", or "memory" to leave the weights in their files. math: "exact", or "fast" for the CPU's own
        16 bits (`check_fast_math`). progress: called while files are hashed. observe: called with each stage's seconds.
        Raises: BundleError for a damaged bundle, SettingsError for a provider that is absent or math that is refused.
        Warns: ProviderWarning for a provider that leaves a part of the bundle to the CPU.
        """
        check_threads(threads)
        check_functions(observe=observe)
        keep, chosen = switch("keep_sessions", keep_sessions), choose_providers(providers)
        check_profile(profile)
        check_math(math, chosen)
        bundle = open_bundle(path, switch("check_hashes", check_hashes), progress)
        warn_of_attention(bundle.contract, chosen)
        sessions = SessionOpener(bundle, chosen, threads, keep, profile, math=math)
        if math == "fast":
            check_fast_math(sessions)
        return cls(bundle, sessions, observe)

    @property
    def contract(self) -> Contract:
        """The bundle's contract."""
        return self.bundle.contract

    def cache(
        self,
        image: Source,
        mask: Source | None = None,
        *,
        max_pixels: int | None = None,
        segmenter: str | os.PathLike[str] | None = None,
    ) -> Subject:
        """Run the caching graph on one reference picture, whose background is taken away first.

        image, mask: a path, bytes, a binary file, a Pillow image or a numpy array (`reference.picture_sources.Source`).
        max_pixels: of the largest picture that is decoded; by default 25 million. segmenter: a salient-object model
        in the place of the bundle's, `FILE.onnx` or `FILE.onnx:FORM` (`reference.salient`).
        Raises: ImageError for a picture or mask that cannot be used, SettingsError for such a segmenter.
        Warns: PictureWarning for colours that are not converted to sRGB.
        """
        contract = self.contract
        own = None if contract.graphs.segmenter is None else self.segment
        segment, by = chosen_segmenter(segmenter, own, self.sessions.threads)
        size = contract.architecture.reference_side
        reference = prepare_reference(
            image, mask, size=size, max_pixels=max_pixels, segment=segment, segmenter=by
        )
        latent = self.noised(self.encode(reference.image))
        with self.sessions.open("cache") as graph, self._timed("cache"):
            tensors = graph.run({"latent": latent})
        check_finite("caching", tensors)
        made_by, timestep = contract.fingerprints.subject(), contract.cache_timestep
        return Subject(tensors, made_by, timestep, background=reference.how, thumbnail=reference.image)

    def segment(self, picture: Image.Image) -> Image.Image | None:
        """The mask "L" of the subject of a picture "RGB", by the bundle's segmenter; None where it finds none.

        Raises: BundleError for a bundle without one.
        """
        if (spec := self.contract.graphs.segmenter) is None:
            raise BundleError("a bundle with a segmenter is expected, received one without; give a mask")
        with self.sessions.open("segmenter") as graph, self._timed("segment"):
            given, made = spec.inputs[0].name, spec.outputs[0].name
            return find_subject(picture, spec, lambda colours: graph.run({given: colours})[made])

    def load_subject(self, path: str | os.PathLike[str]) -> Subject:
        """Read a subject file; "memory" maps it. Raises: SubjectError when damaged or of another bundle."""
        return load_subject(path, self.contract, mapped=self.sessions.profile == "memory")

    @overload
    def generate(
        self,
        prompt: str,
        subject: Subject | Sequence[Subject] | None = None,
        *,
        num_images: None = None,
        tiled_vae: bool | None = None,
        **options: Unpack[CallOptions],
    ) -> Image.Image: ...

    @overload
    def generate(
        self,
        prompt: str,
        subject: Subject | Sequence[Subject] | None = None,
        *,
        num_images: int,
        tiled_vae: bool | None = None,
        **options: Unpack[CallOptions],
    ) -> list[Image.Image]: ...

    def generate(
        self,
        prompt: str,
        subject: Subject | Sequence[Subject] | None = None,
        *,
        num_images: int | None = None,
        tiled_vae: bool | None = None,
        **options: Unpack[CallOptions],
    ) -> Image.Image | list[Image.Image]:
        """Pictures of `prompt` with `subject` in them; without a subject, the stock model's.

        subject: one, or several (`Architecture.max_references`): references of one thing, or of several.
        num_images: None gives one picture, a number a list of as many. tiled_vae: see `decode`.
        options: see `CallOptions`.
        Raises: SettingsError, SubjectError, BundleError. Warns: PromptWarning of what is cut, and SettingsWarning.
        """
        if switch("tiled_vae", tiled_vae):
            check_tiled(self.contract.graphs)
        plain, count, told = own_names(options, num_images)
        final: Latent | None = None
        for step in self.denoise(prompt, subject, num_images=count, callback_on_step_end=told, **plain):
            final = step.latent
        assert final is not None
        images = self.decode(final, tiled_vae)
        return images[0] if count is None else images

    def denoise(
        self,
        prompt: str,
        subject: Subject | Sequence[Subject] | None = None,
        *,
        num_images: int | None = None,
        **options: Unpack[CallOptions],
    ) -> Iterator[Step]:
        """The steps of `generate`, one at a time; closing the generator cancels and frees the denoiser.

        Settings are checked here, before the first step is asked for. Raises and warns as `generate`.
        """
        check_text("prompt", prompt)
        plain, count, told = own_names(options, num_images)
        check_weights([prompt, plain.get("negative_prompt")], bool(plain.get("prompt_weights")))
        settings = resolve_settings(self.contract, count, **plain)
        subjects = listed_subjects(subject)
        cache = None if subjects is None else join_subjects(subjects, self.contract)
        warn_of_no_effect(settings, cache is not None, plain)
        scheduler = make_scheduler(
            self.contract.scheduler, settings.scheduler, settings.steps, settings.sigma_spacing
        )

        def run() -> Iterator[Step]:
            texts = self.embed({"prompt": prompt, "null": settings.negative_prompt}, settings.prompt_weights)
            noise = noise_source(settings.seed, self.contract.architecture.latent_shape, settings.num_images)
            every = settings.step_cache
            with ExitStack() as stack:
                graph = stack.enter_context(self.sessions.open("denoiser"))
                shallow = None if every == 1 else stack.enter_context(self.sessions.open("shallow"))
                denoiser = Denoiser(graph, self.contract.architecture, texts, cache, shallow, every)
                steps = trajectory(denoiser, scheduler, settings.guidance, noise)
                for _ in range(settings.steps):
                    with self._timed("step"):
                        step = next(steps)
                    if told is not None:
                        told(self, step.index, step.timestep, {"latents": step.latent})
                    yield step

        return run()

    def embed(self, prompts: Mapping[str, str], weighted: bool = False) -> dict[str, Conditioning]:
        """What the denoiser reads of prompts, by the names given; "null" is the text that guidance leads away from.

        weighted: read `(word:1.3)` as a weight (`sampling.prompt_weights`), else as text.
        Warns: PromptWarning for a prompt that is cut.
        """
        outputs: dict[str, list[NDArray[Any]]] = {name: [] for name in named("prompts", prompts)}
        names = ("text_encoder", "text_encoder_2")
        for tokenizer, graph_name, spec in zip(
            self._tokenizers, names, self.contract.graphs.text_encoders, strict=False
        ):
            tokens = {n: tokenizer.tokens(check_text(n, text), weighted) for n, text in prompts.items()}
            with self.sessions.open(graph_name) as graph, self._timed("text"):
                for name, given in tokens.items():
                    outputs[name] += embedded(graph, spec, *given)
        zeroed = {name for name, prompt in prompts.items() if name == "null" and prompt == ""}
        return {name: conditioning(self.contract, given, name in zeroed) for name, given in outputs.items()}

    def encode(self, image: Image.Image) -> Latent:
        """The scaled latent [1, z, h, h] of an RGB picture of the reference's size: the encoder's mean."""
        spec, vae = self.contract.graphs.vae_encoder, self.contract.vae
        pixels = pixels_of("image", image, self.contract.architecture.reference_side)
        with self.sessions.open("vae_encoder") as graph, self._timed("vae_encode"):
            moments = graph.run({spec.inputs[0].name: pixels})[spec.outputs[0].name]
        check_finite("VAE encoder", {"latent": moments})
        mean = moments[:, : self.contract.architecture.latent_channels].astype(np.float32)
        return (mean - np.float32(vae.shift_factor or 0)) * np.float32(vae.scaling_factor)

    def noised(self, latent: Latent) -> Latent:
        """A reference latent at the cache timestep (DDPM, eq. 4), with the noise every subject shares."""
        given = latents_of("latent", latent, self.contract.architecture.reference_latent_shape)
        return noised_reference(given, self.contract.scheduler, self.contract.cache_timestep)

    def decode(self, latent: Latent, tiled: bool | None = None) -> list[Image.Image]:
        """Pictures of scaled latents [n, z, h, w].

        tiled: decode in strips, the same pictures in less memory and somewhat more time; by default the
        memory profile does, where the bundle can.
        Raises: SettingsError for a bundle whose decoder has no strips.
        """
        graphs, vae = self.contract.graphs, self.contract.vae
        latents = latents_of("latent", latent, self.contract.architecture.latent_shape)
        unscaled = latents / np.float32(vae.scaling_factor) + np.float32(vae.shift_factor or 0)
        images = []
        if tiled is None:
            tiled = self.sessions.profile == "memory" and graphs.vae_decoder_head is not None
        with open_decoder(graphs, self.sessions.open, tiled) as decode:
            for one in unscaled:
                with self._timed("vae_decode"):
                    pixels = decode(one[None])[0]
                check_finite("VAE decoder", {"picture": pixels})
                images.append(to_image(pixels))
        return images

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if self._observe is not None:
            self._observe(stage, time.perf_counter() - begin)
