"""The book's own Keras layers: augmentation, a faster batch norm, places of patches."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("pretrain")
class RandomCropFlip(keras.layers.Layer):
    """Shift each image by up to `padding` pixels and mirror every other one.

    The usual augmentation for 32 by 32 images (He et al., 2016): zero-pad, crop at
    random, flip left to right. Each image of a batch gets its own draw.

    Shapes: (batch, height, width, channels) in and out.
    """

    def __init__(self, padding: int = 4, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.padding = padding
        self.seed = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        if not training:
            return images
        batch, height, width, channels = ops.shape(images)
        p = self.padding
        shift = keras.random.randint((2, batch, 1), 0, 2 * p + 1, seed=self.seed)
        flip = keras.random.randint((batch, 1), 0, 2, seed=self.seed)
        rows = shift[0] + ops.arange(height, dtype="int32")
        columns = ops.arange(width, dtype="int32")
        columns = shift[1] + ops.where(flip == 1, columns[::-1], columns)

        # All pixels of the padded batch in one long list, and where in it to look.
        padded = ops.pad(images, ((0, 0), (p, p), (p, p), (0, 0)))
        pixels = ops.reshape(padded, (-1, channels))
        rows = rows + ops.arange(batch, dtype="int32")[:, None] * (height + 2 * p)
        places = rows[:, :, None] * (width + 2 * p) + columns[:, None, :]
        return ops.take(pixels, places, axis=0)

    def get_config(self):
        return {**super().get_config(), "padding": self.padding}


def strong_augmentation(channels: int, seed: int | None = None) -> keras.Sequential:
    """Return a layer that crops, mirrors, recolours and erases a part of each image.

    With few labels it is worth more than any other choice about a network from
    scratch. Where each image is seen a few times only, `RandomCropFlip` is enough.
    The erased rectangle, in every other image, follows DeVries & Taylor (2017).

    It is hard on colours: half of the images lose them, the others keep two thirds at
    most, since Keras' saturation of a single number f spans -f … f, neutral is 0.5,
    and what is below 0 is grey. A jitter around neutral was no better: from scratch,
    two draws, validation images, 45.0 against 45.9 percent with 25 labels a class,
    63.1 against 63.1 with 100.

    Args:
        channels: 3 for colour; greyscale images only change in light and contrast.
        seed: fixes the draws.
    """
    light = {"value_range": (0, 255), "seed": seed}
    recolour = keras.layers.RandomColorJitter(
        brightness_factor=0.2,
        contrast_factor=0.4,
        saturation_factor=0.4 if channels == 3 else None,
        **light,
    )
    erase = keras.layers.RandomErasing(
        factor=1.0, scale=(0.02, 0.1), fill_value=127.0, **light
    )
    return keras.Sequential([RandomCropFlip(seed=seed), recolour, erase])


@keras.saving.register_keras_serializable("pretrain")
class RandomResizedCrop(keras.layers.Layer):
    """Stretch a random part of each image to full size, mirrored every other time.

    The strongest of the augmentations by which contrastive learning makes two views of
    an image (Szegedy et al., 2015; Chen et al., 2020). Pixels are interpolated along
    rows and columns: two products with small matrices.

    Shapes: (batch, height, width, channels) in and out.

    Args:
        smallest: the least area of a part, as a fraction of the image.
    """

    def __init__(self, smallest: float = 0.2, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.smallest = smallest
        self.seed = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        if not training:
            return images
        images = ops.cast(images, "float32")
        batch, height, width, _ = ops.shape(images)
        draw = keras.random.uniform((5, batch), seed=self.seed)
        area = self.smallest + (1 - self.smallest) * draw[0]
        stretch = ops.exp((2 * draw[1] - 1) * np.log(4 / 3))  # width by height
        tall = ops.minimum(ops.sqrt(area / stretch), 1)
        wide = ops.minimum(ops.sqrt(area * stretch), 1)
        rows = self.weights_of(draw[2] * (1 - tall), tall, height)
        left, mirror = draw[3] * (1 - wide), draw[4] < 0.5
        columns = self.weights_of(
            ops.where(mirror, left + wide, left),
            ops.where(mirror, -wide, wide),
            width,
        )
        return ops.einsum("brh,bhwc,bsw->brsc", rows, images, columns)

    @staticmethod
    def weights_of(start, length, size: int):
        """Return how much each new pixel takes from each old one, (batch, size, size).

        Args:
            start, length: of the part, as fractions of the size, (batch,); a negative
                length runs backward.
        """
        middle = (np.arange(size, dtype="float32") + 0.5) / size
        place = size * (start[:, None] + length[:, None] * middle) - 0.5
        place = ops.clip(place, 0, size - 1)
        distance = ops.abs(place[:, :, None] - np.arange(size, dtype="float32"))
        return ops.maximum(1 - distance, 0)

    def get_config(self):
        return {**super().get_config(), "smallest": self.smallest}


def two_view_augmentation(channels: int, seed: int | None = None) -> keras.Sequential:
    """Return a layer that makes a random view of each image, for contrastive learning.

    A part, mirrored or not, in other colours, one in five without any: two views share
    what they show, and little else (Chen et al., 2020).

    Args:
        channels: 3 for colour; greyscale images only change in light and contrast.
        seed: fixes the draws, which are others in each layer.
    """
    part, jitter, grey = (None,) * 3 if seed is None else range(seed, seed + 3)
    colours = [
        keras.layers.RandomColorJitter(
            value_range=(0, 1),
            brightness_factor=0.3,
            contrast_factor=0.6,
            # 0.4 to 1.6 times the colour: for m times it is m / (1 + m).
            saturation_factor=(0.286, 0.615) if channels == 3 else None,
            hue_factor=0.1 if channels == 3 else None,
            seed=jitter,
            name="colours",
        )
    ]
    if channels == 3:
        colours.append(keras.layers.RandomGrayscale(0.2, seed=grey, name="grey"))
    return keras.Sequential(
        [
            RandomResizedCrop(seed=part, name="part"),
            keras.layers.Rescaling(1 / 255, name="down"),
            *colours,
            keras.layers.Rescaling(255, name="up"),
        ],
        name="two_view_augmentation",
    )


def pixel_noise(deviation: float, seed: int | None = None) -> keras.Sequential:
    """Return a layer that adds Gaussian noise in training to images in 0 … 255.

    Args:
        deviation: on the scale [0, 1], on which Keras' layer works.
        seed: fixes the draws.
    """
    return keras.Sequential(
        [
            keras.layers.Rescaling(1 / 255, name="down"),
            keras.layers.GaussianNoise(deviation, seed=seed, name="noise"),
            keras.layers.Rescaling(255, name="up"),
        ],
        name="pixel_noise",
    )


@keras.saving.register_keras_serializable("pretrain")
class RandomMask(keras.layers.Layer):
    """Paint a random part of the square patches of each image grey, in training.

    A network that must restore them has to know what belongs there (Vincent et al.,
    2008; He et al., 2022).

    Shapes: (batch, height, width, channels) in and out; `patch` must divide both sides.
    """

    def __init__(self, patch: int, fraction: float, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.patch, self.fraction = patch, fraction
        self.seed = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        if not training:
            return images
        batch, height, width, _ = ops.shape(images)
        rows, columns = height // self.patch, width // self.patch
        # The patches with the smallest numbers are painted: exactly the fraction asked.
        draw = keras.random.uniform((batch, rows * columns), seed=self.seed)
        rank = ops.argsort(ops.argsort(draw, axis=1), axis=1)
        hidden = ops.reshape(
            rank < round(self.fraction * rows * columns), (batch, rows, columns, 1)
        )
        hidden = ops.repeat(ops.repeat(hidden, self.patch, axis=1), self.patch, axis=2)
        return ops.where(hidden, 127.5, images)

    def get_config(self):
        config = {"patch": self.patch, "fraction": self.fraction}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("pretrain")
class PatchNormalization(keras.layers.Layer):
    """Give each square patch of an image mean 0 and variance 1, in each channel.

    As a target, it makes an edge in the shade count as much as one in the light (He et
    al., 2022). `floor` is added to the standard deviation: flat patches stay flat.

    Shapes: (batch, height, width, channels) in and out; `patch` must divide both sides.
    """

    def __init__(self, patch: int, floor: float = 0.05, **kwargs):
        super().__init__(**kwargs)
        self.patch, self.floor = patch, floor

    def call(self, images):
        shape = batch, height, width, channels = ops.shape(images)
        p = self.patch
        split = (batch, height // p, p, width // p, p, channels)
        patches = ops.reshape(images, split)
        mean = ops.mean(patches, axis=(2, 4), keepdims=True)
        deviation = ops.std(patches, axis=(2, 4), keepdims=True)
        return ops.reshape((patches - mean) / (deviation + self.floor), shape)

    def get_config(self):
        return {**super().get_config(), "patch": self.patch, "floor": self.floor}


@keras.saving.register_keras_serializable("pretrain")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch norm (Ioffe & Szegedy, 2015) that is faster, and settles sooner.

    The momentum of the running statistics is 0.9. With Keras' default of 0.99 they lag
    hundreds of steps behind, and a short training run is evaluated with statistics
    that never converged. In TensorFlow, one fused kernel does the work of the dozen
    operations that Keras' layer is made of; the result is the same.

    Shapes: (batch, height, width, channels) in and out.
    """

    def __init__(self, momentum: float = 0.9, **kwargs):
        super().__init__(momentum=momentum, **kwargs)

    def call(self, inputs, training=None, mask=None):
        fused = keras.backend.backend() == "tensorflow" and len(inputs.shape) == 4
        if not (fused and training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        from tensorflow.compat.v1.nn import fused_batch_norm

        outputs, mean, variance = fused_batch_norm(
            inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )
        # The kernel reports the unbiased variance, Keras keeps the biased one.
        n = ops.cast(ops.size(inputs) / inputs.shape[-1], variance.dtype)
        for running, found in (
            (self.moving_mean, mean),
            (self.moving_variance, variance * (n - 1) / n),
        ):
            running.assign(self.momentum * running + (1 - self.momentum) * found)
        return outputs


@keras.saving.register_keras_serializable("pretrain")
class PositionEmbedding(keras.layers.Layer):
    """Add to each patch of an image sines and cosines of its row and of its column.

    Attention takes its tokens as a set: without it, a transformer could not tell where
    in the image a patch lies. The waves are fixed (Vaswani et al., 2017), one half of
    the vector for each direction, as He et al. (2022) use them.

    Shapes: (batch, rows, columns, size) in and out; 4 must divide `size`.
    """

    def build(self, input_shape):
        _, rows, columns, size = input_shape
        # Wave lengths from 2π to 20,000π patches, in even steps of their logarithm.
        rates = 1e4 ** -np.linspace(0, 1, size // 4, endpoint=False)
        down, right = np.indices((rows, columns))[..., None] * rates
        waves = [f(angle) for angle in (down, right) for f in (np.sin, np.cos)]
        self.waves = np.concatenate(waves, axis=-1).astype("float32")

    def call(self, patches):
        return patches + ops.cast(self.waves, patches.dtype)


@keras.saving.register_keras_serializable("pretrain")
class HighPass(keras.layers.Layer):
    """Subtract from each pixel the mean of the square around it, in each channel.

    What is left are edges and texture; light and colour of whole regions, which a
    neighbour tells at no cost, are gone. At the border the square is cut off.

    Shapes: (batch, height, width, channels) in and out.

    Args:
        size: side of the square in pixels, odd.
    """

    def __init__(self, size: int = 5, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def call(self, images):
        blurred = ops.average_pool(images, self.size, strides=1, padding="same")
        return images - blurred

    def get_config(self):
        return {**super().get_config(), "size": self.size}
