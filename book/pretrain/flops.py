"""How much arithmetic a network takes, and how many bytes it moves, layer by layer.

A multiplication and the addition that follows count as two operations. Counted are
products with weights, and those inside attention. All else takes a few operations for
each number, and is left out. It moves bytes, though, and there it counts.
"""

from math import prod

import keras
from keras import layers

# Their weights scale or shift single numbers.
LEFT_OUT = (layers.BatchNormalization, layers.LayerNormalization)


def forward(model: keras.Model) -> int:
    """Return the operations for one image through a model, and models inside it.

    Raises:
        ValueError: for a layer with weights of a kind that is not known here.
    """
    return sum(
        forward(layer) if isinstance(layer, keras.Model) else of_layer(layer)
        for layer in model.layers
    )


def of_layer(layer: keras.layers.Layer) -> int:
    """Return the operations of one layer for one image; see `forward`."""
    if not layer.weights or isinstance(layer, LEFT_OUT):
        return 0
    if isinstance(layer, layers.MultiHeadAttention):
        return of_attention(layer)
    # Each weight of a kernel is used once at each place: of the output, or of the
    # input where the kernel is laid on it (Dumoulin & Visin, 2016).
    if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D | layers.Dense):
        places = layer.output.shape[1:-1]
    elif isinstance(layer, layers.Conv2DTranspose):
        places = layer.input.shape[1:-1]
    else:
        kind = type(layer).__name__
        raise ValueError(
            f"{layer.name} is a {kind}: say in pretrain.flops what it computes."
        )
    return 2 * prod(layer.kernel.shape) * prod(places)


def of_attention(layer: keras.layers.MultiHeadAttention) -> int:
    """Return the operations of self-attention over n tokens of size d.

    With h heads of size k: queries, keys, values and output take 4·n·d·h·k products,
    the n² scores and the sums that they weight 2·n²·h·k.
    """
    _, n, d = layer.output.shape
    inner = layer.num_heads * layer.key_dim
    return 2 * (4 * n * d * inner + 2 * n**2 * inner)


def training(model: keras.Model, images: int) -> int:
    """Return the operations of training on so many images, each pass counted.

    A step back takes twice the arithmetic of a step forward: one product for the
    gradient of the weights, one for that of the features.
    """
    return 3 * forward(model) * images


# They hand the same numbers on, and nothing is copied.
MOVE_NOTHING = (layers.InputLayer, layers.Flatten, layers.Reshape, layers.Identity)


def bytes_of_layer(layer: keras.layers.Layer, images: int, width: int = 4) -> int:
    """Return the bytes that one layer has to move for a batch.

    It reads its weights once for the whole batch, reads its inputs and writes its
    outputs. What it writes down for itself, such as the scores of attention, is left
    out.

    Args:
        images: in the batch.
        width: bytes of one number; 4 for float32.
    """
    if isinstance(layer, MOVE_NOTHING):
        return 0
    features = keras.tree.flatten([layer.input, layer.output])
    numbers = sum(prod(feature.shape[1:]) for feature in features)
    return width * (images * numbers + layer.count_params())


def numbers_kept(model: keras.Model) -> int:
    """Return how many numbers a training step keeps of one image, for the way back.

    The gradient of a layer's weights needs the layer's input. So each output is kept,
    but for those of batch norm: its own gradient needs its input alone, and the ReLU or
    sum that follows writes over its output.
    """
    left_out = (*MOVE_NOTHING, layers.BatchNormalization)
    return sum(
        numbers_kept(layer)
        if isinstance(layer, keras.Model)
        else 0
        if isinstance(layer, left_out)
        else prod(layer.output.shape[1:])
        for layer in model.layers
    )


def training_memory(model: keras.Model, images: int, width: int = 4) -> int:
    """Return the bytes that a training step with Adam holds at once, about.

    For each weight four numbers: itself, its gradient, and the two means of Adam. For
    each image what is kept for the way back. Left out are the program itself, the data
    set, and what a single operation needs in passing.

    Args:
        images: in the batch.
        width: bytes of one number; 4 for float32.
    """
    return width * (4 * model.count_params() + images * numbers_kept(model))
