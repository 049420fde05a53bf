"""The inputs and outputs of the UNet's graphs, declared once.

Exporter, sample inputs and validation all derive names, shapes and dtypes from here (docs/concepts/bundle.md). The
caching graph turns a noised reference latent into one key and one value per tapped site;
the denoiser takes them back as inputs.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from dreamcache.runtime.bundle.tensors import ContractModel, TensorSpec

# Far above what a UNet has, far below what a number alone could cost.
Side = Annotated[int, Field(ge=1, le=8192)]
Count = Annotated[int, Field(ge=1, le=64)]
MAX_TEXT_CHUNKS = 16
"""1,200 tokens of a prompt, whose 20,000 characters are not read further."""
TextChunks = Annotated[int, Field(ge=1, le=MAX_TEXT_CHUNKS)]


class SiteSpec(ContractModel):
    """One tapped transformer block, by the module path that diffusers gives it.

    docs/concepts/method.md, "Site rule", says which are tapped.
    """

    name: str
    width: PositiveInt
    heads: PositiveInt
    token_height: PositiveInt
    token_width: PositiveInt

    @property
    def tokens(self) -> int:
        """Tokens of one reference: rows times columns of the feature map."""
        return self.token_height * self.token_width

    @property
    def key_name(self) -> str:
        """Name of the tensor that holds the projected keys, [1, tokens, width]."""
        return f"{self.name}.key"

    @property
    def value_name(self) -> str:
        """Name of the tensor that holds the projected values, [1, tokens, width]."""
        return f"{self.name}.value"

    @model_validator(mode="before")
    @classmethod
    def _takes_all_tokens(cls, given: Any) -> Any:
        """Version 0.1 could leave reference tokens out (`kept_tokens`); null or the number of all did not."""
        if not isinstance(given, dict) or "kept_tokens" not in given:
            return given
        kept = given["kept_tokens"]
        if kept is not None and kept != given.get("token_height", 0) * given.get("token_width", 0):
            raise ValueError(
                f"all tokens of the reference are expected, received kept_tokens {kept}, which this version does "
                "not run; export the bundle again without --reference-tokens"
            )
        return {name: value for name, value in given.items() if name != "kept_tokens"}

    @model_validator(mode="after")
    def _heads_divide_width(self) -> SiteSpec:
        if self.width % self.heads:
            raise ValueError(f"site {self.name}: width {self.width} is not divisible by {self.heads} heads")
        return self


class DeepSpec(ContractModel):
    """The features that step caching reuses: what enters the UNet's last decoder block, [b, c, h, w].

    sites: names of the tapped sites that lie after them, and so in the shallow graph.
    """

    channels: PositiveInt
    height: PositiveInt
    width: PositiveInt
    sites: tuple[str, ...] = ()


ADDED_CONDITIONS = ("text_embeds", "time_ids")
"""What SDXL's time embedding reads in addition to the timestep: [b, p] and [b, 6], in diffusers' names."""
TIME_IDS = 6


class ReferenceSpec(ContractModel):
    """Size of the reference's square picture and of its latent."""

    latent_height: PositiveInt
    latent_width: PositiveInt
    image_height: PositiveInt
    image_width: PositiveInt

    @model_validator(mode="after")
    def _is_square(self) -> ReferenceSpec:
        if (self.latent_height, self.image_height) != (self.latent_width, self.image_width):
            raise ValueError(
                f"a square reference is expected, received {self.image_width} x {self.image_height} px"
            )
        return self


class Architecture(ContractModel):
    """The numbers that fix every tensor shape.

    name: e.g. "mini", "sd15". batch: the fixed batch of the denoiser graph. float_dtype: dtype of the
    floating tensors at the borders of the UNet graphs (the timestep is always float32). deep: what step
    caching reuses, absent in a bundle without a shallow graph. key_value_pool: self-attention over the most
    tokens reads keys and values averaged over as many rows and columns; 1 is exact. max_references: how many
    references the denoiser reads at once. reference: size of the reference where the picture is not square; else
    it is the picture's. pooled_width: of SDXL's pooled prompt embedding; None for bases with one text encoder.
    text_chunks: how many times `text_length` tokens the denoiser reads of a prompt.
    """

    newer = ("reference", "pooled_width", "text_chunks")

    name: str
    latent_channels: PositiveInt
    latent_height: Side
    latent_width: Side
    image_height: Side
    image_width: Side
    text_length: PositiveInt
    text_width: PositiveInt
    batch: Count = 1
    float_dtype: Literal["float32", "float16"] = "float32"
    sites: tuple[SiteSpec, ...]
    deep: DeepSpec | None = None
    key_value_pool: Count = 1
    max_references: Count = 1
    reference: ReferenceSpec | None = None
    pooled_width: PositiveInt | None = None
    text_chunks: TextChunks = 1

    @model_validator(mode="after")
    def _sites_are_distinct(self) -> Architecture:
        names = [site.name for site in self.sites]
        if not names:
            raise ValueError("at least one tapped site is expected, received none")
        if len(set(names)) != len(names):
            raise ValueError(f"every site is expected once, received {names}")
        unknown = set(() if self.deep is None else self.deep.sites) - set(names)
        if unknown:
            raise ValueError(f"the deep features name {sorted(unknown)}, which are not tapped sites")
        if self.reference is None and self.image_height != self.image_width:
            raise ValueError(
                f"the reference's size is expected where the picture is {self.image_width} x {self.image_height} px, "
                "received none"
            )
        factor = self.image_height // self.latent_height
        if (self.latent_height * factor, self.latent_width * factor) != (self.image_height, self.image_width):
            raise ValueError(
                f"a picture as many times as high and wide as the latent is expected, received {self.image_height} × "
                f"{self.image_width} px and {self.latent_height} × {self.latent_width}"
            )
        return self

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """[1, z, h, w]: one latent."""
        return (1, self.latent_channels, self.latent_height, self.latent_width)

    @property
    def reference_latent_shape(self) -> tuple[int, int, int, int]:
        """[1, z, h, h]: the latent of a reference."""
        side = self.latent_height if self.reference is None else self.reference.latent_height
        return (1, self.latent_channels, side, side)

    @property
    def reference_side(self) -> int:
        """Side of the reference's square picture, in pixels."""
        return self.image_height if self.reference is None else self.reference.image_height


def cache_tensors(architecture: Architecture, references: int = 1) -> tuple[TensorSpec, ...]:
    """The caching graph's outputs: keys and values at every site, [1, tokens, width], in execution order.

    references: how many the denoiser's inputs of these names may hold, one after the other.
    """
    specs: list[TensorSpec] = []
    for site in architecture.sites:
        shape = (1, site.tokens, site.width)
        for name, kind in ((site.key_name, "keys"), (site.value_name, "values")):
            meaning = f"projected {kind} of the reference at {site.name}"
            specs.append(
                TensorSpec(
                    name=name,
                    shape=shape,
                    dtype=architecture.float_dtype,
                    meaning=meaning,
                    multiples=references,
                )
            )
    return tuple(specs)


def caching_graph_inputs(architecture: Architecture) -> tuple[TensorSpec, ...]:
    """The caching graph's only input: the reference latent, already noised to the cache timestep."""
    return (
        TensorSpec(
            name="latent",
            shape=architecture.reference_latent_shape,
            dtype=architecture.float_dtype,
            meaning="scaled reference latent, noised to the cache timestep",
        ),
    )


def denoiser_inputs(architecture: Architecture) -> tuple[TensorSpec, ...]:
    """latent [b,z,h,w], timestep [b], text [b,chunks·n,c], reference_strength [b], added conditions, keys and values.

    The last may hold the tokens of up to `max_references` references.
    """
    plain = plain_inputs(architecture)
    return (
        *plain[:3],
        TensorSpec(
            name="reference_strength",
            shape=(architecture.batch,),
            dtype=architecture.float_dtype,
            meaning="0: the stock model; 1: DreamCache",
        ),
        *plain[3:],
        *cache_tensors(architecture, architecture.max_references),
    )


def denoiser_outputs(architecture: Architecture) -> tuple[TensorSpec, ...]:
    """prediction [b,z,h,w]: noise or v, as the contract says; then the deep features of step caching."""
    deep = deep_tensor(architecture)
    return plain_outputs(architecture) if deep is None else (*plain_outputs(architecture), deep)


def plain_inputs(architecture: Architecture) -> tuple[TensorSpec, ...]:
    """The stock UNet's inputs: latent [b,z,h,w], timestep [b], text [b,chunks·n,c]; of SDXL `ADDED_CONDITIONS`."""
    b, dtype = architecture.batch, architecture.float_dtype
    text = (b, architecture.text_chunks * architecture.text_length, architecture.text_width)
    latent = (b, *architecture.latent_shape[1:])
    return (
        TensorSpec(name="latent", shape=latent, dtype=dtype, meaning="scaled noisy latent"),
        TensorSpec(name="timestep", shape=(b,), dtype="float32", meaning="training timestep"),
        TensorSpec(name="text", shape=text, dtype=dtype, meaning="prompt embedding"),
        *added_inputs(architecture),
    )


def added_inputs(architecture: Architecture) -> tuple[TensorSpec, ...]:
    """text_embeds [b,p] and time_ids [b,6] of SDXL; none of other bases."""
    b, dtype = architecture.batch, architecture.float_dtype
    if architecture.pooled_width is None:
        return ()
    pooled, sizes = ADDED_CONDITIONS
    meaning = "original height and width, crop's top and left, target height and width, in pixels"
    return (
        TensorSpec(
            name=pooled, shape=(b, architecture.pooled_width), dtype=dtype, meaning="pooled prompt embedding"
        ),
        TensorSpec(name=sizes, shape=(b, TIME_IDS), dtype="float32", meaning=meaning),
    )


def plain_outputs(architecture: Architecture) -> tuple[TensorSpec, ...]:
    """The stock UNet's output: prediction [b,z,h,w]."""
    shape = (architecture.batch, *architecture.latent_shape[1:])
    meaning = "predicted noise or v"
    return (TensorSpec(name="prediction", shape=shape, dtype=architecture.float_dtype, meaning=meaning),)


def deep_tensor(architecture: Architecture) -> TensorSpec | None:
    """deep [b,c,h,w]: an output of the denoiser and an input of the shallow graph, where there is one."""
    deep = architecture.deep
    if deep is None:
        return None
    shape = (architecture.batch, deep.channels, deep.height, deep.width)
    meaning = "features that enter the last decoder block"
    return TensorSpec(name="deep", shape=shape, dtype=architecture.float_dtype, meaning=meaning)


def shallow_inputs(architecture: Architecture) -> tuple[TensorSpec, ...]:
    """The denoiser's inputs with `deep` added and the caches of deeper sites left out.

    Raises: ValueError when the architecture has no deep features.
    """
    deep = deep_tensor(architecture)
    if deep is None or architecture.deep is None:
        raise ValueError("this architecture has no deep features, so no shallow graph")
    deeper = {
        name
        for site in architecture.sites
        if site.name not in architecture.deep.sites
        for name in (site.key_name, site.value_name)
    }
    return (*(spec for spec in denoiser_inputs(architecture) if spec.name not in deeper), deep)
