"""Errors of the training room that a user can cause and mend."""

from __future__ import annotations

from dreamcache.runtime.errors import DreamCacheError


class DivergenceError(DreamCacheError, FloatingPointError):
    """A loss, a gradient or an encoded sample is not finite: the message says where."""


class CheckpointError(DreamCacheError, ValueError):
    """A run's checkpoint is damaged, or holds the state of other weights."""


class BenchmarkError(DreamCacheError, ValueError):
    """The benchmark's folder, or what an earlier run left for this one, is not what is expected."""


class MetricModelError(DreamCacheError, ValueError):
    """The weights of a metric are absent, incomplete, pickles, or of another kind of model."""


class ShardError(DreamCacheError, ValueError):
    """A folder of shards is incomplete, damaged, mixed, or of another version or resolution."""


class WeightsError(DreamCacheError, OSError):
    """A model that synthetic data needs is absent or not stored as safetensors."""


class SynthesisError(DreamCacheError, ValueError):
    """A stage of synthetic data was asked for what it cannot do, or lets no sample pass."""
