"""Which engines the page offers a bundle: a GPU that would fail when it runs is left out in one sentence."""

from __future__ import annotations

from page_files import ask_page

MIB = 1 << 20


def unfit(precision: str, largest_mb: float, features: list[str], bound: int) -> dict[str, object]:
    needs = {"denoiser": {"largest_mb": largest_mb}, "cache": {"largest_mb": 1.0}}
    contract = {"precision": precision, "parity": {"needs": needs}}
    limits = {"maxStorageBufferBindingSize": bound}
    return {"ask": "unfit", "features": features, "limits": limits, "contract": contract}


def test_a_gpu_that_would_fail_is_left_out_in_a_sentence() -> None:
    half = ["shader-f16"]
    fits, lacks, wide, small, exact = ask_page(
        [
            unfit("web", 120.0, half, 128 * MIB),
            unfit("web", 120.0, [], 128 * MIB),
            unfit("web8", 120.0, [], 128 * MIB),
            unfit("web8", 152.0, half, 128 * MIB),
            unfit("web", 128 * MIB / 1e6, half, 128 * MIB),
        ]
    )
    assert fits == wide == exact == ""
    assert lacks.startswith("The GPU of this device has no 16-bit arithmetic: the processor draws.")
    assert small.startswith("The GPU of this device binds at most 134 MB at once, and this bundle needs 152:")
