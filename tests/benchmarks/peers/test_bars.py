"""`peers.bars`: ratios of medians of one group's samples, and the calls' order."""

from __future__ import annotations

from peers.bars import measure, report


def test_a_bar_is_the_ratio_of_medians_of_its_own_group() -> None:
    steps = {"PyTorch bf16 plain step": [9.0, 3.0, 3.0], "int8 step": [1.5, 1.5], "fp32 step": [2.5]}
    decode = {"int8 step": [100.0], "int8 decode": [50.0]}
    groups = {"steps": {"samples_s": steps}, "decode": {"samples_s": decode}}
    found = {bar["bar"]: (bar["ratio"], bar["met"]) for bar in report(groups)}
    assert found == {
        "step over PyTorch bf16's plain step, int8": (0.5, True),
        "int8 step over fp32 step, CPU provider": (0.6, False),
        "VAE decode over a step, int8": (0.5, True),
    }


def test_a_picture_is_compared_with_all_its_calls_and_the_decode() -> None:
    samples = {"PyTorch bf16 plain step": [1.0], "PyTorch bf16 decode": [15.0], "int8 picture": [60.0]}
    (bar,) = report({"picture": {"samples_s": samples}})
    assert bar["ratio"] == 0.8


def test_calls_alternate_and_the_first_round_is_not_counted() -> None:
    order = []

    def call(name: str) -> float:
        order.append(name)
        return float(len(order))

    taken = measure({"a": lambda: call("a"), "b": lambda: call("b")}, 2, True)
    assert "".join(order) == "baabba"
    assert taken == {"a": [3.0, 6.0], "b": [4.0, 5.0]}
