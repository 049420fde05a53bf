"""What the contract will say is checked before the first graph is traced."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dreamcache.export import bundle
from dreamcache.export.declare.settings import declare_settings
from dreamcache.export.errors import ExportError
from dreamcache.export.source import Source


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (
            "scheduler/scheduler_config.json",
            {"beta_start": -0.1},
            "has beta_start -0.1, expected a number between 0 and 1",
        ),
        ("scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, "has beta_schedule 'sigmoid'"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "has prediction_type 'sample'"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1] * 1000}, "has trained_betas"),
        (
            "scheduler/scheduler_config.json",
            {"num_train_timesteps": 40},
            "does not allow the bundle's defaults",
        ),
        (
            "scheduler/scheduler_config.json",
            {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
            "v_prediction is expected where the noisiest timestep holds no signal",
        ),
        ("vae/config.json", {"scaling_factor": -1.0}, "the VAE's config has a wrong scaling_factor .*-1.0"),
        ("vae/config.json", {"scaling_factor": "much"}, 'scaling_factor is "much", expected a number'),
    ],
)
def test_an_entry_that_the_contract_cannot_say_is_one_line_before_any_graph(
    tiny_base: Path,
    tiny_adapters: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    changes: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr(bundle, "write_onnx", lambda *_: pytest.fail("a graph was begun"))
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    record = json.loads((folder / part).read_text(encoding="utf-8")) | changes
    (folder / part).write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ExportError, match=message) as raised:
        bundle.export_bundle(Source.load(str(folder), tiny_adapters), tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_settings_of_an_unchanged_base(tiny_base: Path, tiny_adapters: Path) -> None:
    source = Source.load(str(tiny_base), tiny_adapters)
    settings = declare_settings(source.base, source.conditioned.config, {})
    assert (settings.scheduler.steps_offset, settings.scheduler.beta_end) == (1, 0.012)
    assert settings.vae.scaling_factor == 0.9
    assert settings.text.pad_id == settings.text.eos_id == source.base.tokenizer.eos_token_id
    source.base.tokenizer.pad_token = None
    with pytest.raises(ExportError, match=r"has no pad_token, expected one in tokenizer_config.json"):
        declare_settings(source.base, source.conditioned.config, {})
    late = source.conditioned.config.__class__(cache_timestep=1000)
    with pytest.raises(ExportError, match="cache at timestep 1000, and the scheduler config has 1000"):
        declare_settings(source.base, late, {})
