"""The command: prepare what is missing, run every case in a process of its own, write record and table."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dreamcache.benchmarks.host import describe_host
from dreamcache.benchmarks.process.sampler import MemorySampler
from dreamcache.benchmarks.protocol.reference import draw_reference
from dreamcache.benchmarks.runner_settings import runner_settings
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.errors import DreamCacheError, SettingsError
from peers.cases import Case, all_cases
from peers.figures import bars, row_figures
from peers.job import Job, write_job
from peers.table import to_markdown

SCHEMA_VERSION = 1
ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).parent / "requirements"
# A case that takes longer than this on any machine worth measuring hangs.
PATIENCE_S = 1800


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 with one line that says what is wrong."""
    given = _parser().parse_args(arguments)
    try:
        record = run(given)
    except (DreamCacheError, OSError, subprocess.CalledProcessError) as error:
        print(f"peers: {error}", file=sys.stderr)
        return 1
    if given.json is not None:
        given.json.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if given.methods is not None:
        given.methods.write_text(json.dumps(methods(record), indent=1) + "\n", encoding="utf-8")
    page = to_markdown(record)
    if given.markdown is not None:
        given.markdown.write_text(page, encoding="utf-8")
    print(page)
    return 0


def run(given: argparse.Namespace) -> dict[str, Any]:
    """The record of everything that was asked for; a case that fails is in it with the reason."""
    given.work.mkdir(parents=True, exist_ok=True)
    known = all_cases(given.bundle_fp32, tuple(given.bundle_int8))
    cases = [case for case in known if given.only is None or case.name in given.only]
    fingerprints = _check_bundles(given)
    pythons = {case.script: _python(given.work, case, given.install) for case in cases}
    lacking = {case.name: _lacking(pythons[case.script], case) for case in cases}
    parts = {part for case in cases if not lacking[case.name] for part in case.parts}
    expected = _prepare(given, sorted(parts))
    base = given.base or given.work / "base"
    host = describe_host()
    measured = _earlier(given.earlier, expected, host.cpu)
    with TemporaryDirectory() as scratch:
        reference = draw_reference(Path(scratch) / "reference.png")
        for case in cases:
            print(f"{case.name} …", file=sys.stderr, flush=True)
            if lacking[case.name]:
                wanted = f"requirements/{case.script}.txt"
                measured[case.name] = _not_run(
                    f"{lacking[case.name]} is not installed ({wanted}, or --install)"
                )
                continue
            job = Job(
                method=case.method,
                precision=case.precision,
                engine=case.engine,
                base=str(base),
                prepared=str(given.work),
                reference=str(reference),
                bundle=None if case.bundle is None else str(case.bundle.resolve()),
                repeats=given.repeats,
                threads=given.threads,
                out=str(Path(scratch) / f"{case.name}.json"),
            )
            measured[case.name] = run_case(pythons[case.script], case, job, Path(scratch))
    rows = {
        row.name: row_figures(case, row, measured[case.name], given.steps)
        for case in known
        if measured.get(case.name, _not_run(""))["status"] == "measured"
        for row in case.rows
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": host.model_dump(mode="json"),
        "settings": {
            "base": f"{given.architecture}, random weights" if given.base is None else given.base.name,
            "base_fingerprint": expected,
            "weights_differ": [name for name, found in fingerprints.items() if found != expected],
            "encoder": given.encoder,
            "steps": given.steps,
            "repeats": given.repeats,
            "threads": given.threads,
            "runner": runner_settings(),
        },
        "cases": {case.name: measured[case.name] for case in known if case.name in measured},
        "rows": [figures.to_json() for figures in rows.values()],
        "bars": [{**asdict(bar), "verdict": bar.verdict} for bar in bars(rows)],
    }


def run_case(python: Path, case: Case, job: Job, scratch: Path) -> dict[str, Any]:
    """One fresh process, its memory sampled from outside for as long as it lives."""
    told = scratch / f"{case.name}.job.json"
    write_job(job, told)
    with (scratch / f"{case.name}.log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [str(python), "-m", f"peers.{case.script}", str(told)], env=_environment(), stdout=log, stderr=log
        )
        sampler = MemorySampler(process.pid).start()
        try:
            status = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            return _not_run(f"took longer than {PATIENCE_S} s")
        finally:
            process.kill()
            process.wait()
            peak = sampler.stop()
        log.seek(0)
        lines = log.read().strip().splitlines() or ["without a word"]
    if status != 0:
        return _not_run(f"exit status {status}: {lines[-1]}")
    answer = json.loads(Path(job.out).read_text(encoding="utf-8"))
    return {"status": "measured", "engine": case.engine, **answer, "memory": asdict(peak)}


def methods(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows with a subject, as `dreamcache bench --methods` reads them."""
    return [
        {
            "name": f"{row['method']} ({row['engine']} {row['precision']})",
            "subject_s": row["subject_s"],
            "picture_s": row["tenth_s"],
        }
        for row in record["rows"]
        if row["personalised"] and not row["name"].startswith("dreamcache")
    ]


def _check_bundles(given: argparse.Namespace) -> dict[str, str]:
    """Each bundle's fingerprint of its base. Raises: BundleError; DreamCacheError for another precision."""
    found = {}
    wanted = [(given.bundle_fp32, "fp32")] if given.bundle_fp32 is not None else []
    for path, precision in [*wanted, *((path, "int8") for path in given.bundle_int8)]:
        contract = open_bundle(path, False).contract
        if contract.precision != precision:
            raise DreamCacheError(f"{path}: an {precision} bundle is expected, received {contract.precision}")
        if contract.graphs.plain is None:
            raise DreamCacheError(f"{path}: a plain graph is expected; export the bundle again")
        found[path.name] = contract.fingerprints.base
    return found


def _prepare(given: argparse.Namespace, parts: Sequence[str]) -> str:
    """In a process of its own, whose memory goes with it. Returns the fingerprint of the base."""
    command = [sys.executable, "-m", "peers.prepare", "--work", str(given.work), "--encoder", given.encoder]
    command += ["--architecture", given.architecture]
    if given.base is not None:
        command += ["--base", str(given.base)]
    done = subprocess.run(
        [*command, "--parts", "base", *parts],
        env=_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.strip().splitlines()[-1]


def _python(work: Path, case: Case, install: bool) -> Path:
    """The script's own venv where there is one, else this interpreter."""
    place = work / "venvs" / case.script
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if python.exists():
        return python
    here = Path(sys.executable)
    if not install or not _lacking(here, case):
        return here
    print(f"installing {case.script} …", file=sys.stderr, flush=True)
    venv.create(place, with_pip=True)
    command = [str(python), "-m", "pip", "install", "-q", "-r", str(REQUIREMENTS / f"{case.script}.txt")]
    subprocess.run(command, stdout=sys.stderr, check=False)
    _first_missing.cache_clear()
    return python


def _lacking(python: Path, case: Case) -> str:
    """The first module that the interpreter cannot find; empty when there is none."""
    return _first_missing(str(python), case.imports)


@cache
def _first_missing(python: str, modules: tuple[str, ...]) -> str:
    program = "import sys\nfrom importlib.util import find_spec\nfor name in sys.argv[1:]:\n"
    program += " try: found = find_spec(name)\n except ImportError: found = None\n"
    program += " if found is None: print(name); break\n"
    command = [python, "-c", program, *modules]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True)
    words = done.stdout.split()
    return words[-1] if words else ""


def _earlier(records: Sequence[Path], fingerprint: str, cpu: str) -> dict[str, Any]:
    """Cases of earlier records, of which later ones win; each says when it was measured.

    Raises:
        SettingsError: a record of another base or another processor, which cannot stand in one table.
    """
    found: dict[str, Any] = {}
    for path in records:
        record = json.loads(path.read_text(encoding="utf-8"))
        if (record["settings"]["base_fingerprint"], record["host"]["cpu"]) != (fingerprint, cpu):
            raise SettingsError(f"--earlier {path}: another base or another processor; measure it again")
        note = f"measured in the run of {record['made']}"
        found |= {
            name: {**case, "notes": [*case.get("notes", ()), note]}
            for name, case in record["cases"].items()
            if case["status"] == "measured"
        }
    return found


def _not_run(reason: str) -> dict[str, Any]:
    return {"status": "not run", "reason": reason}


def _environment() -> dict[str, str]:
    """The rooms of this checkout on the path; a peer's venv has none of them. Nothing is asked of a hub."""
    rooms = [str(ROOT / room) for room in ("models", "export", "runtime", "benchmarks")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(rooms), "HF_HUB_OFFLINE": "1"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks/peers/run.py", description=__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for weights, exports and venvs; kept"
    )
    parser.add_argument("--bundle-fp32", type=Path, help="fp32 bundle of the same base")
    parser.add_argument(
        "--bundle-int8",
        type=Path,
        nargs="+",
        default=[],
        help="int8 bundles; peers are compared with the first",
    )
    parser.add_argument("--base", type=Path, help="diffusers folder; a random base by default")
    parser.add_argument(
        "--architecture", default="sd15", help="architecture of the random base, default sd15"
    )
    parser.add_argument(
        "--encoder", default="vit-h", help="image encoder: vit-h, or tiny for trying things out"
    )
    parser.add_argument("--steps", type=int, default=20, help="denoising steps, default 20")
    parser.add_argument("--repeats", type=int, default=3, help="UNet calls measured for each case")
    parser.add_argument("--threads", type=int, help="threads; default: each library's choice")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="cases by name")
    parser.add_argument(
        "--earlier",
        type=Path,
        nargs="+",
        default=[],
        metavar="JSON",
        help="earlier records, for cases that this run does not measure",
    )
    parser.add_argument(
        "--install", action="store_true", help="make a venv for each peer that lacks something"
    )
    parser.add_argument("--json", type=Path, help="record to write")
    parser.add_argument("--markdown", type=Path, help="table to write")
    parser.add_argument("--methods", type=Path, help="file to write for dreamcache bench --methods")
    return parser
