"""The subcommand `dreamcache cache`: a reference picture as a subject file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from dreamcache.runtime.cli import options
from dreamcache.runtime.errors import OutputError


def cache(
    bundle: options.BundleFolder,
    reference: Annotated[Path, options.picture(help="Picture of the subject (PNG, JPEG, WebP, AVIF, HEIC).")],
    out: Annotated[Path, options.output(help="Subject file to write: *.subject.safetensors.")],
    mask: options.Mask = None,
    segmenter: options.Segmenter = None,
    max_pixels: options.MaxPixels = None,
    profile: options.SessionProfile = "speed",
    provider: options.Provider = None,
    threads: options.Threads = None,
    no_thumbnail: Annotated[
        bool, options.output("--no-thumbnail", help="No small picture of the reference in the file.")
    ] = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Cache one reference picture as a subject file, for any number of prompts."""
    from dreamcache.runtime.files import claim_file
    from dreamcache.runtime.subject import SUFFIX

    if not out.name.endswith(SUFFIX):
        raise OutputError(f"--out: a name that ends in {SUFFIX} is expected, received {out.name}")
    claim_file(out, overwrite)
    pipeline = options.open_pipeline(bundle, provider, threads, profile)
    subject = pipeline.cache(reference, mask, max_pixels=max_pixels, segmenter=segmenter)
    replace(subject, thumbnail=None if no_thumbnail else subject.thumbnail).save(out, overwrite)
    holds = "a 128 px picture of the reference (--no-thumbnail leaves it out)"
    result = {"subject": str(out), "background": subject.background, "bytes": out.stat().st_size}
    options.print_result(
        result | {"thumbnail": not no_thumbnail},
        f"{out}: {subject.background}\nholds {'no picture' if no_thumbnail else holds}; nothing is sent anywhere",
        as_json,
    )
