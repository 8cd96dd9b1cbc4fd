"""EfficientNet-Lite0, a network that was trained on ImageNet, with its weights.

The architecture is that of Tan & Le (2019) in the variant for small devices (Google,
2020): without squeeze-and-excitation, and with ReLU6 instead of swish. The weights lie
in `weights/`, made by `tools/convert_efficientnet.py`.
"""

from collections.abc import Sequence
from pathlib import Path

import keras
from keras import layers

WEIGHTS = Path(__file__).parent.parent / "weights" / "efficientnet_lite0.weights.h5"

# Each stage: blocks, kernel, stride of its first block, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def normalised(h, name: str, activate: bool = True):
    """Append a batch norm, and a ReLU that ends at 6."""
    h = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_norm")(h)
    return layers.ReLU(6.0, name=f"{name}_relu")(h) if activate else h


def block(h, kernel: int, stride: int, expansion: int, channels: int, name: str):
    """Append an inverted bottleneck: widen, filter each channel, narrow (MobileNetV2).

    Where it changes neither places nor channels, a shortcut leads around it.
    """
    start, narrow = h, h.shape[-1]
    if expansion > 1:
        h = layers.Conv2D(expansion * narrow, 1, use_bias=False, name=f"{name}_expand")(
            h
        )
        h = normalised(h, f"{name}_expand")
    h = layers.DepthwiseConv2D(
        kernel, stride, padding="same", use_bias=False, name=f"{name}_depthwise"
    )(h)
    h = normalised(h, f"{name}_depthwise")
    h = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project")(h)
    h = normalised(h, f"{name}_project", activate=False)
    if stride == 1 and narrow == channels:
        h = layers.Add(name=f"{name}_add")([start, h])
    return h


def efficientnet_lite0(side: int) -> keras.Model:
    """Return the network without its classifier, with random weights.

    Args:
        side: of the images, in pixels; it was trained on 224.

    Shapes: images in 0 … 255, (side, side, 3) → (side / 32, side / 32, 1280).
    """
    image = keras.Input((side, side, 3), name="image")
    h = layers.Rescaling(1 / 128, offset=-127 / 128, name="scale")(image)
    h = layers.Conv2D(32, 3, 2, padding="same", use_bias=False, name="stem")(h)
    h = normalised(h, "stem")
    for i, (blocks, kernel, stride, expansion, channels) in enumerate(STAGES, start=1):
        for j in range(blocks):
            name = f"stage{i}_block{j + 1}"
            h = block(h, kernel, 1 if j else stride, expansion, channels, name)
    h = layers.Conv2D(1280, 1, use_bias=False, name="head")(h)
    return keras.Model(image, normalised(h, "head"), name="efficientnet_lite0")


def pretrained(side: int) -> keras.Model:
    """Return `efficientnet_lite0` with the weights that ImageNet gave it.

    Args:
        side: of the images, in pixels.

    Raises:
        FileNotFoundError: if the file that comes with the book is gone.
    """
    if not WEIGHTS.exists():
        raise FileNotFoundError(
            f"{WEIGHTS} is not there. It comes with the book: take it from a fresh "
            "copy, or make it anew with tools/convert_efficientnet.py."
        )
    model = efficientnet_lite0(side)
    model.load_weights(WEIGHTS)  # stored in half precision
    return model


def spatial_means(network: keras.Model, names: Sequence[str]) -> keras.Model:
    """Return a model that averages some layers over all places, in one row.

    Shapes: images → (n, channels of all these layers).

    Args:
        network: any model on images; its weights are shared, not copied.
        names: of layers.
    """
    means = [
        layers.GlobalAveragePooling2D()(network.get_layer(name).output)
        for name in names
    ]
    return keras.Model(network.input, layers.Concatenate(name="means")(means))


def enlarger(input_shape: tuple[int, int, int], side: int) -> keras.Model:
    """Return a model that makes images ready for the network: larger, in colour.

    They are interpolated bilinearly; a grey one gets three equal channels.

    Shapes: images in 0 … 255, `input_shape` → (side, side, 3), in 0 … 255.
    """
    image = keras.Input(input_shape, name="image")
    h = image if input_shape[-1] == 3 else layers.Concatenate(name="grey")([image] * 3)
    return keras.Model(image, layers.Resizing(side, side)(h), name="enlarger")


def on_images(network: keras.Model, input_shape: tuple[int, int, int]) -> keras.Model:
    """Put a network behind an `enlarger`.

    Shapes: images in 0 … 255, `input_shape` → what the network makes of them.
    """
    image = keras.Input(input_shape, name="image")
    enlarged = enlarger(input_shape, network.input_shape[1])(image)
    return keras.Model(image, network(enlarged), name="on_images")


def freeze_before(network: keras.Model, stage: int) -> None:
    """Freeze all layers of `efficientnet_lite0` in front of a stage, from 2 to 7."""
    for layer in network.layers:
        if layer.name.startswith(f"stage{stage}"):
            return
        layer.trainable = False
