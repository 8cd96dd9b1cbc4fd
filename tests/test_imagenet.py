import hashlib
import pickle
import sys
from collections import OrderedDict
from io import BytesIO
from types import ModuleType

import keras
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

import convert_efficientnet as convert
from pretrain import imagenet

SHA256 = "546f98152eb3d8227b11fd1a59736489378bbfaa7f01c85850498587611ac508"


@pytest.fixture(scope="module")
def photographs():
    """Pieces of 224 by 224 pixels of two photographs, which ImageNet does not hold."""
    corners = [(0, 0), (100, 200), (200, 400), (150, 60)]
    return np.stack(
        [
            photo[r : r + 224, c : c + 224]
            for photo in load_sample_images().images
            for r, c in corners
        ]
    )


def strangeness(network, x):
    """Return how far the inputs of norms are from what they were in training.

    The distance of the mean of each channel to the running mean, in running standard
    deviations: median over the channels of all norms.
    """
    names = [name.removesuffix("_norm") for name in norms(network)]
    inputs = [network.get_layer(name).output for name in names]
    found = keras.Model(network.input, inputs).predict_on_batch(x)
    distances = []
    for name, h in zip(names, found, strict=True):
        _, _, mean, variance = network.get_layer(f"{name}_norm").get_weights()
        distances.append(np.abs(h.mean((0, 1, 2)) - mean) / np.sqrt(variance + 1e-3))
    return np.median(np.concatenate(distances))


def norms(network):
    kind = keras.layers.BatchNormalization
    return [layer.name for layer in network.layers if isinstance(layer, kind)]


def test_weights_are_those_of_the_script_and_the_size_is_that_of_the_paper():
    content = imagenet.WEIGHTS.read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256
    model = imagenet.efficientnet_lite0(64)
    classifier = 1280 * 1000 + 1000
    trained = sum(np.prod(w.shape) for w in model.trainable_weights)
    assert round((trained + classifier) / 1e6, 2) == 4.65  # millions, as published
    assert model.output_shape[1:] == (2, 2, 1280)


def test_photographs_look_to_it_like_the_images_of_its_training(photographs):
    network = imagenet.pretrained(224)
    assert strangeness(network, photographs) < 0.2
    # Mistakes in reading the images, or in the order of channels, would be seen.
    assert strangeness(network, photographs / 255) > 0.3
    layer = network.get_layer("stage2_block1_depthwise")
    layer.set_weights([layer.get_weights()[0][:, :, ::-1]])
    assert strangeness(network, photographs) > 0.3


def test_missing_weights_say_where_they_come_from(monkeypatch, tmp_path):
    monkeypatch.setattr(imagenet, "WEIGHTS", tmp_path / "gone.weights.h5")
    with pytest.raises(FileNotFoundError, match="comes with the book"):
        imagenet.pretrained(32)


def test_every_layer_with_weights_is_converted():
    pairs = list(convert.layers_of())
    ours = {name for conv, *_ in pairs for name in (conv, f"{conv}_norm")}
    model = imagenet.efficientnet_lite0(32)
    assert ours == {layer.name for layer in model.layers if layer.weights}


def test_the_reader_of_pickles_runs_nothing():
    with pytest.raises(pickle.UnpicklingError, match="not a part of weights"):
        convert.Unpickler(BytesIO(pickle.dumps(print))).load()


def test_axes_that_lie_in_another_order_are_found(monkeypatch):
    # A stand-in for what PyTorch writes for a tensor whose columns lie one by one.
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})

    def rebuild():
        raise AssertionError("a reader that runs what a pickle names")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    numbers = object()

    class Tensor:
        def __reduce__(self):
            return rebuild, (numbers, 1, (2, 3), (1, 2), False)

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            stored = ("storage", torch.FloatStorage, "7", "cpu", 7, None)
            return stored if thing is numbers else None

    file = BytesIO()
    for thing in ("magic", 1001, {}, OrderedDict(weight=Tensor()), ["7"]):
        Pickler(file, protocol=2).dump(thing)
    file.write((7).to_bytes(8, "little") + np.arange(7, dtype="<f4").tobytes())
    file.seek(0)
    found = convert.read(file)["weight"]
    np.testing.assert_array_equal(found, [[1, 3, 5], [2, 4, 6]])
