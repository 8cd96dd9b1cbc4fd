"""Pretraining for image classification: the package behind the book.

Import it before Keras: it settles what has to stand before a backend starts.
Everything else lives in the modules, one subject each.
"""

import importlib
import logging
import os


def _import_keras_quietly() -> None:
    """Import Keras without the time-stamped lines that TensorFlow writes meanwhile.

    They come from C++, before its log level applies, so only the file descriptor
    itself can hold them back. Python errors are raised as ever.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # oneDNN makes the book's networks a third faster on a CPU, and just as repeatable.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    stderr, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        importlib.import_module("keras")
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(sink)
    # Chapters train many small networks in one process, and mean to: TensorFlow need
    # not warn of every function that it compiles again.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


_import_keras_quietly()
