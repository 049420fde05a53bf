"""Run the notebooks of examples/ and keep their outputs, without what libraries wrote to stderr.

    pip install nbclient ipykernel
    python docs/scripts/notebooks.py [NAME ...]

Run it again when the shipped miniature changes: the pictures in them are its own. Precisions exports it three times,
which takes minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def executed(path: Path) -> str:
    """A notebook's file after its cells have run in its folder."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": str(path.parent)}}).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.metadata.pop("execution", None)
            for output in cell.outputs:
                output.get("data", {}).pop("image/jpeg", None)  # the same picture as its PNG
    notebook.metadata["language_info"] = {"name": "python"}
    return str(nbformat.writes(notebook)).rstrip("\n") + "\n"


def main() -> None:
    names = sorted(path.stem for path in EXAMPLES.glob("*.ipynb"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name", nargs="*", default=names, help=f"all by default: {', '.join(names)}")
    for name in parser.parse_args().name:
        path = EXAMPLES / f"{name}.ipynb"
        path.write_text(executed(path), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
