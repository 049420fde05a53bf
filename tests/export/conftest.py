"""One exported bundle for all tests of this room: an export takes many seconds."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_bundle(tiny_base: Path, tiny_adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_base` with `tiny_adapters`, exported by the command for a batch of two."""
    from made_once import made_once

    from dreamcache.export.command import export

    def make(folder: Path) -> None:
        export(out=folder / "tiny", base=str(tiny_base), adapters=tiny_adapters, batch=2)

    return made_once(tmp_path_factory, "tiny-bundle", make) / "tiny"
