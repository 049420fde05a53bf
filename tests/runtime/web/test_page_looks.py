"""What a hand and an eye need of the page: targets, width, contrast, names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from page_files import PAGE, serving, visit

from dreamcache.runtime.web.certificate import temporary_context

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest.importorskip("playwright")

LEAST_TARGET_PX = 44
LEAST_CONTRAST = 4.5
"""Of text, WCAG 2.2, 1.4.3."""
_TARGETS = """() => {
    const kinds = "button, .button, select, textarea, input:not(.hidden, .tick input), summary, .tick";
    const all = document.querySelectorAll(kinds);
    const boxes = [...all].map((one) => [one.id || one.htmlFor || one.textContent, one.getBoundingClientRect()]);
    return boxes.filter(([, box]) => box.width).map(([name, box]) => [name, box.width, box.height]);
}"""
_NAMELESS = """() => [...document.querySelectorAll("button, select, textarea, input, canvas, [role=progressbar]")]
    .filter((one) => !(one.labels?.length || one.ariaLabel || one.textContent.trim())).map((one) => one.id)"""
_WIDE = """() => [...document.querySelectorAll("body *")]
    .filter((one) => one.getBoundingClientRect().right > innerWidth + 0.5 || one.scrollWidth > one.clientWidth + 1
        && getComputedStyle(one).display !== "inline" && one.clientWidth > 1).map((one) => one.id || one.className)"""


def test_a_thumb_finds_everything_and_nothing_is_cut_off(
    chromium: Browser, pristine: Path, javascript: dict[str, Path], tmp_path: Path
) -> None:
    with serving(pristine, javascript, tmp_path, temporary_context(["127.0.0.1"])) as (_, server):
        page = visit(chromium, server)
        assert page.evaluate(_NAMELESS) == []
        for width in (320, 360, 1200):
            page.set_viewport_size({"width": width, "height": 780})
            targets = page.evaluate(_TARGETS)
            assert len(targets) > 15
            assert [one for one in targets if min(one[1:]) < LEAST_TARGET_PX] == []
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert page.evaluate(_WIDE) == [], width
        # beside the picture, not below it
        stage, form = (page.locator(name).bounding_box() for name in ("#stage", "#draw"))
        assert stage is not None
        assert form is not None
        assert form["x"] > stage["x"] + stage["width"]
        page.context.close()


def test_text_can_be_read_in_light_and_in_dark() -> None:
    light, dark = re.findall(r":root \{(.*?)\}", (PAGE / "style.css").read_text(), re.DOTALL)
    for scheme in (light, light + dark):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", scheme))
        pairs = [("ink", on) for on in ("ground", "card", "well")]
        pairs += [("soft", on) for on in ("ground", "card", "well")] + [("on-accent", "accent")]
        pairs += [(text, "card") for text in ("accent", "good", "bad")]
        for text, ground in pairs:
            assert contrast(colours[text], colours[ground]) >= LEAST_CONTRAST, (text, ground)
    assert contrast("#777777", "#888888") < LEAST_CONTRAST < contrast("#000000", "#ffffff") == 21


def contrast(one: str, two: str) -> float:
    """WCAG 2.2, "contrast ratio"."""
    light, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """WCAG 2.2, "relative luminance"."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
