"""What each graph of a bundle asks of a browser, and which limits it meets: a table for docs/guides/web.md.

    python docs/scripts/browser_limits.py FOLDER...

FOLDER: a bundle, or any folder with graphs in a bundle's places. Nothing is run. Megabytes of 10⁶ bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dreamcache.export.parity.browser import graph_needs

GRAPHS = {
    "text encoder": "text_encoder/model.onnx",
    "VAE encoder": "vae_encoder/model.onnx",
    "caching graph": "unet/cache.onnx",
    "denoiser": "unet/model.onnx",
    "VAE decoder": "vae_decoder/model.onnx",
    "VAE decoder, strips": "vae_decoder/[hs]*.onnx",
}
"""Patterns; of several graphs, which are open one after the other, the largest figures count."""
ANDROID_BINDING_MB = (128 << 20) / 1e6
"""The storage that many Android GPUs bind at once, and WebGPU's least `maxStorageBufferBindingSize`."""
IOS_TAB_MB = 1500.0
"""What a page may take on iOS before it is ended, about."""
WASM_MB = (4 << 30) / 1e6


def row(folder: Path, name: str, pattern: str) -> str | None:
    """Files of one graph, weights with its own and every limit; None where the bundle has no such graph."""
    files = sorted(folder.glob(pattern))
    if not files:
        return None
    needs = [graph_needs(file) for file in files]
    weights, largest = (max(one) for one in zip(*((n.weights_mb, n.largest_mb) for n in needs), strict=True))
    disk = sum(path.stat().st_size for path in (*files, files[0].parent / "weights.data")) / 1e6
    # A page holds a file once as it came and once as the engine has it.
    limits = {
        "128 MiB binding": largest <= ANDROID_BINDING_MB,
        "iOS tab": 2 * weights + largest <= IOS_TAB_MB,
        "WASM": 2 * weights + largest <= WASM_MB,
    }
    marks = " | ".join("yes" if fits else "no" for fits in limits.values())
    return f"| `{folder.name}` | {name} | {disk:,.0f} | {weights:,.0f} | {largest:.0f} | {marks} |"


def main() -> None:
    """See the first lines."""
    print("| bundle | graph | files | its weights | largest tensor | 128 MiB binding | iOS tab | WASM |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in sys.argv[1:]:
        for name, pattern in GRAPHS.items():
            if (found := row(Path(folder), name, pattern)) is not None:
                print(found, flush=True)


if __name__ == "__main__":
    main()
