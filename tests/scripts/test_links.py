"""Every link of the documents leads to a file or a heading that is there; those to elsewhere are listed."""

from __future__ import annotations

from pathlib import Path

import pytest
from links import ROOT, anchors, broken, is_external, links, pages, text_of

PAGES = pages()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_every_page_is_looked_at() -> None:
    named = {str(page.relative_to(ROOT)) for page in PAGES}
    assert {"README.md", "CHANGELOG.md", "docs/index.md", "examples/first_picture.ipynb"} <= named
    assert sum(len(links(text_of(page))) for page in PAGES) > 100


def test_links_to_elsewhere_are_of_the_web() -> None:
    external = [target for page in PAGES for target in links(text_of(page)) if is_external(target)]
    assert external
    assert [target for target in external if not target.startswith("https://")] == []


def test_what_leads_nowhere_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One `name`, two\n\n## Again\n\n## Again\n")
    page = tmp_path / "page.md"
    page.write_text(
        "## Here\n[a](other.md#one-name-two) [b](other.md#again-1) [c](#here) [d](https://example.org)\n"
        "[e](nowhere.md) [f](other.md#again-2) [g](#there) ![h](picture.png)\n`[i](code.md)`\n\n"
        "| table |\n|---|\n| [j](absent.md) |\n\n```md\n[k](block.md)\n```\n"
    )
    assert broken(page) == ["nowhere.md", "other.md#again-2", "#there", "picture.png", "absent.md"]
    assert anchors("# Core ML: fp16 & palettes\n") == {"core-ml-fp16--palettes"}
