"""Encoders, decoders, heads: plain functions that return a `keras.Model`.

Encoders take images with values from 0 to 255 and scale them to [0, 1] themselves.
Decoders give images in [0, 1].
"""

from collections.abc import Callable, Sequence
from math import prod

import keras
import numpy as np
from keras import layers

from pretrain.layers import BatchNormalization, PositionEmbedding

Shape = tuple[int, ...]


def dense_encoder(
    input_shape: Shape, code_size: int, hidden: Sequence[int] = ()
) -> keras.Model:
    """Encode an image into a vector through dense layers.

    After Hinton & Salakhutdinov (2006).

    Shapes: `input_shape` → (code_size,). Hidden layers use ReLU, the code is linear.
    """
    image = keras.Input(input_shape, name="image")
    h = layers.Rescaling(1 / 255, name="scale")(image)
    h = layers.Flatten(name="flatten")(h)
    for i, units in enumerate(hidden, 1):
        h = layers.Dense(units, activation="relu", name=f"dense{i}")(h)
    code = layers.Dense(code_size, name="code")(h)
    return keras.Model(image, code, name="dense_encoder")


def dense_decoder(
    output_shape: Shape, code_size: int, hidden: Sequence[int] = ()
) -> keras.Model:
    """Decode a vector into an image through dense layers.

    Shapes: (code_size,) → `output_shape`. The output is linear, so with no hidden
    layer the decoder is an affine map.
    """
    code = keras.Input((code_size,), name="code")
    h = code
    for i, units in enumerate(hidden, 1):
        h = layers.Dense(units, activation="relu", name=f"dense{i}")(h)
    h = layers.Dense(prod(output_shape), name="pixels")(h)
    image = layers.Reshape(output_shape, name="image")(h)
    return keras.Model(code, image, name="dense_decoder")


def conv_encoder(
    input_shape: Shape = (32, 32, 3), filters: Sequence[int] = (32, 64, 128)
) -> keras.Model:
    """Encode an image into a map of features by strided convolutions.

    Each stage is a 3 by 3 convolution of stride 2, normalised over the batch
    (Ioffe & Szegedy, 2015), then ReLU. The last of `filters` is the depth of the code.

    Shapes: 32×32×3 → 16×16×32 → 8×8×64 → 4×4×128, with the default filters.
    """
    image = keras.Input(input_shape, name="image")
    h = layers.Rescaling(1 / 255, name="scale")(image)
    for i, f in enumerate(filters, 1):
        h = layers.Conv2D(
            f, 3, strides=2, padding="same", use_bias=False, name=f"conv{i}"
        )(h)
        h = BatchNormalization(name=f"norm{i}")(h)
        h = layers.ReLU(name=f"relu{i}")(h)
    return keras.Model(image, h, name="conv_encoder")


def residual_encoder(
    input_shape: Shape = (32, 32, 3), filters: Sequence[int] = (24, 48, 96, 144)
) -> keras.Model:
    """Encode an image by ten convolutions, in stages with a residual connection.

    The first convolution keeps the size. Each further stage is a convolution, max
    pooling by two, and a residual block of two convolutions (He et al., 2016); all
    are 3 by 3, normalised, then ReLU. It does far better from scratch than
    `conv_encoder`, for forty times the arithmetic.

    Shapes: 32×32×3 → 32×32×24 → 16×16×48 → 8×8×96 → 4×4×144, with the defaults.
    """

    def convolution(h, f, name):
        h = layers.Conv2D(f, 3, padding="same", use_bias=False, name=f"conv{name}")(h)
        h = BatchNormalization(name=f"norm{name}")(h)
        return layers.ReLU(name=f"relu{name}")(h)

    image = keras.Input(input_shape, name="image")
    h = layers.Rescaling(1 / 255, name="scale")(image)
    h = convolution(h, filters[0], "1")
    for i, f in enumerate(filters[1:], 2):
        h = convolution(h, f, f"{i}a")
        h = layers.MaxPooling2D(name=f"pool{i}")(h)
        inner = convolution(convolution(h, f, f"{i}b"), f, f"{i}c")
        h = layers.Add(name=f"stage{i}")([h, inner])
    return keras.Model(image, h, name="residual_encoder")


def deep_encoder(
    input_shape: Shape,
    filters: Sequence[int],
    blocks: int,
    join: Callable = layers.add,
) -> keras.Model:
    """Encode an image like `residual_encoder`, for less, and as deep as one likes.

    The first convolution has stride 2, which saves three quarters of the arithmetic;
    each further stage has any number of blocks.

    Shapes: 32×32×3 → 16×16×f₁ → 8×8×f₂ → 4×4×f₃, with three `filters`, after
    1 + 2 · (1 + 2 `blocks`) convolutions.

    Args:
        join: makes one map of a block's input and its output, given as a list. Their
            sum makes the block residual; `layers_only` makes it plain.
    """

    def convolution(h, f, strides=1):
        h = layers.Conv2D(f, 3, strides=strides, padding="same", use_bias=False)(h)
        return layers.ReLU()(BatchNormalization()(h))

    image = keras.Input(input_shape, name="image")
    h = layers.Rescaling(1 / 255, name="scale")(image)
    h = convolution(h, filters[0], strides=2)
    for f in filters[1:]:
        h = layers.MaxPooling2D()(convolution(h, f))
        for _ in range(blocks):
            h = join([h, convolution(convolution(h, f), f)])
    return keras.Model(image, h, name="deep_encoder")


def layers_only(ends: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
    """Return the output of a block, not joined with its input: see `deep_encoder`."""
    return ends[1]


def vision_transformer(
    input_shape: Shape, size: int, blocks: int, patch: int = 4, heads: int = 4
) -> keras.Model:
    """Encode an image as a row of patches that attend to each other.

    After Dosovitskiy et al. (2021), with normalisation before each part of a block,
    hidden layers of twice the size, and no class token: the features go back to their
    places in a map, and every head of the book fits on it.

    Shapes: 32×32×3 → 8×8×`size`, with patches of 4 by 4.

    Args:
        size: of the vector that stands for a patch; `heads` must divide it.
        blocks: number of attention layers, each followed by two dense ones.
    """
    image = keras.Input(input_shape, name="image")
    h = layers.Rescaling(1 / 255, name="scale")(image)
    h = layers.Conv2D(size, patch, strides=patch, name="patches")(h)
    map_shape = h.shape[1:]
    h = layers.Reshape((-1, size))(PositionEmbedding(name="places")(h))
    for _ in range(blocks):
        seen = layers.LayerNormalization()(h)
        seen = layers.MultiHeadAttention(heads, size // heads)(seen, seen)
        h = layers.add([h, seen])
        thought = layers.LayerNormalization()(h)
        thought = layers.Dense(2 * size, activation="gelu")(thought)
        h = layers.add([h, layers.Dense(size)(thought)])
    h = layers.Reshape(map_shape, name="map")(layers.LayerNormalization()(h))
    return keras.Model(image, h, name="vision_transformer")


def transformer(token_shape: Shape, blocks: int, heads: int = 4) -> keras.Model:
    """Let tokens attend to each other, as in `vision_transformer`.

    Shapes: (n, size) → (n, size); with n = None, any number of tokens.

    Args:
        token_shape: (n, size); `heads` must divide `size`.
        blocks: number of attention layers, each followed by two dense ones. Their
            outputs are called `block1`, `block2`, …
    """
    size = token_shape[-1]
    tokens = h = keras.Input(token_shape, name="tokens")
    for i in range(1, blocks + 1):
        seen = layers.LayerNormalization(name=f"norm{i}a")(h)
        attend = layers.MultiHeadAttention(heads, size // heads, name=f"attend{i}")
        h = layers.Add(name=f"seen{i}")([h, attend(seen, seen)])
        thought = layers.LayerNormalization(name=f"norm{i}b")(h)
        thought = layers.Dense(2 * size, activation="gelu", name=f"wide{i}")(thought)
        thought = layers.Dense(size, name=f"narrow{i}")(thought)
        h = layers.Add(name=f"block{i}")([h, thought])
    h = layers.LayerNormalization(name="norm")(h)
    return keras.Model(tokens, h, name="transformer")


def patch_encoder(
    input_shape: Shape, size: int, blocks: int, patch: int = 4, heads: int = 4
) -> keras.Model:
    """Encode an image like `vision_transformer`, by two models that can be used apart.

    `patches` makes a token of each patch, with its place in the image; `transformer`
    takes any number of tokens, so that it can be shown a part of them.

    Shapes: 32×32×3 → 8×8×`size`, with patches of 4 by 4.
    """
    image = keras.Input(input_shape, name="image")
    h = layers.Rescaling(1 / 255, name="scale")(image)
    h = layers.Conv2D(size, patch, strides=patch, name="cut")(h)
    map_shape = h.shape[1:]
    h = layers.Reshape((-1, size), name="row")(PositionEmbedding(name="places")(h))
    patches = keras.Model(image, h, name="patches")
    h = transformer((None, size), blocks, heads)(patches(image))
    return keras.Model(
        image, layers.Reshape(map_shape, name="map")(h), name="patch_encoder"
    )


def up_to_block(encoder: keras.Model, block: int) -> keras.Model:
    """Return a `patch_encoder` up to one of its blocks, counted from 1.

    Shapes: images → (rows, columns, size), before the last normalisation.
    """
    h = encoder.get_layer("patches")(encoder.input)
    h = truncate(encoder.get_layer("transformer"), f"block{block}")(h)
    h = layers.Reshape(encoder.output_shape[1:])(h)
    return keras.Model(encoder.input, h, name=f"to_block{block}")


def patch_decoder(
    code_shape: Shape,
    size: int,
    blocks: int,
    patch: int = 4,
    channels: int = 3,
    heads: int = 4,
) -> keras.Model:
    """Decode a map of tokens into an image, patch by patch, by a small transformer.

    Shapes: 8×8×any → 32×32×3, linear, with patches of 4 by 4.
    """
    rows, columns, _ = code_shape
    code = keras.Input(code_shape, name="code")
    h = layers.Dense(size, name="narrow")(code)
    h = layers.Reshape((-1, size), name="row")(PositionEmbedding(name="places")(h))
    h = transformer((rows * columns, size), blocks, heads)(h)
    h = layers.Dense(patch * patch * channels, name="pixels")(h)
    h = layers.Reshape((rows, columns, patch, patch, channels), name="squares")(h)
    h = layers.Permute((1, 3, 2, 4, 5), name="rows_first")(h)
    h = layers.Reshape((rows * patch, columns * patch, channels), name="image")(h)
    return keras.Model(code, h, name="patch_decoder")


def conv_decoder(
    code_shape: Shape = (4, 4, 128),
    filters: Sequence[int] = (64, 32),
    channels: int = 3,
    kernel_size: int = 3,
    activation: str = "sigmoid",
) -> keras.Model:
    """Decode a map of features into an image by transposed convolutions.

    Each stage doubles height and width. The decoder is thrown away after
    pretraining, so only the encoder is normalised. A sigmoid keeps the output in
    [0, 1]; a target with other values needs `activation="linear"`.

    Shapes: 4×4×128 → 8×8×64 → 16×16×32 → 32×32×3, with the default filters.
    """
    code = keras.Input(code_shape, name="code")
    h = code
    for i, f in enumerate(filters, 1):
        h = layers.Conv2DTranspose(
            f, kernel_size, strides=2, padding="same", activation="relu", name=f"up{i}"
        )(h)
    image = layers.Conv2DTranspose(
        channels,
        kernel_size,
        strides=2,
        padding="same",
        activation=activation,
        name="image",
    )(h)
    return keras.Model(code, image, name="conv_decoder")


def linear_head(feature_shape: Shape, classes: int) -> keras.Model:
    """Classify by one dense layer on all features. Shapes: any → (classes,) logits."""
    features = keras.Input(feature_shape, name="features")
    h = layers.Flatten(name="flatten")(features)
    logits = layers.Dense(classes, name="logits")(h)
    return keras.Model(features, logits, name="linear_head")


def pooled_head(feature_shape: Shape, classes: int) -> keras.Model:
    """Classify by one dense layer on spatial means. Shapes: (h, w, c) → (classes,)."""
    features = keras.Input(feature_shape, name="features")
    h = layers.GlobalAveragePooling2D(name="pool")(features)
    logits = layers.Dense(classes, name="logits")(h)
    return keras.Model(features, logits, name="pooled_head")


def projector(feature_shape: Shape, size: int) -> keras.Model:
    """Project the spatial means of features by two dense layers, the first with ReLU.

    What contrastive learning compares (Chen et al., 2020): the features before it keep
    what its own output has to forget.

    Shapes: (h, w, c) → (`size`,).
    """
    features = keras.Input(feature_shape, name="features")
    h = layers.GlobalAveragePooling2D(name="pool")(features)
    h = layers.Dense(size, activation="relu", name="hidden")(h)
    return keras.Model(features, layers.Dense(size, name="out")(h), name="projector")


def classifier(
    encoder: keras.Model, head: keras.Model, augment: keras.layers.Layer | None = None
) -> keras.Model:
    """Put a head on an encoder; the encoder is shared, not copied.

    Shapes: images (height, width, channels) in 0 … 255 → (classes,) logits.
    """
    image = keras.Input(encoder.input_shape[1:], name="image")
    h = augment(image) if augment else image
    return keras.Model(image, head(encoder(h)), name="classifier")


def truncate(encoder: keras.Model, layer_name: str) -> keras.Model:
    """Return the encoder up to one of its layers, sharing its weights.

    Raises:
        ValueError: if no layer has that name.
    """
    names = [layer.name for layer in encoder.layers]
    if layer_name not in names:
        raise ValueError(f"{layer_name!r} is no layer; there are {', '.join(names)}.")
    output = encoder.get_layer(layer_name).output
    return keras.Model(encoder.input, output, name=f"to_{layer_name}")


def with_code(encoder: keras.Model, channels: int) -> keras.Model:
    """Narrow the output of an encoder by a 1 by 1 convolution, the layer `code`.

    Shapes: (h, w, c) features → (h, w, `channels`), linear.
    """
    code = layers.Conv2D(channels, 1, name="code")(encoder.output)
    return keras.Model(encoder.input, code, name="narrow_encoder")


def pooled_features(encoder: keras.Model, layer_name: str, cells: int) -> keras.Model:
    """Average the features of a layer over a grid of `cells` by `cells`.

    Shapes: images → (cells, cells, channels of the layer).
    """
    output = truncate(encoder, layer_name).output
    pool = layers.AveragePooling2D(output.shape[1] // cells, name="grid")(output)
    return keras.Model(encoder.input, pool, name=f"{layer_name}_in_{cells}x{cells}")


def predict(network: keras.Model, x: np.ndarray, batch_size: int = 512) -> np.ndarray:
    """Run a network on images, without training it.

    The same numbers as `network.predict`, without the overhead of its data pipeline,
    which counts where many small networks are tried.

    Shapes: (n, height, width, channels) → (n, …), float32.
    """
    parts = [x[i : i + batch_size] for i in range(0, len(x), batch_size)]
    return np.concatenate([network.predict_on_batch(part) for part in parts])
