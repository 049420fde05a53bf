"""One bundle with Core ML packages for all tests of this folder: an export takes most of a minute."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def both(tiny_base: Path, tiny_adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For both targets: split_einsum, iOS 18, two resolutions."""
    from dreamcache.export.command import export

    out = tmp_path_factory.mktemp("both") / "bundle"
    export(
        out=out,
        base=str(tiny_base),
        adapters=tiny_adapters,
        target="all",
        coreml_attention="split_einsum",
        coreml_resolution=[64],
    )
    return out
