"""A Sphinx extension: the figures of notebooks keep their alt text.

A chapter displays a figure with `metadata={"image/png": {"alt": ...}}`, and the
notebook stores that. MyST-NB 1.4 writes the picture into a file named by its SHA-256
and drops the text; here it is found again by that name.
"""

import base64
import hashlib
from pathlib import Path

import nbformat
from docutils import nodes


def stored_texts(path: Path) -> dict[str, str]:
    """Map the SHA-256 of each figure in a notebook to its alt text."""
    texts = {}
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            for kind, metadata in output.get("metadata", {}).items():
                if kind in ("image/png", "image/jpeg") and "alt" in metadata:
                    picture = base64.b64decode(output["data"][kind])
                    texts[hashlib.sha256(picture).hexdigest()] = metadata["alt"]
    return texts


def add_alt_texts(app, doctree):
    """Give every figure of the page that was just read its text."""
    path = Path(app.env.doc2path(app.env.docname))
    if path.suffix == ".ipynb":
        texts = stored_texts(path)
        for image in doctree.findall(nodes.image):
            name = Path(image["uri"]).stem
            if name in texts:
                image["alt"] = texts[name]


def setup(app):
    app.connect("doctree-read", add_alt_texts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
