"""Make `book/data/fashion.npz`: 12,000 + 2,000 images of Fashion-MNIST.

Usage: python tools/embed_fashion.py FOLDER, where FOLDER holds the four original
`*-ubyte.gz` files. Takes the first 1,200 training and 200 test images of each class,
leaving out exact copies, and prints the sha256 that `pretrain.data` expects.
"""

import gzip
import hashlib
import sys
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parent.parent / "book" / "data" / "fashion.npz"
PER_CLASS = {"train": 1_200, "t10k": 200}


def read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 28, 28) and labels (n,), both uint8."""
    images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    x = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
    return x, np.frombuffer(labels, np.uint8, offset=8)


def first_distinct(
    x: np.ndarray, y: np.ndarray, per_class: int, seen: set[bytes]
) -> tuple[np.ndarray, np.ndarray]:
    """Take the first images of each class whose content is not yet in `seen`."""
    chosen, counts = [], dict.fromkeys(range(10), 0)
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        content = image.tobytes()
        if counts[label] < per_class and content not in seen:
            seen.add(content)
            counts[label] += 1
            chosen.append(i)
    return x[chosen], y[chosen]


def main(folder: Path) -> None:
    """Write the file and print its size and checksum."""
    seen: set[bytes] = set()
    x_test, y_test = first_distinct(*read(folder, "t10k"), PER_CLASS["t10k"], seen)
    x_train, y_train = first_distinct(*read(folder, "train"), PER_CLASS["train"], seen)
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        TARGET, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test
    )
    content = TARGET.read_bytes()
    print(f"{TARGET.name}: {len(content):,} bytes")
    print(f"sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
