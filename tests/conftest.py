"""What the tests share: Keras set up by the package, a cache of their own."""

import pytest

import pretrain  # noqa: F401  (before Keras)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep every test away from the reader's cache, and from the other tests."""
    monkeypatch.setenv("PRETRAIN_CACHE", str(tmp_path / "cache"))
