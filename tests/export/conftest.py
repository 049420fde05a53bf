"""One exported bundle for all tests of this room: an export takes many seconds."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_bundle(tiny_base: Path, tiny_adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_base` with `tiny_adapters`, exported by the command for a batch of two."""
    from dreamcache.export.command import export

    out = tmp_path_factory.mktemp("bundles") / "tiny"
    export(out=out, base=str(tiny_base), adapters=tiny_adapters, batch=2)
    return out
