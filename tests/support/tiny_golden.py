"""Golden tensors of the tiny bundle, from its own graphs here: what a device must compute that runs the same files."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiny_bundle import seal

from dreamcache.runtime.bundle.folder import open_contract
from dreamcache.runtime.bundle.golden import CHECK_NAME, NULL, STOCK, repeated, save_golden, spread_sample
from dreamcache.runtime.sampling.decoding import decode_in_strips
from dreamcache.runtime.sessions.session import SessionOpener


def add_golden(folder: Path) -> dict[str, NDArray[Any]]:
    """Write `check.safetensors` with what the graphs give here in place of PyTorch; returns its tensors.

    A decoder that has strips is the strips', which `tiny_strips` makes another function than the whole one's.
    """
    bundle = open_contract(folder)
    specs, random = bundle.contract.graphs.by_name(), np.random.default_rng(5)
    tensors: dict[str, NDArray[Any]] = {}
    with ExitStack() as stack:
        opener = SessionOpener(bundle, ("CPUExecutionProvider",), 1)
        for name in ("text_encoder", "vae_encoder", "cache", "vae_decoder", "denoiser"):
            graph = stack.enter_context(opener.open(name))
            # one row of the batch, half of the width and of the tokens
            given = {
                spec.name: random.standard_normal(
                    [1, *spec.shape[1:-1], (spec.shape[-1] + 1) // 2]
                    if len(spec.shape) == 4
                    else (1, *spec.shape[1:])
                ).astype(np.float32)
                for spec in specs[name].inputs
            }
            if name == "text_encoder":
                given = {"input_ids": np.arange(8)[None]}
            changes: dict[str, dict[str, NDArray[Any]]] = {name: {}}
            if name == "denoiser":
                given |= {
                    "timestep": np.full(1, 500, np.float32),
                    "reference_strength": np.ones(1, np.float32),
                }
                changes[STOCK] = {"reference_strength": np.zeros(1, np.float32)}
                changes[NULL] = {"text": given["text"][:, ::-1]}
            for case, change in changes.items():
                inputs = {
                    spec.name: repeated((given | change)[spec.name], spec.shape)
                    for spec in specs[name].inputs
                }
                tensors |= {f"{case}/input/{key}": value for key, value in (change or given).items()}
                given_here = graph.run(inputs)
                if name == "vae_decoder" and "vae_decoder_head" in specs:
                    picture = decode_in_strips(bundle.contract.graphs, opener.open, *inputs.values())
                    given_here = dict.fromkeys(given_here, picture)
                tensors |= {f"{case}/output/{key}": spread_sample(value) for key, value in given_here.items()}
    save_golden(folder / CHECK_NAME, tensors)
    seal(folder)
    return tensors
