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
}
ANDROID_BINDING_MB = (128 << 20) / 1e6
"""The storage that many Android GPUs bind at once, and WebGPU's least `maxStorageBufferBindingSize`."""
IOS_TAB_MB = 1500.0
"""What a page may take on iOS before it is ended, about."""
WASM_MB = (4 << 30) / 1e6


def row(folder: Path, name: str, file: str) -> str:
    """Files of one graph, weights with its own and every limit."""
    needs = graph_needs(folder / file)
    place = (folder / file).parent
    disk = sum(path.stat().st_size for path in (folder / file, place / "weights.data")) / 1e6
    # A page holds a file once as it came and once as the engine has it.
    limits = {
        "128 MiB binding": needs.largest_mb <= ANDROID_BINDING_MB,
        "iOS tab": 2 * needs.weights_mb + needs.largest_mb <= IOS_TAB_MB,
        "WASM": 2 * needs.weights_mb + needs.largest_mb <= WASM_MB,
    }
    marks = " | ".join("yes" if fits else "no" for fits in limits.values())
    return f"| `{folder.name}` | {name} | {disk:,.0f} | {needs.weights_mb:,.0f} | {needs.largest_mb:.0f} | {marks} |"


def main() -> None:
    """See the first lines."""
    print("| bundle | graph | files | its weights | largest tensor | 128 MiB binding | iOS tab | WASM |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in sys.argv[1:]:
        for name, file in GRAPHS.items():
            print(row(Path(folder), name, file), flush=True)


if __name__ == "__main__":
    main()
