"""The notebooks as they are stored, and the pages as they are built from them."""

import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import nbformat
import pytest

import build

PAGES = build.pages()


# ------------------------------------------------------------------ stored notebooks


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def texts(value):
    """Yield every string inside a cell's output, images left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not key.startswith("image/"):
                yield from texts(item)


def test_every_page_exists():
    root = build.ROOT
    missing = [
        page
        for page in PAGES
        if not (root / f"{page}.md").exists() and not (root / f"{page}.ipynb").exists()
    ]
    assert not missing


def test_every_notebook_is_a_page():
    in_the_folder = set((build.ROOT / "book").glob("*.ipynb"))
    assert in_the_folder == set(build.notebooks())


def test_colab_cell_comes_first_and_equals_the_stamp(notebook):
    first = code_cells(notebook)[0]
    assert first.source == build.colab_cell()
    assert tags(first) == ["colab", "remove-cell"]
    assert sum("colab" in tags(cell) for cell in code_cells(notebook)) == 1


def test_every_code_cell_was_executed_in_order(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_stored_outputs_hold_only_expected_errors(notebook):
    for cell in code_cells(notebook):
        failed = any(output.output_type == "error" for output in cell.outputs)
        assert not failed or "raises-exception" in tags(cell), cell.source


def test_stored_outputs_hold_no_warning(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.get("name") != "stderr", output.text
            for text in texts(output):
                assert "Warning:" not in text, text


ABSOLUTE_PATH = re.compile(
    r"(?<![\w.~/:-])(/(home|root|work|tmp|Users|content|usr|opt|var)/|~/|[A-Z]:\\)"
)


def test_stored_outputs_name_no_absolute_path(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            for text in texts(output):
                plain = re.sub(r"\x1b\[[\d;]*m", "", text)
                found = ABSOLUTE_PATH.search(plain)
                assert not found, plain[found.start() : found.start() + 80]


def test_every_stored_figure_has_alt_text(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            for kind in output.get("data", {}):
                if kind.startswith("image/"):
                    alt = output.metadata.get(kind, {}).get("alt", "")
                    assert alt.strip(), cell.source


# ------------------------------------------------------------------ tools/build.py


def test_stamp_is_written_once(tmp_path):
    path = tmp_path / "chapter.ipynb"
    cells = [nbformat.v4.new_markdown_cell("# A"), nbformat.v4.new_code_cell("1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    text = build.colab_cell()
    assert build.stamp(path, text)
    assert not build.stamp(path, text)
    assert build.stamp(path, text.replace("book", "another"))
    kinds = [cell.cell_type for cell in nbformat.read(path, as_version=4).cells]
    assert kinds == ["markdown", "code", "code"]


def small_book(folder, code):
    """Write a book of one chapter; return the chapter's path."""
    cells = [nbformat.v4.new_code_cell(source) for source in code]
    path = folder / "book" / "chapter.ipynb"
    path.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_executing_leaves_the_notebook_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "BUILD", tmp_path / "_build")
    monkeypatch.setenv("PROFILE", "quick")
    path = small_book(tmp_path, ["import os", "print(os.environ['PROFILE'])"])
    before = path.read_bytes()
    executed = build.execute(path)
    assert executed.cells[1].outputs[0].text == "quick\n"
    assert path.read_bytes() == before
    build.execute(path)
    assert "unchanged" in capsys.readouterr().out


def test_a_chapter_runs_again_for_the_results_that_it_names_but_not_its_own(tmp_path):
    (tmp_path / "results").mkdir()
    source = 'study.tried("sizes_cifar10")\nclaims.record("05b_models", {})'
    cells = [nbformat.v4.new_code_cell(source)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    before = build.fingerprint(notebook, tmp_path / "05b_models.ipynb")
    for name, counts in {
        "05b_models.json": False,
        "others_cifar10.json": False,
        "sizes_cifar10.json": True,
        "sizes_cifar10_tuning.csv": True,
    }.items():
        (tmp_path / "results" / name).write_text("new", encoding="utf-8")
        after = build.fingerprint(notebook, tmp_path / "05b_models.ipynb")
        assert (after != before) == counts, name
        before = after


def test_a_full_run_can_record_in_the_copy(tmp_path):
    code = (
        "from pretrain import claims, data, profiles;"
        "claims.record('x', {}, profiles.PROFILES['full'], data.load('fashion'))"
    )
    folder = build.copy_sources(tmp_path / "source") / "book"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    assert (folder / "results" / "x.json").exists()


def test_what_a_chapter_measured_is_kept_with_its_outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "BUILD", tmp_path / "_build")
    monkeypatch.setenv("PROFILE", "quick")
    code = "open('results/chapter.json', 'w').write('ours');"
    path = small_book(tmp_path, [code])
    measured = path.parent / "results" / "chapter.json"
    measured.parent.mkdir()
    measured.write_text("the book's")
    build.execute(path)
    assert measured.read_text() == "ours"
    measured.write_text("the book's")
    build.execute(path)
    assert measured.read_text() == "ours"


def test_a_failing_chapter_names_its_cell(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "BUILD", tmp_path / "_build")
    monkeypatch.setenv("PROFILE", "quick")
    path = small_book(tmp_path, ["x = 1", "x / 0"])
    with pytest.raises(SystemExit) as stopped:
        build.execute(path)
    message = str(stopped.value)
    assert "chapter: code cell 2 of 2 failed" in message
    assert "    x / 0" in message
    assert "division by zero" in message


def test_folders_of_this_machine_are_left_out_of_outputs(tmp_path):
    text = f"File {tmp_path}/pretrain/data.py:3, File {build.ROOT}/.venv/lib/a.py"
    output = nbformat.v4.new_output("stream", text=text)
    cell = nbformat.v4.new_code_cell("1", outputs=[output])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    build.clean(notebook, tmp_path)
    text = notebook.cells[0].outputs[0].text
    assert text == "File pretrain/data.py:3, File .venv/lib/a.py"


# ------------------------------------------------------------------ built pages


class Page(HTMLParser):
    """What a built page refers to."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.anchors, self.figures = [], [], set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes.get("id"), attributes.get("name")}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag == "img":
            self.figures.append((attributes["src"], attributes.get("alt")))
        # What a browser fetches without being asked; rel="next" and the like are not.
        if tag == "link" and attributes.get("rel") in (
            "stylesheet",
            "icon",
            "preload",
            "preconnect",
            "dns-prefetch",
        ):
            self.loads.append(attributes["href"])
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.loads.append(attributes.get("src") or "")


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The pages, rendered from the stored outputs; a warning ends the tests here."""
    folder = tmp_path_factory.mktemp("site")
    try:
        build.render(build.copy_sources(folder / "source"), folder / "html")
    except SystemExit as error:
        pytest.fail(f"The pages do not build without a warning: {error}")
    return folder / "html"


@pytest.fixture(scope="session")
def built(site):
    """Every built page by its path."""
    theme = site / "_static"  # templates of the theme lie there, no pages
    return {p: Page(p) for p in site.rglob("*.html") if theme not in p.parents}


def test_every_page_is_built(site):
    assert [page for page in PAGES if not (site / f"{page}.html").exists()] == []
    assert (site / "index.html").exists()


def test_every_internal_link_leads_somewhere(built):
    broken = []
    for path, page in built.items():
        for link in page.links:
            target = urlparse(link)
            if target.scheme or target.netloc:
                continue
            file = path
            if target.path:
                file = (path.parent / unquote(target.path)).resolve()
            anchor = unquote(target.fragment)
            missing = anchor and file in built and anchor not in built[file].anchors
            if missing or not file.exists():
                broken.append(f"{path.name}: {link}")
    assert not broken


def test_every_file_of_a_page_is_there(built):
    missing = [
        f"{path.name}: {load}"
        for path, page in built.items()
        for load in page.loads
        if load
        and not urlparse(load).scheme
        and not (path.parent / unquote(urlparse(load).path)).exists()
    ]
    assert not missing


def test_every_figure_has_alt_text(built):
    bare = [
        f"{path.name}: {source}"
        for path, page in built.items()
        for source, alt in page.figures
        # The file name is what Sphinx falls back to.
        if not (alt or "").strip() or Path(source).name in alt
    ]
    assert not bare


def test_no_page_names_another_host_to_load_from(site, built):
    foreign = [
        f"{path.name}: {load}"
        for path, page in built.items()
        for load in page.loads
        if urlparse(load).netloc
    ]
    for path in site.rglob("*.css"):
        sheet = path.read_text(encoding="utf-8")
        for address in re.findall(r"""(?:url\(|@import)\s*["']?([^"')]+)""", sheet):
            if urlparse(address).netloc:
                foreign.append(f"{path.name}: {address}")
    assert not foreign


# ------------------------------------------------------------------ in a browser

BROWSER = next(
    filter(
        None,
        map(shutil.which, ["chromium", "chromium-browser", "google-chrome", "chrome"]),
    ),
    None,
)


@pytest.fixture(scope="session")
def address(site):
    """Serve the pages as a web server would."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=site)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def read_in_browser(url, folder):
    """Open a page in a browser of its own; return its DOM and what it requested."""
    log = folder / "net.json"
    # No background requests of the browser itself, no sandbox (containers lack it),
    # and eight seconds of its own time, which pass quickly where nothing happens.
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu"]
    command += ["--disable-quic", "--no-first-run", "--disable-background-networking"]
    command += ["--disable-component-update", "--disable-sync"]
    command += ["--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}"]
    command += ["--virtual-time-budget=8000", f"--log-net-log={log}"]
    dom = subprocess.run(
        [*command, "--dump-dom", url], capture_output=True, text=True, timeout=120
    ).stdout
    return dom, requested(log)


def requested(log):
    """Read from a browser's log what pages, not the browser itself, requested."""
    # The log of a browser that was ended at once may lack its closing brackets.
    text = log.read_text(encoding="utf-8").rstrip().rstrip(",")
    try:
        events = json.loads(text)["events"]
    except json.JSONDecodeError:
        events = json.loads(text + "]}")["events"]
    return {
        event["params"]["url"]
        for event in events
        if event.get("params", {}).get("initiator", "").startswith("http")
        and "url" in event["params"]
    }


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
@pytest.mark.parametrize("page", PAGES)
def test_page_in_a_browser_asks_no_other_host(page, address, site, tmp_path):
    dom, urls = read_in_browser(f"{address}/{page}.html", tmp_path)
    assert f"{address}/_static/scripts/bootstrap.js" in {u.split("?")[0] for u in urls}
    assert [u for u in urls if not u.startswith((address, "data:", "blob:"))] == []
    # Formulas are set, by the copy of MathJax that comes with the book.
    formulas = (site / f"{page}.html").read_text(encoding="utf-8").count('class="math')
    assert dom.count("<mjx-container") >= formulas
    assert "<mjx-merror" not in dom
