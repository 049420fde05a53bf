"""A causal language model that completes many prompts at once, each with randomness of its own.

`generate` of transformers draws all rows of a batch from one stream of random numbers, so what a prompt gives
would depend on its neighbours. Here a logits processor draws each row's token by inverse transform sampling (one
uniform number of the row's own generator against the cumulated probabilities) and leaves only that token, which
greedy search then takes: the same distribution, and a row is the same whoever stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from dreamcache.runtime.errors import first_line
from dreamcache.training.errors import SynthesisError, WeightsError


@dataclass(frozen=True)
class TokenSampling:
    """How tokens are drawn. `temperature` > 0; `top_p`: the share of probability that is kept, in (0, 1]."""

    temperature: float = 1.0
    top_p: float = 0.95
    max_new_tokens: int = 64


class DrawEachRow(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped
    """Leaves one token a row: the one that the row's generator draws."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores: [rows, vocabulary], of which -inf stay impossible. Returns the same with one finite value a row."""
        del input_ids
        uniform = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in self._generators])
        cumulated = scores.double().softmax(-1).cumsum(-1)
        # Scaled by the last value, which rounding leaves beside 1; strictly above, so that no token of
        # probability 0 is drawn.
        threshold = uniform.to(scores.device) * cumulated[:, -1:]
        drawn = torch.searchsorted(cumulated, threshold, right=True).clamp_(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)


class LanguageModel:
    """A model and its tokenizer, in evaluation mode."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        """Raises: WeightsError when the folder holds no causal language model that can be read."""
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
            model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, dtype=dtype)
        except Exception as error:  # configs, tokenizers and weights fail in their own ways
            raise WeightsError(
                f"{folder}: a causal language model with its tokenizer is expected, received one that cannot be "
                f"read ({first_line(error)}); fetch it again"
            ) from error
        self._model = model.eval().to(device)
        ends = model.generation_config.eos_token_id
        self._ends = self._tokenizer.eos_token_id if ends is None else ends
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        # The folder's own sampling defaults would be mixed into every call.
        model.generation_config = GenerationConfig(
            eos_token_id=self._ends, pad_token_id=self._tokenizer.pad_token_id
        )

    @torch.no_grad()
    def complete(self, prompts: Sequence[str], seeds: Sequence[int], how: TokenSampling) -> list[str]:
        """What the model answers to each prompt; through its chat template where it has one.

        Raises: SynthesisError when a prompt and its answer do not fit into the model's positions.
        """
        chat = self._tokenizer.chat_template is not None
        texts = [self._as_chat(prompt) for prompt in prompts] if chat else list(prompts)
        # A chat template writes the special tokens itself.
        tokens = self._tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=not chat)
        length = tokens.input_ids.shape[1]
        room = getattr(self._model.config, "max_position_embeddings", None)
        if room is not None and length + how.max_new_tokens > room:
            raise SynthesisError(
                f"prompts and captions of at most {room} tokens are expected, received {length} + "
                f"{how.max_new_tokens}; shorten the template or --max-words"
            )
        draw = LogitsProcessorList(
            [TemperatureLogitsWarper(how.temperature), TopPLogitsWarper(how.top_p), DrawEachRow(seeds)]
        )
        tokens = tokens.to(self._model.device)
        answers = self._model.generate(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            max_new_tokens=how.max_new_tokens,
            logits_processor=draw,
        )
        texts = self._tokenizer.batch_decode(answers[:, length:], skip_special_tokens=True)
        return [str(text) for text in texts]

    def _as_chat(self, prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
