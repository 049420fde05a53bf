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
    fits, lacks, wide, small, exact, rounded, more = ask_page(
        [
            unfit("web", 120.0, half, 128 * MIB),
            unfit("web", 120.0, [], 128 * MIB),
            unfit("web8", 120.0, [], 128 * MIB),
            unfit("web8", 152.0, half, 128 * MIB),
            unfit("web", 128 * MIB / 1e6, half, 128 * MIB),
            unfit("web", round(128 * MIB / 1e6, 3), half, 128 * MIB),
            unfit("web", (128 * MIB + 1024) / 1e6, half, 128 * MIB),
        ]
    )
    assert fits == wide == exact == rounded == ""
    assert more.startswith("The GPU of this device binds at most 134 MB at once")
    assert lacks.startswith("The GPU of this device has no 16-bit arithmetic: the processor draws.")
    assert small.startswith("The GPU of this device binds at most 134 MB at once, and this bundle needs 152:")


def test_what_the_page_does_not_run_needs_no_gpu() -> None:
    """A whole decoder that has strips, and the stock model."""
    case = unfit("web8", 1.0, [], 128 * MIB)
    needs = {"vae_decoder": {"largest_mb": 268.0}, "plain": {"largest_mb": 200.0}}
    head, strip = {"vae_decoder_head": {"largest_mb": 34.0}}, {"vae_decoder_strip_0": {"largest_mb": 135.0}}
    answers = ask_page(
        [
            {**case, "contract": {"precision": "web8", "parity": {"needs": given}}}
            for given in (needs, needs | head, needs | head | strip)
        ]
    )
    assert ["needs" in answer for answer in answers] == [True, False, True]


def test_less_shared_memory_is_asked_for_where_a_browser_refuses_4_gb() -> None:
    asked = {"initial": 256, "maximum": 65536, "shared": True}
    whole, quarter, none = ask_page(
        [{"ask": "memory", "asked": asked, "most": most} for most in (65536, 20000, 200)]
    )
    assert whole == asked
    assert quarter == {**asked, "maximum": 16384}
    assert none == {"error": "too large"}


def test_errors_of_the_engine_say_what_to_do() -> None:
    said = [
        "std::bad_alloc",
        "2147483648",
        "Device is lost",
        "Invalid input",
        "safeint.h:17 Integer overflow",
    ]
    memory, number, gpu, other, size = ask_page(
        [{"ask": "explained", "said": one, "graph": "denoiser"} for one in said]
    )
    assert memory.startswith("The browser has too little memory for denoiser. Close other tabs")
    assert number.startswith("The browser has too little memory")
    assert gpu.startswith("The GPU gave up at denoiser. Reload this page")
    assert other == "denoiser: Invalid input"
    assert size.startswith("denoiser is too large for a browser's engine.")


def test_the_number_of_threads_that_was_the_fastest_comes_after_a_checked_gpu() -> None:
    gpu, *threads = [{"provider": "webgpu", "threads": 1}] + [
        {"provider": "wasm", "threads": count} for count in (4, 2, 1)
    ]
    cases = [([gpu, *threads], 2), (threads, 1), ([*threads, gpu], 4), (threads, 0)]
    orders = ask_page([{"ask": "order", "found": found, "threads": known} for found, known in cases])
    four, two, one = threads
    assert orders == [[gpu, two, four, one], [one, four, two], [four, two, one, gpu], [four, two, one]]


def test_a_quick_measurement_takes_fewer_samples_of_a_slow_device() -> None:
    cases = [(12, 20, 10), (12, 20, 3_000), (12, 20, 60_000), (64, 1e9, 60_000)]
    asked = [
        {"ask": "turns", "count": count, "seconds": part_s, "each": each} for count, part_s, each in cases
    ]
    assert ask_page(asked) == [12, 7, 1, 64]
