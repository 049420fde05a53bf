"""The page's modules are typed by JSDoc, and TypeScript's checker finds nothing in them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

from page_files import PAGE, need

TOOLS = Path(__file__).resolve().parents[2] / "support" / "typescript"
_WRONG = """import { combine } from "./sampling/guidance.mjs";
/** @param {number} steps */
export const wrong = (steps) => combine({ mode: "dual" }, steps);
"""


def test_the_modules_are_typed(tmp_path: Path) -> None:
    tools, page = tmp_path / "tools", tmp_path / "page"
    tools.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(TOOLS / name, tools)
    npm = [need("npm", "npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(npm, cwd=tools, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    shutil.copytree(PAGE, page)
    (page / "wrong.mjs").write_text(_WRONG)
    config = json.loads((TOOLS / "tsconfig.json").read_text())
    (tools / "tsconfig.json").write_text(json.dumps({**config, "include": ["../page/**/*.mjs"]}))
    checker = tools / "node_modules/typescript/bin/tsc"
    done = subprocess.run(
        [need("node", "nodejs"), str(checker), "-p", str(tools)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    errors = re.findall(r"^(\S+?\.mjs)\(", done.stdout, re.MULTILINE)
    assert {Path(name).name for name in errors} == {"wrong.mjs"}, done.stdout
