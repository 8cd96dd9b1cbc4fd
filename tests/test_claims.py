"""The claims of the book hold for the stored results, and the page lists them all."""

import json
import re
from pathlib import Path

import pytest

from pretrain import claims, data, profiles, study

BOOK = Path(__file__).parent.parent / "book"
CHAPTERS = sorted(BOOK.glob("*.ipynb"))


def claim_cells(path):
    """Return the source of each cell that is tagged `claims`."""
    return [
        "".join(cell["source"])
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if "claims" in cell["metadata"].get("tags", [])
    ]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_every_claim_of_a_chapter_holds_for_its_stored_results(chapter, capsys):
    cells = claim_cells(chapter)
    assert cells, "every chapter says what it established"
    for source in cells:
        exec(compile(source, chapter.name, "exec"), {})
    printed = [x for x in capsys.readouterr().out.splitlines() if x.startswith("✓")]
    stored = claims._printed(json.loads(chapter.read_text(encoding="utf-8"))["cells"])
    assert printed
    assert set(printed) <= set(stored), "the stored outputs are those of these results"


def test_claims_have_numbers_of_their_own():
    rows = [x for x in claims.page().splitlines() if x.startswith(("| A", "| B"))]
    ids = [row.split(" | ")[0] for row in rows]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"\| [AB]\d+\.\d+", id) for id in ids)


def test_the_page_of_claims_is_up_to_date():
    assert (BOOK / "claims.md").read_text(encoding="utf-8") == claims.page()


def test_results_say_where_they_come_from():
    for path in claims.RESULTS.glob("*.json"):
        made = json.loads(path.read_text(encoding="utf-8"))["provenance"]
        for origin in made if path.stem in study.STUDIES else [made]:
            assert origin["profile"] in ("full", path.stem), "a full run, or a study"
            keys = ("commit", "lock", "hardware", "dataset", "sha256", "versions")
            for key in (*keys, "seeds", "date"):
                assert origin[key], f"{path.name} does not say its {key}"


def test_a_result_without_the_lock_of_its_packages_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(claims, "BOOK", tmp_path / "book")
    with pytest.raises(FileNotFoundError, match=r"requirements\.lock is not beside"):
        claims.provenance(None, "full", [0])


def test_a_claim_that_does_not_hold_raises(capsys):
    claims.check("A1.1", "two is more than one", 2, 1.5, 9)
    assert capsys.readouterr().out.startswith("✓ A1.1: two is more than one")
    with pytest.raises(AssertionError, match=r"A1\.2: two is less"):
        claims.check("A1.2", "two is less than one", 2, 0, 1)
    assert capsys.readouterr().out.startswith("✗ A1.2")
    with pytest.raises(AssertionError):
        claims.check("A1.3", "not a number", float("nan"), 0, 1)


def test_only_a_full_run_changes_the_results(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="PROFILE=full"):
        claims.recorded("chapter")
    dataset = data.load("fashion")
    claims.record("chapter", {"a": 1}, profiles.PROFILES["quick"], dataset)
    assert list(tmp_path.iterdir()) == []
    claims.record("chapter", {"a": 1}, profiles.PROFILES["full"], dataset)
    assert claims.recorded("chapter") == {"a": 1}
