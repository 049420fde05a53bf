"""The notebooks and scripts of examples/ run, on the miniature in few steps or on tiny models."""

from __future__ import annotations

import asyncio
import io
import json
import runpy
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from notebook import cells, run
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
TOY = str(ROOT / "docs" / "images" / "toy.png")


@pytest.fixture(autouse=True)
def _in_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setenv("MPLBACKEND", "Agg")


def apart(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two pictures, 0 to 255."""
    return float(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).mean())


def test_the_first_picture() -> None:
    names, shown = run(EXAMPLES / "first_picture.ipynb", STEPS=2)
    assert [picture.size for picture in shown[:2]] == [(128, 128), (128 * 4, 128)]
    assert apart(names["drawn"][0], names["without"][0]) > 2
    scene = names["PROMPT"].format(names["SCENES"][0])
    weak = names["pipe"].generate(scene, names["subject"], steps=2, seed=7, strength=0)
    assert apart(weak, names["without"][0]) < 0.5
    assert len(names["features"]) == len(names["pipe"].contract.architecture.sites)


def test_your_own_subject() -> None:
    names, _ = run(EXAMPLES / "your_subject.ipynb", STEPS=2)
    assert apart(names["same"], names["drawn"][0]) == 0
    assert apart(names["everything"].thumbnail, names["subject"].thumbnail) > 2
    assert names["by_mask"].background.endswith("the given mask")


def test_precisions(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from tiny_models import MINI_SHAPED, write_tiny_adapters, write_tiny_base

    # One level, whose graphs are traced in half the time of two.
    level = {f"{way}_block_types": (f"CrossAttn{way.title()}Block2D",) for way in ("down", "up")}
    base = write_tiny_base(
        tmp_path / "base", unet={**MINI_SHAPED, **level, "block_out_channels": (16,), "layers_per_block": 1}
    )
    adapters = write_tiny_adapters(tmp_path / "adapters.safetensors", base)
    tiny = {"BASE": str(base), "ADAPTERS": adapters, "PRECISIONS": ["fp32"], "PROMPT": "a toy", "STEPS": 1}
    names, _ = run(EXAMPLES / "precisions.ipynb", **tiny)
    assert names["contracts"]["fp32"].parity.psnr_db["denoiser"] > 100
    assert names["pictures"]["fp32"].size == (32, 32)


def test_devices() -> None:
    names, _ = run(EXAMPLES / "devices.ipynb", RECORDS=["sd15-int8-full.json", "sd15-int8-memory.json"])
    assert [text.get_text() for text in names["axes"].texts] == ["sd15-int8-full", "sd15-int8-memory"]


def faults(cell: dict[str, Any]) -> list[str]:
    """What a committed cell should not hold."""
    text = json.dumps(cell["outputs"])
    kinds = [out["output_type"] + out.get("name", "") for out in cell["outputs"]]
    found = [kind for kind in kinds if kind in ("error", "streamstderr")]
    return found + [word for word in ("/home/", "/tmp/", "/root/", "Traceback") if word in text]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_committed(path: Path) -> None:
    code = cells(path)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), (
        "not run from its first cell"
    )
    assert [fault for cell in code for fault in faults(cell)] == []
    assert sum("image/png" in out.get("data", {}) for cell in code for out in cell["outputs"]) >= 1
    assert path.stat().st_size < 1_000_000


def test_four_notebooks_and_what_they_should_not_hold() -> None:
    assert len(NOTEBOOKS) == 4
    warned = {"outputs": [{"output_type": "stream", "name": "stderr", "text": "/tmp/x: deprecated"}]}
    assert faults(warned) == ["streamstderr", "/tmp/"]
    with pytest.raises(AssertionError):
        run(EXAMPLES / "devices.ipynb", COLOUR="red")


def test_a_batch_of_subjects_and_prompts(tmp_path: Path) -> None:
    main = runpy.run_path(str(EXAMPLES / "batch.py"))["main"]
    scenes = ["--prompt", "a toy duck in space", "--prompt", "a toy duck on a stage"]
    main(["mini", "--reference", TOY, *scenes, "--out", str(tmp_path / "out"), "--steps", "2"])
    first, second = (tmp_path / "out" / f"subject-0-prompt-{j}.png" for j in (0, 1))
    with (
        Image.open(first) as one,
        Image.open(second) as other,
        Image.open(tmp_path / "out/sheet.png") as sheet,
    ):
        assert apart(one, other) > 2
        assert sheet.size == (3 * one.width, one.height)
    with pytest.raises(SystemExit, match="nowhere"):
        main(["mini", "--reference", "nowhere.png", "--prompt", "x", "--out", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


def test_a_preview_in_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(EXAMPLES / "preview.py"))
    options = [
        "--prompt",
        "a toy duck",
        "--out",
        str(tmp_path / "duck.png"),
        "--steps",
        "2",
        "--columns",
        "12",
    ]
    script["main"](["mini", "--reference", TOY, *options])
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1].startswith("step 2 of 2")
    assert shown.count("▀") % (12 * 6) == 0
    drawn = script["as_text"](Image.new("RGB", (4, 4), "#102030"), 2)
    assert drawn.plain == "▀▀\n"
    assert {str(span.style) for span in drawn.spans} == {"#102030 on #102030"}


class Client:
    """Calls an ASGI application without a network."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, method: str, path: str, body: bytes = b"", **query: Any) -> tuple[int, bytes]:
        """Status and body of one request."""
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [],
            "query_string": urlencode(query).encode(),
        }
        asyncio.run(self.app(scope, receive, send))
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def test_a_service() -> None:
    pytest.importorskip("starlette")
    ask = Client(runpy.run_path(str(EXAMPLES / "service.py"))["create_app"]("mini"))
    status, answer = ask("POST", "/subjects", Path(TOY).read_bytes())
    assert (status, json.loads(answer)) == (201, {"subject": 1})
    scene = {"subject": 1, "prompt": "a toy duck in space", "steps": 2}
    status, png = ask("GET", "/pictures", **scene, seed=3)
    assert (status, png) == ask("GET", "/pictures", **scene, seed=3)
    assert status == 200
    with (
        Image.open(io.BytesIO(png)) as one,
        Image.open(io.BytesIO(ask("GET", "/pictures", **scene)[1])) as other,
    ):
        assert apart(one, other) > 2
    refused = [
        ask("POST", "/subjects", b"no picture"),
        ask("POST", "/subjects", bytes(20_000_001)),
        ask("GET", "/pictures", subject=2, prompt="x"),
        ask("GET", "/pictures", subject="one"),
    ]
    assert [status for status, _ in refused] == [400, 413, 404, 400]
    assert all(b"expected" in words or b"first" in words for _, words in refused)
