"""Links of every Markdown page and notebook: those within the repository are followed, those to elsewhere are listed.

    python docs/scripts/links.py [--external]

Nothing is fetched. A link breaks where its file is absent, or where the page has no heading of that name on GitHub; the
site's own names of headings are checked by `mkdocs build`. Status 1 when a link is broken.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
_MARKDOWN = MarkdownIt().enable("table")


def pages(root: Path = ROOT) -> list[Path]:
    """Markdown and notebooks, without what git ignores at the top or hides."""
    kept = ("benchmarks", "docs", "examples", "models", "tests", ".github")
    found = [path for folder in kept for kind in ("*.md", "*.ipynb") for path in (root / folder).rglob(kind)]
    return sorted(path for path in [*root.glob("*.md"), *found] if "node_modules" not in path.parts)


def text_of(page: Path) -> str:
    """A page's Markdown; of a notebook, that of its cells."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def _inline(text: str) -> Iterator[Token]:
    for token in _MARKDOWN.parse(text):
        yield from token.children or ()


def links(text: str) -> list[str]:
    """Targets of links and pictures, in order; code is no link."""
    targets = (token.attrs.get("href") or token.attrs.get("src") for token in _inline(text))
    return [str(target) for target in targets if target]


def anchors(text: str) -> set[str]:
    """The headings' names, as GitHub makes them: lower case, hyphens for spaces, punctuation gone, repeats counted."""
    found = Counter[str]()
    for heading, title in pairwise(_MARKDOWN.parse(text)):
        if heading.type == "heading_open":
            words = "".join(child.content for child in title.children or ())
            found[re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")] += 1
    return {f"{name}-{i}" if i else name for name, times in found.items() for i in range(times)}


def is_external(target: str) -> bool:
    return urlsplit(target).scheme != ""


def broken(page: Path) -> list[str]:
    """Links of a page that lead nowhere."""
    text, wrong = text_of(page), []
    for target in links(text):
        if is_external(target):
            continue
        path, _, anchor = unquote(target).partition("#")
        there = page.parent / path if path else page
        if not there.exists() or (anchor and anchor not in anchors(text_of(there))):
            wrong.append(target)
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--external", action="store_true", help="links to elsewhere, with the page of each")
    if parser.parse_args().external:
        for page in pages():
            for target in filter(is_external, links(text_of(page))):
                print(f"{page.relative_to(ROOT)}: {target}")
        return
    wrong = [f"{page.relative_to(ROOT)}: {target}" for page in pages() for target in broken(page)]
    print("\n".join(wrong) or f"{sum(len(links(text_of(page))) for page in pages())} links, none broken")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
