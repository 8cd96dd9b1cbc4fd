"""Execute, render and publish the book. `make help` lists what calls this.

    python tools/build.py book                  execute every chapter, render
    python tools/build.py site                  render the stored outputs
    python tools/build.py publish [CHAPTER...]  execute in place, store outputs
    python tools/build.py stamp                 write the Colab cells and links
    python tools/build.py exercises             write the learner's notebooks

A chapter is executed once per state of its code: what was executed is kept under
`_build/executed/`, so a run that was interrupted goes on where it stopped.
"""

import argparse
import ast
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
from urllib.parse import quote

import nbformat
import yaml
from jupyter_book.cli.main import main as jupyter_book
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from pybtex.database import Entry, parse_file
from sphinx.cmd.build import main as sphinx

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "_build"
# A full run records what it was made with, down to the lock of the packages.
SOURCES = ("_config.yml", "_toc.yml", "requirements.lock", "book", "vendor")
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
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
    except OSError:
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return round(int(found[1]) / 1024) if found else None


def fingerprint(notebook: nbformat.NotebookNode, chapter: Path) -> str:
    """Hash what decides a chapter's outputs: its code, the package, data, settings.

    Of the stored results, those count that the code names, but for its own.
    """
    code = "".join(c.source for c in notebook.cells if c.cell_type == "code")
    digest = hashlib.sha256(sys.version.encode())
    for name in ("PROFILE", "KERAS_BACKEND", "PRETRAIN_CIFAR10"):
        digest.update(f"{name}={os.environ.get(name)}\n".encode())
    digest.update((ROOT / "requirements.lock").read_bytes())
    sources = chapter.parent
    for path in sorted(sources.rglob("*")):
        pages_and_style = {".md", ".bib", ".ipynb", ".css", ".svg", ".png", ".pyc"}
        hidden = set(LEFT_OUT) & set(path.relative_to(sources).parts)
        result = path.stem.removesuffix("_tuning")
        own = result == chapter.stem
        if path.parent.name == "results" and (own or result not in code):
            continue
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
    key = fingerprint(notebook, path)
    kept = BUILD / "executed" / os.environ["PROFILE"] / path.name
    # What a full run measures, others read: it belongs to the outputs.
    measured = path.parent / "results" / f"{path.stem}.json"
    kept_measured = kept.with_suffix(".json")
    before = measured.read_bytes() if measured.exists() else None
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
            if kept_measured.exists():
                shutil.copy2(kept_measured, measured)
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
    kept_measured.unlink(missing_ok=True)
    if measured.exists() and measured.read_bytes() != before:
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(measured, kept_measured)
    # Last: whoever finds the notebook takes all of it for done.
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


# ----------------------------------------------------------- Colab's cells and links


def config(root: Path = ROOT) -> dict:
    """Read `_config.yml`, the one place that says where the book lives."""
    return yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))


def colab_cell(root: Path = ROOT) -> str:
    """Return the first code cell of every chapter, from `_config.yml`.

    On Colab it fetches the book at the pinned revision, once, and enters it. Colab
    brings TensorFlow and Keras along; they are left as they are.
    """
    repository = config(root)["repository"]
    url, revision = repository["url"], repository["branch"]
    folder = url.rstrip("/").rsplit("/", 1)[-1]
    # The address ends its line: ruff then forgives the length.
    return (
        'if "google.colab" in str(get_ipython()):  # elsewhere there is nothing to do\n'
        f"    !cd /content; test -d {folder} || "
        f"git clone -qb {revision} --depth 1 {url}\n"
        f"    %cd -q /content/{folder}/book"
    )


def exercises_link(chapter: str, root: Path = ROOT) -> str:
    """Return the sentence that begins a chapter's exercises, from `_config.yml`."""
    settings = config(root)
    repository = settings["repository"]
    owner_and_name = repository["url"].rstrip("/").removeprefix("https://github.com/")
    colab = (
        f"{settings['launch_buttons']['colab_url']}/github/{owner_and_name}/blob/"
        f"{repository['branch']}/book/exercises/{chapter}.ipynb"
    )
    return (
        f"Do them in a notebook that checks your answers: [open it on Colab]({colab}), "
        f"or open `exercises/{chapter}.ipynb` in Jupyter."
    )


# What stands between the heading and the first exercise is stamped.
EXERCISES_HEAD = re.compile(r"^## Exercises\n\n.*?(?=````\{exercise\})", re.M | re.S)


def stamp(path: Path, text: str) -> bool:
    """Write the Colab cell and link of one notebook; return whether that changed it."""
    notebook = nbformat.read(path, as_version=4)
    before = nbformat.writes(notebook)
    cells = notebook.cells
    marked = [c for c in cells if "colab" in c.metadata.get("tags", [])]
    if marked:
        cell = marked[0]
    else:
        cell = nbformat.v4.new_code_cell(id="colab")
        code = [i for i, c in enumerate(cells) if c.cell_type == "code"]
        cells.insert(code[0] if code else len(cells), cell)
    # The page need not show it; a reader on Colab or in the lab sees it.
    cell.source, cell.metadata["tags"] = text, ["colab", "remove-cell"]
    head = f"## Exercises\n\n{exercises_link(path.stem)}\n\n"
    for cell in cells:
        if cell.cell_type == "markdown":
            cell.source = EXERCISES_HEAD.sub(lambda _: head, cell.source)
    if nbformat.writes(notebook) == before:
        return False
    write_notebook(notebook, path)
    return True


# -------------------------------------------------------------- learner's notebooks

# Title, label and text of an exercise; label and text of a solution.
EXERCISE = re.compile(r"````\{exercise\} ([^\n]+)\n:label: (\S+)\n(.*?)````\n", re.S)
SOLUTION = re.compile(r"````\{solution\} (\S+)\n(.*?)````(?:\n|$)", re.S)
ENTER_BOOK = """\
import os

if os.path.isdir("../pretrain"):  # this notebook lies one folder too deep
    %cd -q .."""


def learners_notebook(path: Path, root: Path = ROOT) -> nbformat.NotebookNode:
    """Return a chapter with its exercises to be filled in: no outputs, no solutions.

    The cells of the chapter come first, in Markdown that any Jupyter shows. An exercise
    is a statement, a cell for the answers, and a cell that checks them.

    Raises:
        ValueError: if an exercise has no checker, or a reference leads nowhere.
    """
    chapter = nbformat.read(path, as_version=4)
    markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    names = checked_names(root)
    link = linked(path.stem, root)
    head = (
        "Write your code in place of each `...`, then run the cell below it: it says "
        "what is right and what is off. The solutions stand at the end of the chapter "
        f"{link}.\n\n"
    )
    cells, imported = [], False
    for cell in chapter.cells:
        if cell.cell_type == "code":
            cells.append(code(cell.source, id=cell.id, metadata=cell.metadata))
            imported |= "import exercises" in cell.source
            if "colab" in cell.metadata.get("tags", []):
                cells.append(code(ENTER_BOOK, id="enter-book"))
            continue
        text = EXERCISES_HEAD.sub(lambda _: f"## Exercises\n\n{head}", cell.source)
        text = plain(SOLUTION.sub("", text), root)
        before, *asked = EXERCISE.split(text)
        cells.append(markdown(before.strip(), id=cell.id))
        for title, label, body, after in zip(*[iter(asked)] * 4, strict=True):
            if label not in names:
                raise ValueError(f"{label!r} has no checker in pretrain/exercises.py.")
            answers, compared = names[label]
            call = f"exercises.check({arguments(label, [*answers, *compared])})"
            if not imported:
                call, imported = f"from pretrain import exercises\n\n{call}", True
            stub = "\n".join(f"{answer} = ..." for answer in answers)
            cells.append(markdown(f"### {title}\n\n{body.strip()}", id=label))
            cells.append(code(stub, id=f"{label}-answer"))
            cells.append(code(call, id=f"{label}-check"))
            if after.strip():
                cells.append(markdown(after.strip(), id=f"{label}-end"))
    about = (
        f"These are the cells of the chapter {link}, with its exercises to be filled "
        "in. Run them from the top; your part begins under *Exercises*. Save a copy "
        "under a name of your own: this file is written anew with the book."
    )
    cells.insert(1, markdown(about, id="about"))
    return nbformat.v4.new_notebook(cells=cells, metadata=chapter.metadata)


def checked_names(root: Path = ROOT) -> dict[str, tuple[list[str], list[str]]]:
    """Return, for each exercise, its answers and the names that they are compared with.

    They are read from the parameters of its checker. The module is not imported, since
    that would start TensorFlow.
    """
    source = (root / "book" / "pretrain" / "exercises.py").read_text(encoding="utf-8")
    return {
        node.decorator_list[0].args[0].value: (
            [parameter.arg for parameter in node.args.args],
            [parameter.arg for parameter in node.args.kwonlyargs],
        )
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.decorator_list
    }


def arguments(label: str, names: list[str]) -> str:
    """Lay out the arguments of a check, in one line if they fit."""
    items = [f'"{label}"', *(f"{name}={name}" for name in names)]
    line = ", ".join(items)
    if len(f"exercises.check({line})") <= 80:
        return line
    return "\n" + "".join(f"    {item},\n" for item in items)


def plain(text: str, root: Path = ROOT) -> str:
    """Turn a chapter's roles and references into Markdown that any Jupyter shows."""
    text = re.sub(r"\{term\}`([^`<]+?)(?:\s*<[^`]*>)?`", r"\1", text)
    text = re.sub(r"\[\]\(([^)]+)\)", lambda found: linked(found[1], root), text)
    return re.sub(
        r"\{cite:([pt])\}`([^`]+)`", lambda found: cited(*found.groups(), root), text
    )


def linked(target: str, root: Path = ROOT) -> str:
    """Return a link from `book/exercises` to a page, or to a label on one.

    Raises:
        ValueError: if there is no such page, and no such label.
    """
    book = root / "book"
    if (path := book / f"{target}.ipynb").exists():
        title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0]
        return f"[{title.lstrip('# ')}](../{path.name})"
    for path in sorted(book.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        top = "" if path.stem == Path(target).stem else rf"\({re.escape(target)}\)=\n"
        if found := re.search(rf"^{top}#+ (.+)$", text, re.M):
            return f"[{found[1]}](../{path.name})"
    raise ValueError(f"No page and no label is called {target!r}.")


def cited(kind: str, keys: str, root: Path = ROOT) -> str:
    """Return a citation in the text (`t`) or in parentheses (`p`), with links."""
    entries = parse_file(root / "book" / "references.bib").entries
    found = [reference(entries[key.strip()], kind) for key in keys.split(",")]
    return ", ".join(found) if kind == "t" else f"({'; '.join(found)})"


def reference(entry: Entry, kind: str) -> str:
    """Return authors and year, linked to where the work can be found."""
    names = [
        " ".join([*person.prelast_names, *person.last_names])
        for person in entry.persons["author"]
    ]
    authors = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
    year = entry.fields["year"]
    text = f"{authors} ({year})" if kind == "t" else f"{authors}, {year}"
    text = text.replace("{", "").replace("}", "")
    doi, url = entry.fields.get("doi"), entry.fields.get("url")
    address = f"https://doi.org/{doi}" if doi else url
    # Parentheses, which a DOI can have, would end the link.
    return f"[{text}]({quote(address, safe=':/?=&#')})" if address else text


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
    (BUILD / "times.json").write_text(json.dumps(times, indent=1), "utf-8")
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
    """Write the Colab cell and link of every chapter, then the learner's notebooks."""
    text = colab_cell()
    changed = [path.name for path in notebooks() if stamp(path, text)]
    print(f"Colab cells: {', '.join(changed) or 'all up to date'}", flush=True)
    exercises()


def exercises() -> None:
    """Write the learner's notebook of every chapter."""
    for path in notebooks():
        write_notebook(learners_notebook(path), path.parent / "exercises" / path.name)
    print("Learner's notebooks: written to book/exercises", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in {
        "book": "execute every chapter on a copy and render the pages",
        "site": "render the stored outputs, execute nothing",
        "publish": "execute in place with the full profile, store the outputs",
        "stamp": "write the Colab cells and links, and the learner's notebooks",
        "exercises": "write the learner's notebook of every chapter",
    }.items():
        command = commands.add_parser(name, help=what, description=what)
        if name == "publish":
            command.add_argument("chapters", nargs="*", metavar="CHAPTER")
    arguments = parser.parse_args()
    # Weights that a chapter trains are found again by the next run.
    os.environ.setdefault("PRETRAIN_CACHE", str(ROOT / "book" / ".cache"))
    if images := os.environ.get("PRETRAIN_CIFAR10"):  # chapters run in other folders
        os.environ["PRETRAIN_CIFAR10"] = os.path.abspath(images)
    try:
        if arguments.command == "publish":
            publish(arguments.chapters)
        else:
            {
                "book": book,
                "site": site,
                "stamp": stamp_all,
                "exercises": exercises,
            }[arguments.command]()
    except KeyboardInterrupt:
        sys.exit("\nStopped. Run it again to go on from here.")


if __name__ == "__main__":
    main()
