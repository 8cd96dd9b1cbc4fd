"""Execute, render and publish the book. `make help` lists what calls this.

    python tools/build.py book                  execute every chapter, render
    python tools/build.py site                  render the stored outputs
    python tools/build.py publish [CHAPTER...]  execute in place, store outputs
    python tools/build.py stamp                 write the Colab cells

A chapter is executed once per state of its code: what was executed is kept under
`_build/executed/`, so a run that was interrupted goes on where it stopped.
"""

import argparse
import base64
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import yaml
from jupyter_book.cli.main import main as jupyter_book
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from sphinx.cmd.build import main as sphinx

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "_build"
SOURCES = ("_config.yml", "_toc.yml", "book", "vendor")
LEFT_OUT = (".cache", "__pycache__", ".ipynb_checkpoints", "_build")


# ------------------------------------------------------------------ the book's parts


def pages(root: Path = ROOT) -> list[str]:
    """List the pages of `_toc.yml` in reading order, such as `book/index`."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [page["file"] for part in toc["parts"] for page in part["chapters"]]
    return [toc["root"], *chapters]


def notebooks(root: Path = ROOT) -> list[Path]:
    """List the notebooks among the pages."""
    paths = [root / f"{page}.ipynb" for page in pages(root)]
    return [path for path in paths if path.exists()]


def copy_sources(target: Path, root: Path = ROOT) -> Path:
    """Copy what a build reads into the empty folder `target`."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in SOURCES:
        if (root / name).is_dir():
            ignore = shutil.ignore_patterns(*LEFT_OUT)
            shutil.copytree(root / name, target / name, ignore=ignore)
        else:
            shutil.copy2(root / name, target / name)
    return target


def write_notebook(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write all of a notebook or nothing: to a temporary name, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    nbformat.write(notebook, temporary)
    os.replace(temporary, path)


# ------------------------------------------------------------------------- execution


class Progress:
    """One line about the chapter that is running; it grows older every second."""

    def __init__(self, chapter: str, cells: int):
        self.chapter, self.cells, self.cell = chapter, cells, 0
        self.start = time.perf_counter()
        # A log gets a line every half minute, a terminal one that is rewritten.
        self.interval = 1 if sys.stdout.isatty() else 30
        self._ended = threading.Event()
        self._clock = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "Progress":
        self._clock.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._clock.join()
        if sys.stdout.isatty():
            print("\r" + " " * 70, end="\r", flush=True)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def _tick(self) -> None:
        while not self._ended.wait(self.interval):
            line = f"  {self.chapter}: cell {self.cell} of {self.cells}, "
            line += f"{self.seconds:.0f} s"
            if sys.stdout.isatty():
                print("\r" + line.ljust(70), end="", flush=True)
            else:
                print(line, flush=True)


def peak_memory(pid: int) -> int | None:
    """Return the most memory a running process ever held, in MB (Linux only)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return round(int(found[1]) / 1024) if found else None


def fingerprint(notebook: nbformat.NotebookNode, sources: Path) -> str:
    """Hash what decides a chapter's outputs: its code, the package, data, settings."""
    digest = hashlib.sha256(sys.version.encode())
    for name in ("PROFILE", "KERAS_BACKEND", "PRETRAIN_CIFAR10"):
        digest.update(f"{name}={os.environ.get(name)}\n".encode())
    digest.update((ROOT / "requirements.lock").read_bytes())
    for path in sorted(sources.rglob("*")):
        pages_and_style = {".md", ".bib", ".ipynb", ".css", ".svg", ".pyc"}
        hidden = set(LEFT_OUT) & set(path.relative_to(sources).parts)
        if path.is_file() and path.suffix not in pages_and_style and not hidden:
            digest.update(str(path.relative_to(sources)).encode())
            digest.update(path.read_bytes())
    for cell in notebook.cells:
        if cell.cell_type == "code":
            digest.update(f"{cell.metadata.get('tags')}\n{cell.source}\n".encode())
    return digest.hexdigest()


def execute(path: Path, again: bool = False) -> nbformat.NotebookNode:
    """Execute the notebook at `path` in its folder and return it; write nothing there.

    Its outputs of an earlier run are used where nothing changed since, unless `again`.
    Exits with a message where a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    key = fingerprint(notebook, path.parent)
    kept = BUILD / "executed" / os.environ["PROFILE"] / path.name
    if kept.exists() and not again:
        earlier = nbformat.read(kept, as_version=4)
        if earlier.metadata.build["key"] == key:
            # Text may have changed where code has not: only the outputs are reused.
            results = iter(c for c in earlier.cells if c.cell_type == "code")
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    result = next(results)
                    cell.outputs = result.outputs
                    cell.execution_count = result.execution_count
            notebook.metadata.build = earlier.metadata.build
            print(f"  {path.stem}: unchanged since its last run", flush=True)
            return notebook

    code = [i for i, c in enumerate(notebook.cells) if c.cell_type == "code"]
    memory = None

    def started(cell: nbformat.NotebookNode, cell_index: int) -> None:
        if cell_index in code:
            progress.cell = code.index(cell_index) + 1

    def ended(**cell: object) -> None:
        nonlocal memory
        memory = peak_memory(client.km.provisioner.pid)

    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name=NATIVE_KERNEL_NAME,
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--log-level=ERROR"],
        coalesce_streams=True,
        record_timing=False,
        on_cell_start=started,
        on_cell_executed=ended,
    )
    with Progress(path.stem, len(code)) as progress:
        try:
            client.execute()
            failure = None
        except CellExecutionError:
            outputs = notebook.cells[code[progress.cell - 1]].outputs
            error = next(o for o in outputs if o.output_type == "error")
            failure = "\n".join(error.traceback)
        except DeadKernelError:
            failure = "The kernel died: was there enough memory?"
    if failure:
        source = notebook.cells[code[progress.cell - 1]].source
        sys.exit(
            f"\n{path.stem}: code cell {progress.cell} of {len(code)} failed.\n\n"
            f"{indented(source)}\n\n{failure}"
        )
    seconds = round(progress.seconds, 1)
    notebook.metadata.build = {"key": key, "seconds": seconds, "peak_mb": memory}
    clean(notebook, path.parent)
    write_notebook(notebook, kept)
    print(f"  {path.stem}: {seconds:.0f} s", flush=True)
    return notebook


def indented(code: str) -> str:
    """Indent code by four spaces."""
    return "\n".join("    " + line for line in code.splitlines())


def clean(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Drop what differs from machine to machine: versions, folders, timestamps."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = {"name": "python"}
    notebook.metadata.kernelspec = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    # Tracebacks name files; IPython shortens the home folder to a tilde.
    prefixes = [f"{place}{os.sep}" for place in (folder, ROOT)]
    home = str(Path.home())
    prefixes += [p.replace(home, "~", 1) for p in prefixes if p.startswith(home)]

    def without_folders(value):
        if isinstance(value, str):
            for prefix in prefixes:
                value = value.replace(prefix, "")
        elif isinstance(value, list):
            value = [without_folders(v) for v in value]
        elif isinstance(value, dict):
            value = {k: without_folders(v) for k, v in value.items()}
        return value

    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [
                nbformat.from_dict(without_folders(output)) for output in cell.outputs
            ]


# ------------------------------------------------------------------------- rendering


def render(source: Path, html: Path) -> None:
    """Render the sources in `source` with Sphinx; exits where there is a warning."""
    shutil.rmtree(html, ignore_errors=True)
    print("Rendering the pages", flush=True)
    # Jupyter Book turns _config.yml into the conf.py that Sphinx reads.
    with contextlib.redirect_stdout(io.StringIO()):
        jupyter_book(["config", "sphinx", str(source)], standalone_mode=False)
    # -E: a page that was read before must show its warnings again.
    strict = ["-W", "--keep-going", "-n", "-E", "-q"]
    doctrees = ["-d", str(html.parent / f"{html.name}-doctrees")]
    if sphinx([*strict, *doctrees, "-b", "html", str(source), str(html)]):
        sys.exit("The pages have the warnings above; a warning counts as an error.")


def where(html: Path) -> str:
    """Say where to open the book."""
    return f"Open {os.path.relpath(html / 'index.html')} in a browser."


def cost_of(path: Path, notebook: nbformat.NotebookNode) -> dict:
    """Take the cost of a chapter's execution out of its notebook."""
    cost = notebook.metadata.pop("build")
    return {
        "chapter": path.stem,
        "seconds": cost["seconds"],
        "peak_mb": cost["peak_mb"],
    }


def table(rows: list[dict]) -> str:
    """Lay out seconds and memory per chapter."""
    width = max((len(row["chapter"]) for row in rows), default=0)
    lines = [f"{'chapter':{width}}  seconds  peak MB"]
    for row in rows:
        memory = row["peak_mb"] or "–"
        lines.append(f"{row['chapter']:{width}}  {row['seconds']:7.1f}  {memory:>7}")
    total = sum(row["seconds"] for row in rows)
    lines.append(f"{'all':{width}}  {total:7.1f}")
    return "\n".join(lines)


# ---------------------------------------------------------------------- Colab's cells


def colab_cell(root: Path = ROOT) -> str:
    """Return the first code cell of every chapter, from `_config.yml`.

    On Colab it fetches the book at the pinned revision, once, and enters it. Colab
    brings TensorFlow and Keras along; they are left as they are.
    """
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    url, revision = config["repository"]["url"], config["repository"]["branch"]
    folder = url.rstrip("/").rsplit("/", 1)[-1]
    # The address ends its line: ruff then forgives the length.
    return (
        'if "google.colab" in str(get_ipython()):  # elsewhere there is nothing to do\n'
        f"    !cd /content; test -d {folder} || "
        f"git clone -qb {revision} --depth 1 {url}\n"
        f"    %cd -q /content/{folder}/book"
    )


def stamp(path: Path, text: str) -> bool:
    """Write the Colab cell of one notebook; return whether that changed it."""
    notebook = nbformat.read(path, as_version=4)
    cells = notebook.cells
    marked = [c for c in cells if "colab" in c.metadata.get("tags", [])]
    if marked:
        cell = marked[0]
    else:
        cell = nbformat.v4.new_code_cell(id="colab")
        code = [i for i, c in enumerate(cells) if c.cell_type == "code"]
        cells.insert(code[0] if code else len(cells), cell)
    before = (cell.source, cell.metadata.get("tags"))
    # The page need not show it; a reader on Colab or in the lab sees it.
    after = (text, ["colab", "remove-cell"])
    if before == after:
        return False
    cell.source, cell.metadata["tags"] = after
    write_notebook(notebook, path)
    return True


# ----------------------------------------------------------------------- subcommands


def book() -> None:
    """Execute every chapter in a copy and render it; the notebooks stay unchanged."""
    os.environ.setdefault("PROFILE", "quick")
    print(f"Executing the chapters, profile {os.environ['PROFILE']}", flush=True)
    source = copy_sources(BUILD / "source")
    rows = []
    for path in notebooks(source):
        notebook = execute(path)
        rows.append(cost_of(path, notebook))
        write_notebook(notebook, path)
    start = time.perf_counter()
    render(source, BUILD / "html")
    seconds = time.perf_counter() - start
    times = {"chapters": rows, "render_seconds": round(seconds, 1)}
    (BUILD / "times.json").write_text(json.dumps(times, indent=1))
    print(f"\n{table(rows)}\n\n{where(BUILD / 'html')}")


def site() -> None:
    """Render the stored outputs."""
    render(copy_sources(BUILD / "site-source"), BUILD / "site")
    print(where(BUILD / "site"))


def publish(chapters: list[str]) -> None:
    """Execute in place with the full profile and store the outputs."""
    os.environ["PROFILE"] = "full"
    named = {Path(name).stem for name in chapters}
    known = {path.stem for path in notebooks()}
    if named - known:
        sys.exit(
            f"No such chapter: {', '.join(sorted(named - known))}. "
            f"There are: {', '.join(sorted(known))}."
        )
    stamp_all()
    rows = []
    for path in notebooks():
        if named and path.stem not in named:
            continue
        notebook = execute(path, again=path.stem in named)
        rows.append(cost_of(path, notebook))
        write_notebook(notebook, path)
    subprocess.run(
        [sys.executable, "-m", "pretrain.claims"], cwd=ROOT / "book", check=True
    )
    write_readme_figure()
    print(f"\n{table(rows)}")


def write_readme_figure() -> None:
    """Copy the figure of the cell tagged `readme` to where README.md shows it."""
    for path in notebooks():
        for cell in nbformat.read(path, as_version=4).cells:
            if "readme" in cell.metadata.get("tags", []):
                (figure,) = (
                    o for o in cell.outputs if "image/png" in o.get("data", {})
                )
                picture = base64.b64decode(figure.data["image/png"])
                (ROOT / "book" / "_static" / "verdict.png").write_bytes(picture)


def stamp_all() -> None:
    """Write the Colab cell of every chapter."""
    text = colab_cell()
    changed = [path.name for path in notebooks() if stamp(path, text)]
    print(f"Colab cells: {', '.join(changed) or 'all up to date'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in {
        "book": "execute every chapter on a copy and render the pages",
        "site": "render the stored outputs, execute nothing",
        "publish": "execute in place with the full profile, store the outputs",
        "stamp": "write the Colab cell of every chapter",
    }.items():
        command = commands.add_parser(name, help=what, description=what)
        if name == "publish":
            command.add_argument("chapters", nargs="*", metavar="CHAPTER")
    arguments = parser.parse_args()
    # Weights that a chapter trains are found again by the next run.
    os.environ.setdefault("PRETRAIN_CACHE", str(ROOT / "book" / ".cache"))
    try:
        if arguments.command == "publish":
            publish(arguments.chapters)
        else:
            {"book": book, "site": site, "stamp": stamp_all}[arguments.command]()
    except KeyboardInterrupt:
        sys.exit("\nStopped. Run it again to go on from here.")


if __name__ == "__main__":
    main()
