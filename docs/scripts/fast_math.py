"""What `--math fast` costs the miniature: latents beside exact ones, and accuracy on held-out toys.

    python docs/scripts/fast_math.py BUNDLE --json docs/results/fast-math.json

BUNDLE: `dreamcache export --base mini --out BUNDLE`. The final latents of a few toys, 20 guided steps from the same
noise, are compared in dB with ONNX Runtime's exact ones; then all pictures are drawn fast and judged as
`dreamcache evaluate toys` does, so that the row stands beside those of `benchmarks/approximations.py`.
"""

from __future__ import annotations

import argparse
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamcache.benchmarks.host import describe_host, library_versions
from dreamcache.benchmarks.runner_settings import runner_settings
from dreamcache.runtime import Pipeline
from dreamcache.runtime.bundle.parity import psnr_db
from dreamcache.runtime.settings import Options
from dreamcache.training.evaluation.toys.attribute_classifier import CLASSIFIER_FILE, load_classifier
from dreamcache.training.evaluation.toys.benchmark import ToyCase, as_record, draw_cases, run_benchmark
from dreamcache.training.evaluation.toys.bundle_painter import BundlePainter

STEPS = 20


def final_latent(pipe: Pipeline, case: ToyCase) -> NDArray[np.float32]:
    """The scaled latent [1, z, h, w] after the last step, of the toy on white."""
    reference = case.reference_of("dreamcache")
    assert reference is not None
    subject = pipe.cache(Image.fromarray(reference))
    *_, last = pipe.denoise(case.prompt, subject, steps=STEPS, seed=case.seed)
    return last.latent


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--identities", type=int, default=50)
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--latents", type=int, default=8, help="toys whose latents are compared")
    given = parser.parse_args()
    exact = Pipeline.load(given.bundle, keep_sessions=True)
    fast = Pipeline.load(given.bundle, keep_sessions=True, providers=["openvino"], math="fast")
    painter = BundlePainter(fast, Options(steps=STEPS))
    classifier = load_classifier(CLASSIFIER_FILE).of_size(painter.size)
    cases = draw_cases(given.identities, given.scenes, size=classifier.size)
    apart = cases[:: max(1, len(cases) // given.latents)][: given.latents]
    decibels = [psnr_db(final_latent(exact, case), final_latent(fast, case)) for case in apart]
    print(
        f"final latent: {np.median(decibels):.1f} dB ({min(decibels):.1f} to {max(decibels):.1f})", flush=True
    )
    results: dict[str, Any] = as_record(run_benchmark(cases, painter, classifier, ["dreamcache"]))
    record = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": describe_host().model_dump(),
        "versions": library_versions(),
        "settings": runner_settings(providers=("openvino",), math="fast"),
        "identities": given.identities,
        "scenes_per_identity": given.scenes,
        "final_latent_db": [round(value, 2) for value in decibels],
        "results": results["dreamcache"],
    }
    given.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record["results"], indent=1))


if __name__ == "__main__":
    main()
