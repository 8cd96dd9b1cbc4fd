"""What a network answers to: patches for its features, maps for its answers, tests.

Everywhere here `x` are images in 0 … 255 of shape (n, height, width, channels),
`classes` the class that is asked about in each of them, (n,), and maps have the shape
(n, height, width): the larger a number, the more the pixel counts for that class.
"""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops
from scipy.ndimage import sobel
from scipy.stats import rankdata

from pretrain import models


def gradient(function: Callable, x: np.ndarray) -> np.ndarray:
    """Return the derivative of the sum of `function(x)` with respect to `x`.

    Keras 3 leaves gradients to the engine below it, so this asks which it is. Where
    `function` treats images one by one, so does the gradient.

    Args:
        function: from a tensor like `x` to a tensor of any shape, through `keras.ops`.

    Raises:
        NotImplementedError: if the engine has no gradients.
    """
    engine = keras.backend.backend()
    start = ops.convert_to_tensor(x, "float32")
    if engine == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(start)
            total = ops.sum(function(start))
        slope = tape.gradient(total, start)
    elif engine == "jax":
        import jax

        slope = jax.grad(lambda z: ops.sum(function(z)))(start)
    else:
        raise NotImplementedError(
            f"Gradients need tensorflow or jax below Keras, not {engine}."
        )
    return ops.convert_to_numpy(slope)


def class_logits(network: keras.Model, x: np.ndarray, classes: np.ndarray):
    """Return the logit of each image's class, a tensor of shape (n,)."""
    logits = network(x, training=False)
    column = ops.convert_to_tensor(np.asarray(classes)[:, None], "int32")
    return ops.take_along_axis(logits, column, axis=1)[:, 0]


def saliency(network: keras.Model, x: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return how steeply the logit depends on each pixel (Simonyan et al., 2014).

    The largest |∂ logit / ∂ x| of the channels, in logits per grey value.
    """
    slope = gradient(lambda z: class_logits(network, z, classes), x)
    return np.abs(slope).max(axis=-1)


def integrated_gradients(
    network: keras.Model,
    x: np.ndarray,
    classes: np.ndarray,
    baseline: np.ndarray | float,
    steps: int = 32,
) -> np.ndarray:
    """Share the rise of the logit from a baseline to x out to the pixels.

    (x − baseline) times the mean gradient on the straight line between the two
    (Sundararajan et al., 2017), taken at the midpoints of `steps` equal pieces. The
    shares of an image sum to logit(x) − logit(baseline), up to the error of that sum.

    Args:
        baseline: an image without information, or anything that spreads to its shape.

    Returns:
        Shares in logits, with their sign, of the shape of `x`. Summed over the last
        axis they are a map.
    """
    way = np.asarray(x, "float32") - np.asarray(baseline, "float32")
    total = np.zeros_like(way)
    for part in (np.arange(steps) + 0.5) / steps:
        place = x - (1 - part) * way
        total += gradient(lambda z: class_logits(network, z, classes), place)
    return way * total / steps


def grad_cam(
    encoder: keras.Model, head: keras.Model, x: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Return where the features lie that speak for the class (Selvaraju et al., 2017).

    Each feature map is weighted by the mean gradient of the logit over its places; what
    is positive in the sum is enlarged to the size of the image.

    Args:
        encoder: from images to feature maps, (rows, columns, features).
        head: from feature maps to logits.
    """
    features = models.predict(encoder, x)
    slope = gradient(lambda f: class_logits(head, f, classes), features)
    weight = slope.mean(axis=(1, 2), keepdims=True)
    coarse = np.maximum((weight * features).sum(axis=-1, keepdims=True), 0)
    large = ops.image.resize(coarse, x.shape[1:3], data_format="channels_last")
    return ops.convert_to_numpy(large)[..., 0]


def occlusion(
    network: keras.Model,
    x: np.ndarray,
    classes: np.ndarray,
    fill: np.ndarray | float,
    size: int = 8,
    stride: int = 4,
) -> np.ndarray:
    """Return by how much the logit falls when a window is covered.

    A pixel gets the mean fall, in logits, over the windows that cover it (after Zeiler
    & Fergus, 2014).

    Args:
        fill: a colour to cover with, of shape (channels,), or a grey value.
        size, stride: of the windows, in pixels; they should cover the image evenly.
    """
    rows = np.arange(len(x))
    whole = models.predict(network, x)[rows, classes]
    fall, covers = np.zeros(x.shape[:3]), np.zeros(x.shape[:3])
    for top in range(0, x.shape[1] - size + 1, stride):
        for left in range(0, x.shape[2] - size + 1, stride):
            window = np.s_[:, top : top + size, left : left + size]
            covered = np.array(x, "float32")
            covered[window] = fill
            lost = whole - models.predict(network, covered)[rows, classes]
            fall[window] += lost[:, None, None]
            covers[window] += 1
    return fall / np.maximum(covers, 1)


def edges(x: np.ndarray) -> np.ndarray:
    """Return the steepness of the grey image: a map that asks no network at all."""
    # One by one: along the axes that it does not differentiate, the filter smooths.
    return np.stack(
        [np.hypot(sobel(grey, axis=0), sobel(grey, axis=1)) for grey in x.mean(axis=-1)]
    )


# ------------------------------------------------------------------------ tests of maps


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of two maps, image by image.

    1 where both order the pixels alike, 0 where their orders have nothing in common.

    Shapes: two times (n, height, width) → (n,). A map of equal numbers orders nothing,
    and correlates with nothing: 0.
    """
    a, b = (rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (a, b))
    a, b = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (a, b))
    lengths = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)


def replaced(
    before: np.ndarray, after: np.ndarray, maps: np.ndarray, steps: int = 16
) -> np.ndarray:
    """Replace the pixels of one image by those of another, the largest in a map first.

    Pixels with equal numbers in the map come in random order.

    Args:
        before, after: images, (n, height, width, channels), or what spreads to them.

    Returns:
        Images of shape (steps + 1, n, height, width, channels): the first are `before`,
        the last are `after`.
    """
    flat = maps.reshape(len(maps), -1)
    chance = np.random.default_rng(0).uniform(size=flat.shape)
    order = np.lexsort((chance, -flat), axis=1)
    place = np.argsort(order, axis=1).reshape(*maps.shape, 1)
    parts = np.linspace(0, flat.shape[1], steps + 1).round()
    return np.stack([np.where(place < part, after, before) for part in parts])


def probabilities(
    network: keras.Model, images: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Return the probability of each image's class, for several versions of the images.

    With `replaced` from an image to an empty one this is the deletion curve of Petsiuk
    et al. (2018), from an empty one to the image their insertion curve. The mean of a
    curve is its score.

    Shapes: (versions, n, height, width, channels) → (n, versions).
    """
    rows = np.arange(len(classes))
    curves = []
    for version in images:
        logits = models.predict(network, version)
        p = ops.convert_to_numpy(ops.softmax(logits, axis=-1))
        curves.append(p[rows, classes])
    return np.stack(curves, axis=1)


# ----------------------------------------------------------------- what a feature sees


def receptive_field(encoder: keras.Model, layer_name: str) -> tuple[int, int, int]:
    """Return which pixels a unit of a layer sees (Dumoulin & Visin, 2016).

    Args:
        encoder: a chain of layers, of which only convolutions look at neighbours.

    Returns:
        size, stride, start, in pixels: the unit in row i sees the `size` rows from
        `start + i * stride`, some of which can lie outside the image; columns likewise.
    """
    size, stride, start = 1, 1, 0
    for layer in models.truncate(encoder, layer_name).layers:
        if isinstance(layer, keras.layers.Conv2D):
            (k, *_), (s, *_) = layer.kernel_size, layer.strides
            if layer.padding == "same":
                height, rows = layer.input.shape[1], layer.output.shape[1]
                start -= max((rows - 1) * s + k - height, 0) // 2 * stride
            size += (k - 1) * stride
            stride *= s
    return size, stride, start


def strongest_patches(
    x: np.ndarray, activations: np.ndarray, field: tuple[int, int, int], n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut out what excites a feature most (after Zeiler & Fergus, 2014).

    Each image is represented by the place of its largest activation.

    Args:
        activations: of one feature on `x`, (images, rows, columns).
        field: its `receptive_field`.

    Returns:
        patches, (n, size, size, channels), the strongest first, black outside the
        image; and the indices of their images, (n,).
    """
    size, stride, start = field
    places = activations.reshape(len(x), -1)
    chosen = np.argsort(-places.max(axis=1), kind="stable")[:n]
    padded = np.pad(x[chosen], ((0, 0), (size, size), (size, size), (0, 0)))
    patches = []
    for image, place in zip(padded, places[chosen].argmax(axis=1), strict=True):
        i, j = np.unravel_index(place, activations.shape[1:])
        top, left = (size + start + stride * k for k in (i, j))
        patches.append(image[top : top + size, left : left + size])
    return np.stack(patches), chosen
