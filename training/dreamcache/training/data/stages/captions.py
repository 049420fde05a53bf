"""Stage 1: captions by a language model (paper, supplement: Llama 3.2), each of which names its subject."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from dreamcache.training.data.models.device import choose_device, choose_dtype
from dreamcache.training.data.models.language_model import LanguageModel, TokenSampling
from dreamcache.training.data.models.weights import LANGUAGE_MODEL, describe_model, find_model
from dreamcache.training.data.shards.folder import ShardFolder
from dreamcache.training.data.shards.index import StageIndex, installed_versions
from dreamcache.training.data.shards.seeds import derive_seed, sample_key
from dreamcache.training.data.shards.shards import ShardSample
from dreamcache.training.data.stages.caption_text import clean_caption, dedup_key, fault_of
from dreamcache.training.data.stages.prompts import PLACES, SUBJECTS, TEMPLATE
from dreamcache.training.data.stages.stage import ShardProgress

# English takes about 1.3 tokens a word; the rest is room for a label that the model puts before it.
_TOKENS_PER_WORD = 2


@dataclass(frozen=True)
class CaptionStage:
    """Sample i is about subject i mod n, at a place that its key draws. A caption that will not do is asked for
    again, `tries` times in all; what is left then is left out.
    """

    samples_wanted: int
    model: str = LANGUAGE_MODEL.default
    subjects: tuple[str, ...] = SUBJECTS
    places: tuple[str, ...] = PLACES
    template: str = TEMPLATE
    sampling: TokenSampling = field(default_factory=TokenSampling)
    max_words: int = 30
    tries: int = 4
    seed: int = 0
    shard_size: int = 500
    batch: int = 32
    device: str = "auto"
    dtype: str = "auto"

    @cached_property
    def index(self) -> StageIndex:
        """Raises: WeightsError without the model."""
        folder = find_model(LANGUAGE_MODEL, self.model)
        return StageIndex(
            stage="captions",
            seed=self.seed,
            shards=-(-self.samples_wanted // self.shard_size),
            shard_size=self.shard_size,
            settings={
                "samples": self.samples_wanted,
                "subjects": list(self.subjects),
                "places": list(self.places),
                "template": self.template,
                "temperature": self.sampling.temperature,
                "top_p": self.sampling.top_p,
                "max_words": self.max_words,
                "tries": self.tries,
            },
            models=(describe_model(LANGUAGE_MODEL, self.model, folder),),
            made_with=installed_versions(),
        )

    @cached_property
    def _language_model(self) -> LanguageModel:
        device = choose_device(self.device)
        folder = find_model(LANGUAGE_MODEL, self.model)
        return LanguageModel(folder, device, choose_dtype(self.dtype, device))

    def source_sha256(self, shard: int) -> None:
        """Captions come from nothing."""

    def expected(self, shard: int) -> int:
        """Captions that are asked for."""
        return min(self.shard_size, self.samples_wanted - shard * self.shard_size)

    def samples(self, shard: int, report: ShardProgress) -> Iterator[ShardSample]:
        """txt: the caption. json: key, subject, place, seed, try."""
        start = shard * self.shard_size
        pending = {sample_key(start + i): start + i for i in range(self.expected(shard))}
        accepted: dict[str, ShardSample] = {}
        seen: set[str] = set()
        for attempt in range(self.tries):
            keys = list(pending)
            for begin in range(0, len(keys), self.batch):
                part = keys[begin : begin + self.batch]
                asked = [self._ask(key, pending[key], attempt) for key in part]
                answers = self._language_model.complete(
                    [prompt for prompt, _ in asked],
                    [int(about["seed"]) for _, about in asked],
                    self._sampling,
                )
                for key, (_, about), answer in zip(part, asked, answers, strict=True):
                    caption = clean_caption(answer)
                    fault = fault_of(caption, str(about["subject"]), self.max_words)
                    if fault is None and dedup_key(caption) in seen:
                        fault = "duplicate"
                    if fault is None:
                        seen.add(dedup_key(caption))
                        accepted[key] = _as_sample(key, caption, about)
                        del pending[key]
                        report.advance(1)
                    elif attempt == self.tries - 1:
                        report.rejected[fault] += 1
            if not pending:
                break
        for key in sorted(accepted):
            yield accepted[key]

    @property
    def _sampling(self) -> TokenSampling:
        how = self.sampling
        return TokenSampling(how.temperature, how.top_p, self.max_words * _TOKENS_PER_WORD)

    def _ask(self, key: str, number: int, attempt: int) -> tuple[str, dict[str, str | int]]:
        rng = np.random.default_rng(derive_seed(self.seed, key, "place"))
        subject = self.subjects[number % len(self.subjects)]
        place = self.places[rng.integers(len(self.places))]
        seed = derive_seed(self.seed, key, f"caption {attempt}")
        about: dict[str, str | int] = {"subject": subject, "place": place, "seed": seed, "try": attempt}
        return self.template.format(subject=subject, place=place), about


def _as_sample(key: str, caption: str, about: dict[str, str | int]) -> ShardSample:
    record = json.dumps({"key": key, **about}, sort_keys=True)
    return ShardSample(key, {"txt": caption.encode(), "json": record.encode()})


def repeated_keys(source: ShardFolder) -> frozenset[str]:
    """Keys of captions that an earlier sample has already, over all shards.

    A process that writes one shard cannot know the others, so duplicates across shards are found here, once all
    are written: by keys alone, and so the same in every process that looks.
    Raises: ShardError for a shard that cannot be read.
    """
    seen: set[str] = set()
    repeated = []
    for shard in range(source.index.shards):
        for sample in source.read(shard):
            text = dedup_key(sample.members["txt"].decode("utf-8", "replace"))
            if text in seen:
                repeated.append(sample.key)
            seen.add(text)
    return frozenset(repeated)
