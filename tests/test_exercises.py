"""The solutions of the exercises, each run at the end of its chapter."""

import re

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import build

SOLUTION = re.compile(r"````\{solution\} (\S+)\n(.*?)````(?:\n|$)", re.DOTALL)
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
EXERCISE = re.compile(r"````\{exercise\} .+?\n:label: (\S+)")


def prose(notebook: nbformat.NotebookNode) -> str:
    """Return the text of a chapter, without its code cells."""
    cells = notebook.cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def solutions(text: str) -> dict[str, str]:
    """Return the code of each solution by the label of its exercise."""
    return {
        label: "\n".join(CODE.findall(body)) for label, body in SOLUTION.findall(text)
    }


def test_every_exercise_has_a_solution(notebook):
    text = prose(notebook)
    asked = EXERCISE.findall(text)
    assert 3 <= len(asked) <= 5
    assert asked == list(solutions(text))
    assert set(re.findall("★+", text)) >= {"★", "★★"}


def test_every_solution_runs(notebook):
    for label, code in solutions(prose(notebook)).items():
        if code:
            notebook.cells.append(nbformat.v4.new_code_cell(f"# {label}\n{code}"))
    resources = {"metadata": {"path": build.ROOT / "book"}}
    client = NotebookClient(notebook, timeout=300, resources=resources)
    try:
        client.execute()
    except CellExecutionError as error:
        pytest.fail(str(error))
