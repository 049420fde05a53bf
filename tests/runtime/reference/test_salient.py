"""Salient-object models as people have them find the subject; what cannot be used is one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from drawn_scenes import TRUTH, scene
from onnx import ModelProto, TensorProto, helper, numpy_helper
from PIL import Image
from tiny_synthesis import write_tiny_salient

from dreamcache.runtime import Pipeline
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.reference.salient import FORMS, open_salient, split_form
from dreamcache.runtime.reference.segmenter import fed_picture


@pytest.fixture(scope="module")
def u2net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_salient(tmp_path_factory.mktemp("salient") / "u2net.onnx", threshold=14, side=64)


def changed(path: Path, place: Path, change: Callable[[ModelProto], None]) -> Path:
    model = onnx.load(path)
    change(model)
    onnx.save(model, place)
    return place


def test_a_given_model_cuts_the_subject_out(pristine: Path, u2net: Path) -> None:
    pipeline = Pipeline.load(pristine)
    subject = pipeline.cache(scene(), segmenter=u2net)
    assert subject.background.startswith("background removed by the given segmenter, fed as u2net")
    mask = open_salient(u2net).find_subject(scene())
    assert mask is not None
    found = np.asarray(mask) > 127
    assert (found & TRUTH).sum() / (found | TRUTH).sum() > 0.9
    assert open_salient(u2net).find_subject(scene(None)) is None
    # another model sees another subject: the case that must fail is the same picture without one
    plain = pipeline.cache(scene())
    assert "the given segmenter" not in plain.background
    assert subject.thumbnail is not None
    assert subject.thumbnail != plain.thumbnail


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("u2netp.onnx", "u2net"),
        ("silueta.onnx", "u2net"),
        ("isnet-general-use.onnx", "isnet"),
        ("BiRefNet-general-epoch_244.onnx", "birefnet"),
        ("rmbg-1.4.onnx", "isnet"),
        ("rmbg-2.0.onnx", "birefnet"),
        ("modnet_photographic.onnx", "modnet"),
        ("model.onnx", "u2net"),
        ("model.onnx:isnet", "isnet"),
        ("folder:modnet/model.onnx", "u2net"),
    ],
)
def test_the_form_is_told_by_the_name_or_given(name: str, form: str) -> None:
    path, found = split_form(Path("models") / name)
    assert found == form
    assert path == Path("models") / name.removesuffix(":isnet")


def test_each_form_is_fed_as_its_authors_feed_it() -> None:
    """White's red channel: (1 - mean) / std of each repository's inference code."""
    white = Image.new("RGB", (8, 8), "white")
    fed = {name: fed_picture(white, (4, 4), form.mean, form.std)[0, 0, 0, 0] for name, form in FORMS.items()}
    assert fed == pytest.approx({"u2net": 2.2489, "birefnet": 2.2489, "isnet": 0.5, "modnet": 1.0}, abs=1e-4)
    assert {name: form.side for name, form in FORMS.items()} == {
        "u2net": 320,
        "birefnet": 1024,
        "isnet": 1024,
        "modnet": 512,
    }


def test_logits_and_open_sides_are_read(u2net: Path, tmp_path: Path) -> None:
    def without_sigmoid(model: ModelProto) -> None:
        del model.graph.node[-1]
        model.graph.output[0].name = "logits"

    def open_sides(model: ModelProto) -> None:
        for value in (model.graph.input[0], model.graph.output[0]):
            for side in value.type.tensor_type.shape.dim[2:]:
                side.dim_param = "side"

    logits = changed(u2net, tmp_path / "logits.onnx", without_sigmoid)
    expected = open_salient(u2net).saliency(scene())
    np.testing.assert_allclose(open_salient(logits).saliency(scene()), expected, atol=1e-6)
    assert np.abs(open_salient(f"{logits}:modnet").saliency(scene()) - expected).max() > 0.1
    with pytest.raises(SettingsError, match=r"open\.onnx.* do not fit to each other"):
        open_salient(f"{changed(u2net, tmp_path / 'open.onnx', open_sides)}:modnet")
    opened = open_salient(f"{changed(u2net, tmp_path / 'any.onnx', _brightness([0]))}:modnet")
    assert opened.size == (512, 512)
    assert opened.saliency(scene()).shape == (512, 512)
    broken = open_salient(f"{changed(u2net, tmp_path / 'broken.onnx', _brightness([7]))}:modnet")
    with pytest.raises(SettingsError, match=r"broken\.onnx fails on a picture"):
        broken.saliency(scene())


def test_a_model_that_finds_nothing_is_said_to(pristine: Path, u2net: Path, tmp_path: Path) -> None:
    def never(model: ModelProto) -> None:
        weak = numpy_helper.from_array(np.float32(-50), "weak")
        model.graph.initializer.append(weak)
        model.graph.node.append(helper.make_node("Sigmoid", ["weak"], ["nothing"]))
        model.graph.node.append(helper.make_node("Mul", [model.graph.output[0].name, "nothing"], ["none"]))
        model.graph.output[0].name = "none"

    pipeline = Pipeline.load(pristine)
    blind = pipeline.cache(scene(), segmenter=changed(u2net, tmp_path / "u2net.onnx", never))
    assert blind.background.startswith("no subject found by the given segmenter, fed as u2net; background ")
    assert "no subject found" not in pipeline.cache(scene(), segmenter=u2net).background
    assert "no subject found" not in pipeline.cache(scene()).background


def test_masks_of_another_range_are_no_logits(u2net: Path, tmp_path: Path) -> None:
    """Taken for logits, 0 to 255 would be a subject everywhere."""

    def in_bytes(model: ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.float32(255), "most"))
        model.graph.node.append(helper.make_node("Mul", [model.graph.output[0].name, "most"], ["bytes"]))
        model.graph.output[0].name = "bytes"

    opened = open_salient(changed(u2net, tmp_path / "u2net.onnx", in_bytes))
    with pytest.raises(SettingsError, match="a mask from 0 to 1, or logits, is expected, received 1"):
        opened.find_subject(scene())
    assert open_salient(u2net).saliency(scene()).max() <= 1


def test_sides_below_0_are_open_ones(u2net: Path, tmp_path: Path) -> None:
    def open_sides(model: ModelProto) -> None:
        _brightness([0])(model)
        for value in (model.graph.input[0], model.graph.output[0]):
            for place in (0, 2, 3):
                value.type.tensor_type.shape.dim[place].dim_value = -1

    opened = open_salient(f"{changed(u2net, tmp_path / 'any.onnx', open_sides)}:modnet")
    assert opened.size == (512, 512)
    assert opened.saliency(scene()).shape == (512, 512)


def _brightness(channels: list[int]) -> Callable[[ModelProto], None]:
    """A graph for pictures of any size that takes some of their channels, absent ones too."""

    def change(model: ModelProto) -> None:
        sides: list[list[str | int]] = [[1, 3, "h", "w"], [1, len(channels), "h", "w"]]
        values = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in zip(("given", "made"), sides, strict=True)
        ]
        taken = numpy_helper.from_array(np.array(channels), "channels")
        node = helper.make_node("Gather", ["given", "channels"], ["made"], axis=1)
        model.graph.CopyFrom(helper.make_graph([node], "channels", values[:1], values[1:], [taken]))

    return change


def _identity(shape: list[int], kind: int = TensorProto.FLOAT) -> Callable[[ModelProto], None]:
    """A graph that gives what it is given."""

    def change(model: ModelProto) -> None:
        values = [helper.make_tensor_value_info(name, kind, shape) for name in ("given", "made")]
        node = helper.make_node("Identity", ["given"], ["made"])
        model.graph.CopyFrom(helper.make_graph([node], "identity", values[:1], values[1:]))

    return change


def _second_input(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("sizes", TensorProto.FLOAT, [1, 2]))


def _no_output(model: ModelProto) -> None:
    del model.graph.output[:]


def _nan(model: ModelProto) -> None:
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.float32(np.nan), "scale"))


def _random(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("RandomNormal", [], ["noise"], shape=[4]))


def _elsewhere(model: ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _second_input,
            r"one float32 input \[1, 3, h, w\] is expected, received \[\[1, 3, 64, 64\], \[1, 2\]\]",
        ),
        (_identity([1, 3, 64]), r"one float32 input \[1, 3, h, w\] is expected, received \[\[1, 3, 64\]\]"),
        (_identity([1, 1, 64, 64]), r"one float32 input \[1, 3, h, w\] is expected"),
        (_identity([1, 3, 64, 9000]), r"one float32 input \[1, 3, h, w\] is expected"),
        (_identity([1, 3, 64, 64], TensorProto.FLOAT16), r"one float32 input .* tensor\(float16\)"),
        (_identity([1, 3, 64, 64]), r"a first output \[1, 1, h, w\] is expected, received \[1, 3, 64, 64\]"),
        (_no_output, r"a first output \[1, 1, h, w\] is expected, received \[\]"),
        (_nan, "received NaN or infinite ones in scale"),
        (_random, "operator RandomNormal is not allowed"),
        (_elsewhere, "weights inside the file are expected"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    u2net: Path, tmp_path: Path, change: Callable[[ModelProto], None], message: str
) -> None:
    place = tmp_path / "other.onnx"
    model = onnx.load(u2net)
    change(model)
    place.write_bytes(model.SerializeToString())
    with pytest.raises(SettingsError, match=message) as caught:
        open_salient(place)
    assert "\n" not in str(caught.value)
    assert str(place) in str(caught.value)


def test_absent_files_and_other_files_are_one_line(tmp_path: Path, u2net: Path, pristine: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"no salient-object model at '.*none\.onnx:cat'; .*FILE:FORM, birefnet"
    ):
        open_salient(tmp_path / "none.onnx:cat")
    (tmp_path / "text.onnx").write_bytes(b"no model")
    with pytest.raises(SettingsError, match="an ONNX model is expected"):
        open_salient(tmp_path / "text.onnx")
    cut = tmp_path / "cut.onnx"
    shutil.copy(u2net, cut)
    cut.write_bytes(cut.read_bytes()[:-40])
    with pytest.raises(SettingsError, match="an ONNX model is expected"):
        Pipeline.load(pristine).cache(scene(), segmenter=cut)
