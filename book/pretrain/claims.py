"""Sentences with numbers in them, and the check that they hold.

A chapter records what its `full` run measured in `results/<chapter>.json`. The claims
that the book makes are checked against that file, by whoever runs the chapter and by
the tests. `python -m pretrain.claims` writes the page that lists them all.
"""

import hashlib
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import date
from importlib import metadata
from pathlib import Path

from pretrain.cache import engine_version, read_json, write_json, write_text
from pretrain.data import ImageDataset
from pretrain.profiles import Profile, has_gpu

BOOK = Path(__file__).parent.parent
RESULTS = BOOK / "results"


def check(id: str, sentence: str, value: float, low: float, high: float) -> None:
    """Print a claim with its value, and insist that it holds.

    Args:
        id: the article's claim and a number of our own, such as `A6.1`.
        sentence: the claim in words.
        value: what was measured or computed.
        low, high: the band in which the sentence is true.

    Raises:
        AssertionError: if `value` lies outside the band.
    """
    holds = low <= value <= high
    line = f"{id}: {sentence}  [{value:.4g}, holds in {low:g} … {high:g}]"
    print(("✓ " if holds else "✗ ") + line)
    if not holds:
        raise AssertionError(f"The claim does not hold. {line}")


def record(
    name: str, values: dict, profile: Profile, dataset: ImageDataset, seed: int = 0
) -> None:
    """Store what a chapter measured, with where it came from, if the run is a full one.

    Other profiles measure something else and leave the file as it is.

    Args:
        name: the chapter; the file is `results/<name>.json`.
        values: anything that JSON can hold.
    """
    if profile.name != "full":
        print(f"results/{name}.json keeps the values of the book's full run.")
        return
    RESULTS.mkdir(exist_ok=True)
    content = {
        "values": values,
        "provenance": provenance(dataset, profile.name, [seed]),
    }
    write_json(RESULTS / f"{name}.json", content)
    print(f"Stored in results/{name}.json.")


def recorded(name: str) -> dict:
    """Return the values that the book's full run of a chapter stored.

    Raises:
        FileNotFoundError: if there was none yet.
    """
    path = RESULTS / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"results/{name}.json does not exist: run the chapter with PROFILE=full."
        )
    return read_json(path)["values"]


def provenance(dataset: ImageDataset, profile: str, seeds: Sequence[int]) -> dict:
    """Say what a result was computed with: code, versions, machine, data, profile.

    A commit ends in `-dirty` where the package or the lock differed from it.

    Raises:
        FileNotFoundError: if the lock of the packages is not beside the book.
    """
    lock = BOOK.parent / "requirements.lock"
    if not lock.exists():
        raise FileNotFoundError(
            f"{lock.name} is not beside the folder {BOOK.name}: a result has to name "
            "the packages that it was made with. Work in a whole clone of the project."
        )
    packages = ("keras", "numpy", "scikit-learn", "scipy")
    return {
        "commit": _commit(lock),
        "lock": hashlib.sha256(lock.read_bytes()).hexdigest()[:16],
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages}
        | {"engine": engine_version()},
        "hardware": f"{_processor()}, {os.cpu_count()} cores"
        + (", with a GPU" if has_gpu() else ""),
        "dataset": dataset.source,
        "sha256": dataset.sha256,
        "profile": profile,
        "seeds": list(seeds),
        "date": date.today().isoformat(),
    }


def _commit(lock: Path) -> str | None:
    commit = _git("rev-parse", "HEAD")
    deciding = (str(Path(__file__).parent), str(lock))
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", *deciding)
    return f"{commit}-dirty" if commit and changed else commit


def _git(*arguments: str) -> str | None:
    try:
        output = subprocess.run(
            ["git", *arguments], cwd=BOOK, check=True, capture_output=True, text=True
        )
        return output.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def page() -> str:
    """Return the Markdown page of all claims, read from the stored notebooks."""
    lines = [
        "# The claims, checked",
        "",
        "The numbers on which the conclusions of this book rest, each checked by a",
        "cell of the chapter named at the end of its line. A6.1 is our first check of",
        "the article's sentence A6 ([the map](index.md)); B stands for what goes",
        "beyond the article. A claim holds while its value stays in the range given.",
        "",
        "| claim | sentence | value | holds in | made in |",
        "|---|---|---|---|---|",
    ]
    for notebook in sorted(BOOK.glob("*.ipynb")):
        cells = read_json(notebook)["cells"]
        title = "".join(cells[0]["source"]).splitlines()[0].lstrip("# ")
        for line in _printed(cells):
            if line.startswith("✓ "):
                head, found = line.removeprefix("✓ ").rsplit("  [", 1)
                id, sentence = head.split(": ", 1)
                value, band = found.rstrip("]").split(", holds in ")
                chapter = f"[{title}]({notebook.name})"
                lines.append(f"| {id} | {sentence} | {value} | {band} | {chapter} |")
    return "\n".join(lines) + "\n"


def _printed(cells: list[dict]) -> list[str]:
    outputs = [o for cell in cells for o in cell.get("outputs", [])]
    text = "".join("".join(o["text"]) for o in outputs if o.get("name") == "stdout")
    return text.splitlines()


if __name__ == "__main__":
    write_text(BOOK / "claims.md", page())
