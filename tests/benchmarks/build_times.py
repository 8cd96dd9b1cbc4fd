"""Time what a new reader runs: a fresh clone, `make book`, `make site`.

    python tests/benchmarks/build_times.py

Prints a table and asserts nothing: times belong to a machine. The clone holds what is
committed, in a temporary folder with a virtual environment of its own.
"""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A weights cache of another run would flatter the times.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PRETRAIN_CACHE"}


def seconds(*command: str, cwd: Path) -> float:
    """Run a command, showing its output, and return how long it took."""
    start = time.perf_counter()
    subprocess.run(command, cwd=cwd, env=ENVIRONMENT, check=True)
    return time.perf_counter() - start


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        source = ROOT.as_uri()
        seconds("git", "clone", "--quiet", "--depth=1", source, str(clone), cwd=ROOT)
        install = seconds("make", ".venv/.installed", cwd=clone)
        book = seconds("make", "book", cwd=clone)
        site = seconds("make", "site", cwd=clone)
        times = json.loads((clone / "_build" / "times.json").read_text())

    chapters = times["chapters"]
    print(f"\n{'':34}seconds  peak MB")
    for chapter in chapters:
        memory = chapter["peak_mb"] or "–"
        print(f"{chapter['chapter']:34}{chapter['seconds']:7.1f}  {memory:>7}")
    executing = sum(chapter["seconds"] for chapter in chapters)
    for name, value in {
        "all chapters": executing,
        "rendering the pages": times["render_seconds"],
        "installing": install,
        "make book, installation included": install + book,
        "make site": site,
    }.items():
        print(f"{name:34}{value:7.1f}")


if __name__ == "__main__":
    main()
