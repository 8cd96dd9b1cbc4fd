"""Keras layers that change images at random, and only while training."""

import keras
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
