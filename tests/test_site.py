"""The documentation builds as a site without a warning, and a broken link would be one."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def build(config_file: Path, site: Path) -> None:
    """As `mkdocs build --strict` does; raises what ends it."""
    pytest.importorskip("torch")
    from mkdocs.commands.build import build as build_site
    from mkdocs.config import load_config

    build_site(load_config(str(config_file), site_dir=str(site), strict=True))


def test_the_site_has_every_page_and_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="mkdocs"):
        build(ROOT / "mkdocs.yml", tmp_path)
    assert [record.message for record in caplog.records if record.name.startswith("mkdocs")] == []
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    assert len(pages) >= 18
    missing = [
        page for page in pages if not (tmp_path / page / "index.html").exists() and page.name != "index"
    ]
    assert missing == []
    commands = (tmp_path / "reference/commands/index.html").read_text(encoding="utf-8")
    assert "dreamcache train adapters" in commands
    names = (tmp_path / "reference/python/index.html").read_text(encoding="utf-8")
    assert 'id="dreamcache.runtime.pipeline.Pipeline.generate"' in names


def test_a_broken_link_ends_the_build(tmp_path: Path) -> None:
    from mkdocs.exceptions import Abort

    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[nowhere](nowhere.md)")
    (tmp_path / "mkdocs.yml").write_text("site_name: broken\nvalidation: {links: {not_found: warn}}\n")
    with pytest.raises(Abort):
        build(tmp_path / "mkdocs.yml", tmp_path / "site")
