"""What the tests share: Keras set up by the package, a cache of their own, chapters."""

import nbformat
import pytest

import build
import pretrain  # noqa: F401  (before Keras)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep every test away from the reader's cache, and from the other tests."""
    monkeypatch.setenv("PRETRAIN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=build.notebooks(), ids=lambda path: path.stem)
def notebook(request):
    """Each chapter as it is stored, one after the other."""
    return nbformat.read(request.param, as_version=4)
