"""Two profiles give the same pictures; optimised graphs are kept, and trusted only as they were written."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dreamcache.runtime import Pipeline
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.errors import BundleError, SettingsError
from dreamcache.runtime.sessions.kept_graphs import FOLDER_VARIABLE, OptimisedGraph, graph_folder

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of optimised graphs, an empty one for each test."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


def _graph(bundle: Path, kept: Path, name: str = "denoiser") -> OptimisedGraph:
    opened = open_bundle(bundle)
    return OptimisedGraph(opened, opened.contract.graphs.by_name()[name], "memory", kept)


def test_both_profiles_give_the_same_picture(pristine: Path, toy: Path, kept: Path) -> None:
    pictures = []
    for profile in ("speed", "memory", "memory"):
        pipeline = Pipeline.load(pristine, threads=1, profile=profile)
        subject = pipeline.cache(toy)
        pictures.append(np.asarray(pipeline.generate("a robot", subject, steps=3, seed=7), np.int16))
        assert kept.exists() == (profile == "memory")
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    assert np.array_equal(pictures[1], pictures[2])
    assert len(list(kept.glob("*.graph"))) == 5
    assert [path for path in kept.iterdir() if path.suffix != ".graph"] == []


def test_a_profile_that_does_not_exist_is_named(pristine: Path) -> None:
    with pytest.raises(SettingsError, match="profile: one of speed, memory is expected, received 'tiny'"):
        Pipeline.load(pristine, profile="tiny")  # type: ignore[arg-type]


def test_a_kept_graph_is_used_again(pristine: Path, kept: Path) -> None:
    graph = _graph(pristine, kept)
    assert graph.read() is None
    assert graph.open(1) is not None
    written = graph.place.stat()
    assert graph.open(1) is not None
    assert graph.place.stat().st_mtime_ns == written.st_mtime_ns
    assert written.st_mode & 0o077 == 0


def test_large_weights_stay_in_the_bundles_own_file(pristine: Path, kept: Path, bundle: Path) -> None:
    graph = _graph(pristine, kept)
    graph.make(1)
    model = onnx.ModelProto.FromString(graph.read() or b"")
    external = [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    assert {
        entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"
    } == {"weights.data"}
    assert sum(int(e.value) for t in external for e in t.external_data if e.key == "length") > 40_000
    assert graph.place.stat().st_size < (bundle / "unet/weights.data").stat().st_size


def _edit(graph: OptimisedGraph) -> None:
    data = bytearray(graph.place.read_bytes())
    data[-20] ^= 1
    graph.place.write_bytes(data)


def _truncate(graph: OptimisedGraph) -> None:
    graph.place.write_bytes(graph.place.read_bytes()[:-1])


def _relabel(graph: OptimisedGraph) -> None:
    """Another graph with a hash record of its own, for another fingerprint."""
    other = replace(graph, spec=graph.bundle.contract.graphs.cache)
    other.make(1)
    graph.place.write_bytes(other.place.read_bytes())


def _open_to_all(graph: OptimisedGraph) -> None:
    graph.place.chmod(0o666)


def _lead_out(graph: OptimisedGraph) -> None:
    """A graph that carries the right hash, but reads a file that the bundle does not name."""
    tensor = TensorProto(name="secret", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../dreamcache.json"), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    node = helper.make_node("Identity", ["secret"], ["prediction"])
    made = helper.make_model(helper.make_graph([node], "out", [], [], [tensor])).SerializeToString()
    graph.place.write_bytes(graph._header(made) + made)


@pytest.mark.parametrize("damage", [_edit, _truncate, _relabel, _open_to_all, _lead_out])
def test_a_kept_graph_that_somebody_changed_is_made_again(pristine: Path, kept: Path, damage: object) -> None:
    graph = _graph(pristine, kept)
    graph.make(1)
    sound = graph.read()
    assert sound is not None
    assert callable(damage)
    damage(graph)
    assert graph.read() is None
    assert graph.open(1) is not None
    assert graph.read() == sound


def test_whatever_changes_the_graph_changes_its_name(
    pristine: Path, kept: Path, tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = _graph(pristine, kept)
    other = _graph(tiny.build(tmp_path / "other", seed=1), kept)
    names = {graph.fingerprint(), other.fingerprint(), replace(graph, profile="speed").fingerprint()}
    monkeypatch.setattr("onnxruntime.__version__", "0.0.1")
    names.add(graph.fingerprint())
    monkeypatch.setattr("dreamcache.runtime.sessions.kept_graphs._processor_features", lambda: ["abacus"])
    names.add(graph.fingerprint())
    assert len(names) == 5
    assert _graph(pristine, kept).fingerprint() == graph.fingerprint()


def test_what_a_killed_run_left_is_removed_when_it_is_old(pristine: Path, kept: Path) -> None:
    old, young, strange = (
        kept / name for name in (".dreamcache-optimising-a", ".dreamcache-optimising-b", "tmpx")
    )
    for left in (old, young, strange):
        left.mkdir(parents=True)
        (left / "model.onnx").write_bytes(b"half")
    for left in (old, strange):
        os.utime(left, (0, 0))
    _graph(pristine, kept).make(1)
    assert not old.exists()
    assert young.exists(), "another process may be writing it"
    assert strange.exists(), "it may be anybody's"


def test_a_folder_that_cannot_be_written_costs_no_picture(pristine: Path, toy: Path, kept: Path) -> None:
    kept.write_text("a file where the folder should be")
    pipeline = Pipeline.load(pristine, threads=1, profile="memory")
    assert pipeline.generate("a robot", pipeline.cache(toy), steps=1, seed=0).size == (16, 16)
    assert kept.is_file()


def test_a_graph_that_is_broken_is_still_named(bundle: Path, kept: Path) -> None:
    pipeline = Pipeline.load(bundle, threads=1, profile="memory")
    (bundle / "text_encoder/model.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match="text_encoder"):
        pipeline.embed({"prompt": "a"})
    assert not kept.exists() or list(kept.glob("*.graph")) == []


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert graph_folder() == tmp_path / "kept"
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert graph_folder() == tmp_path / "dreamcache"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert graph_folder() == Path.home() / ".cache/dreamcache"


_PROGRAM = """
import gc, os, sys
import numpy as np
from dreamcache.benchmarks.process.sampler import MemorySampler
from dreamcache.runtime.sessions.system_memory import read_memory
from dreamcache.runtime.sessions.allocator import release_freed
from dreamcache.runtime.sessions.profiles import prepare_process, session_options
import onnxruntime
profile, graph, keep_view = sys.argv[1], sys.argv[2], sys.argv[3] == "view"
prepare_process(profile)
before = read_memory(os.getpid()).private_mb
sampler = MemorySampler(os.getpid()).start()
session = onnxruntime.InferenceSession(graph, session_options(profile, 1))
result = session.run(None, {"x": np.ones((2048, 512), np.float32)})[0]
held = result if keep_view else np.array(result)
peak = sampler.stop().private_mb
del session, result
gc.collect()
release_freed()
print(peak - before, read_memory(os.getpid()).private_mb - before)
"""


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty products with 1 MB of weights each, and activations of 4 MB."""
    folder = tmp_path_factory.mktemp("heavy")
    random = np.random.default_rng(0)
    weights = [(random.standard_normal((512, 512)) * 0.04).astype(np.float32) for _ in range(40)]
    nodes = [
        helper.make_node("MatMul", [f"h{index}" if index else "x", f"w{index}"], [f"h{index + 1}"])
        for index in range(40)
    ]
    stored = [onnx.numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2048, 512]) for name in ("x", "h40")]
    graph = helper.make_graph(nodes, "heavy", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save_model(model, folder / "model.onnx", save_as_external_data=True, location="weights.data")
    return folder / "model.onnx"


def _private_mb(profile: str, graph: Path, result: str = "copy") -> tuple[float, float]:
    """Peak while the graph is open and what is left when it is closed, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, profile, str(graph), result],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    peak, left = map(float, done.stdout.split())
    return peak, left


@linux
def test_the_memory_profile_leaves_weights_in_their_file(heavy: Path) -> None:
    """42 MB of weights: copied in "speed", mapped in "memory"."""
    fast, small = _private_mb("speed", heavy)[0], _private_mb("memory", heavy)[0]
    assert fast > 50
    assert small < 30


@linux
def test_a_result_that_is_copied_lets_go_of_the_closed_graph(heavy: Path) -> None:
    copied, viewed = _private_mb("speed", heavy)[1], _private_mb("speed", heavy, "view")[1]
    assert copied < 12
    assert viewed > copied + 3


def test_results_are_our_own_memory(pristine: Path) -> None:
    pipeline = Pipeline.load(pristine, threads=1)
    texts = pipeline.embed({"prompt": "a robot"})
    gc.collect()
    assert all(array.flags.owndata for array in texts["prompt"].values())
