"""Trained weights that go from chapter to chapter, and are never trained twice.

A file name is a hash of everything that decides what the weights are: the method,
the data, the settings, the seed, the code that trains, and the versions of the
libraries under it. Files are written under a temporary name and then renamed, so a
file that exists is whole.
"""

import ast
import hashlib
import inspect
import json
import os
import symtable
import sys
import textwrap
import uuid
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np


def folder() -> Path:
    """Return the cache folder: `PRETRAIN_CACHE`, or `.cache` beside the package."""
    default = Path(__file__).parent.parent / ".cache"
    path = Path(os.environ.get("PRETRAIN_CACHE", default))
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path, then rename it: all of `path`, or nothing."""
    temporary = path.with_name(f"writing-{uuid.uuid4().hex}-{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write all of a text file, or nothing."""
    write_whole(
        path, lambda path: path.write_text(text, encoding="utf-8", newline="\n")
    )


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: object) -> None:
    """Write a JSON file that people can read, all of it or nothing."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def digest(arrays: list[np.ndarray]) -> str:
    """Hash the contents of arrays."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def engine_version() -> str:
    """Return the package that computes for Keras, and its version."""
    engine = keras.backend.backend()
    names = ["tensorflow", "tensorflow-cpu"] if engine == "tensorflow" else [engine]
    for name in names:
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return engine


def key_hash(**key: object) -> str:
    """Hash what decides the weights, together with what computes them.

    The values of `key` must be representable as JSON: numbers, strings, lists.
    """
    found = hashlib.sha256(json.dumps(key, sort_keys=True).encode())
    found.update(f"keras {keras.version()}, {engine_version()}".encode())
    return found.hexdigest()[:16]


def code_hash(*things: object) -> str:
    """Hash functions with all that they use of this package, and plain values.

    A function counts with the functions, classes and plain constants that its source
    names, and they with theirs. Comments and docstrings do not count, nor does code
    that it never names, local variables of the same name included: adding a method
    leaves the hashes of the others as they are. This module, which only stores what
    others computed, does not count either. All versions of Python give the same hash.
    """
    sources: dict[str, str] = {}
    plain = [thing for thing in things if not callable(thing)]
    for thing in things:
        if callable(thing):
            _collect(thing, sources)
    text = json.dumps([plain, sources], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_ours(thing: object) -> bool:
    code = inspect.isfunction(thing) or inspect.isclass(thing)
    module = (code and thing.__module__) or ""
    return module.split(".")[0] == __package__ and module != __name__


def _collect(thing: Callable | type, sources: dict[str, str]) -> None:
    """Add the source of a function or class, and of what it names, to `sources`."""
    name = f"{thing.__module__}.{thing.__qualname__}"
    if name in sources:
        return
    source = textwrap.dedent(inspect.getsource(thing))
    tree = ast.parse(source)
    sources[name] = _outline(tree)
    names = _global_names(symtable.symtable(source, name, "exec"))
    module = vars(sys.modules[thing.__module__])
    named = {known for known in names & module.keys() if not known.startswith("__")}
    scope = {known: module[known] for known in named}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            used = _lookup(node, scope)
            if _is_ours(used):
                _collect(used, sources)
            elif _is_plain(used):
                sources[f"{thing.__module__}.{ast.unparse(node)}"] = used


def _is_plain(thing: object) -> bool:
    """Tell whether something is a number, a string, or a collection of such."""
    if isinstance(thing, tuple | list):
        return all(map(_is_plain, thing))
    if isinstance(thing, dict):
        return _is_plain([*thing, *thing.values()])
    return isinstance(thing, int | float | str)


def _outline(node: object) -> object:
    """Return a syntax tree as lists and strings, without docstrings.

    What is empty is left out, so that fields which a later Python added do not show.
    """
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = []
    for name, value in ast.iter_fields(node):
        if isinstance(value, list):
            items = [item for item in value if name != "body" or not _is_words(item)]
            value = [_outline(item) for item in items]
        elif value is not None:
            value = _outline(value)
        if value:
            parts.append([name, value])
    return [type(node).__name__, parts]


def _is_words(node: ast.AST) -> bool:
    """Tell whether a statement is nothing but a string, as docstrings are."""
    constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return constant and isinstance(node.value.value, str)


def _global_names(table: symtable.SymbolTable) -> set[str]:
    """Return the names that some scope of a piece of code looks up in its module."""
    names = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    return names.union(*map(_global_names, table.get_children()))


def _lookup(node: ast.expr, scope: dict) -> object:
    """Return what a name, or a name of a module's, stands for; None if unknown."""
    if isinstance(node, ast.Name):
        return inspect.unwrap(scope.get(node.id)) if node.id in scope else None
    if isinstance(node, ast.Attribute):
        owner = _lookup(node.value, scope)
        if inspect.ismodule(owner) and owner.__name__.startswith(__package__):
            return inspect.unwrap(getattr(owner, node.attr, None))
    return None


def train_once(
    model: keras.Model, train: Callable[[], dict[str, list[float]]], **key: object
) -> dict[str, list[float]]:
    """Fill `model` with trained weights: from the cache, or else by training.

    Args:
        model: a built model; its weights are overwritten.
        train: trains `model` and returns the history, lists of numbers by name.
        key: everything that decides the result, such as `method="autoencoder",
            images=digest([x]), epochs=20, seed=0, code=code_hash(train)`.

    Returns:
        The history of the training run, now or back then.
    """
    stem = f"{key.get('method', 'model')}-{key_hash(**key)}"
    weights = folder() / f"{stem}.weights.h5"
    history_file = folder() / f"{stem}.json"
    if weights.exists():
        untrained = model.get_weights()
        try:
            history = read_json(history_file)
            model.load_weights(weights)
            return history
        except (OSError, ValueError, KeyError) as error:
            print(f"{weights.name} is damaged ({error}): training it again.")
            model.set_weights(untrained)  # a part may have been loaded
    history = train()
    history = {name: [float(v) for v in values] for name, values in history.items()}
    write_text(history_file, json.dumps(history))
    write_whole(weights, model.save_weights)
    return history


def compute_once(compute: Callable[[], np.ndarray], **key: object) -> np.ndarray:
    """Return an array, such as the features of a frozen network: stored, or computed.

    Args:
        compute: makes the array.
        key: everything that decides it, such as `method="features"`,
            `images=digest([x])` and `code=code_hash(compute)`.
    """
    path = folder() / f"{key.get('method', 'array')}-{key_hash(**key)}.npy"
    if path.exists():
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            print(f"{path.name} is damaged ({error}): computing it again.")
    array = compute()

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a path, NumPy would add an ending
            np.save(file, array, allow_pickle=False)

    write_whole(path, write)
    return array
