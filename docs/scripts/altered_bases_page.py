"""Writes docs/results/bases.json and docs/findings/altered-bases.md: each altered base, equal to diffusers or refused.

PYTHONPATH=tests/support python docs/scripts/altered_bases_page.py [FROM TO]

With two numbers, only those cases are judged anew, counted from 0, without the last one; the others keep their rows.
Those with graphs of their own come last and take by far the longest: about 15 s of a core each, the others less than 1.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from judged_bases import EQUAL_DB, Judge, Outcome
from table_of_bases import table_of_bases
from tiny_models import write_tiny_base

DOCS = Path(__file__).parents[1]
STEPS = 20
HEAD = """# Altered bases

{total} altered copies of a tiny base and of a tiny SDXL, some with a LoRA or a textual inversion joined. Each was
exported and drawn by its bundle with the bundle's own default sampler, and by diffusers' pipeline on the same folder:
{steps} steps, classic guidance (none where the UNet takes a guidance scale), no reference, the same noise, and the same
token ids and timesteps. diffusers' pipeline goes without safety checker, feature extractor and image encoder, and with
`load_lora_weights`, `fuse_lora` and `load_textual_inversion` where something is joined. {equal} are equal (at least
{db:.0f} dB; 8 bits of a picture leave 59), {refused} are refused in one line before the first graph is written: what
a bundle cannot equal, and what diffusers itself does not load or draw. `docs/scripts/altered_bases_page.py` wrote
this page and `docs/results/bases.json`; `tests/models/bases/test_differential.py` holds those of its first lists that
share the unaltered base's graphs to it, in 4 steps.

| case | diffusers | ours | dB |
|---|---|---|---|
"""


def as_page(rows: Sequence[Outcome]) -> str:
    """The page's text."""
    counts = Counter(row.outcome for row in rows)
    head = HEAD.format(
        total=len(rows), steps=STEPS, db=EQUAL_DB, equal=counts["equal"], refused=counts["refused"]
    )
    cells = ((row.case, row.diffusers or "", row.ours or row.outcome, row.db or "") for row in rows)
    return head + "".join(
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |\n" for line in cells
    )


def main() -> None:
    """Judge all of them, or those that are asked for; each is written as it is known."""
    cases = table_of_bases()
    first, last = map(int, sys.argv[1:3] if len(sys.argv) > 1 else (0, len(cases)))
    place = DOCS / "results" / "bases.json"
    kept = {row["case"]: Outcome(**row) for row in json.loads(place.read_text(encoding="utf-8"))}
    with TemporaryDirectory() as name:
        room = Path(name)
        judge = Judge(write_tiny_base(room / "base"), room / "graphs", STEPS)
        for i, case in enumerate(cases[first:last]):
            kept[case.name] = judge.judged(case, room / str(i))
            print(kept[case.name], flush=True)
            rows = [kept[case.name] for case in cases if case.name in kept]
            record = json.dumps([row._asdict() for row in rows], indent=1, ensure_ascii=False)
            place.write_text(record + "\n", encoding="utf-8")
            (DOCS / "findings" / "altered-bases.md").write_text(as_page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
