"""What `dreamcache.models` names, and that naming it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dreamcache import models

PUBLIC = {
    "AdapterConfig",
    "ConditionedUNet",
    "DreamCachePipeline",
    "attach",
    "load_adapters",
    "load_base",
    "save_adapters",
}


def test_each_public_name_is_where_it_says() -> None:
    assert set(models.__all__) == PUBLIC <= set(dir(models))
    assert {getattr(models, name).__name__ for name in PUBLIC} == PUBLIC
    with pytest.raises(AttributeError, match="has no attribute 'load_bases'"):
        _ = models.load_bases


@pytest.mark.parametrize(("use", "loaded"), [("", False), ("; models.load_base", True)])
def test_diffusers_loads_with_the_first_use(use: str, loaded: bool) -> None:
    program = (
        f"import sys; from dreamcache import models; dir(models){use}; print('diffusers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(loaded)
