"""What a network is trained to do, as `keras.Model` with a loss of its own."""

import time
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from pretrain import cache, models
from pretrain.feed import batches
from pretrain.profiles import compile_options
from pretrain.progress import Progress


class Autoencoder(keras.Model):
    """Restore an image from its code: E‖x/255 − D(E(x))‖², averaged over pixels.

    `fit(images)` needs no labels and no second copy of the images.

    Shapes: images (batch, height, width, channels) in 0 … 255 → the same in [0, 1].

    Args:
        corrupt: a layer on images in 0 … 255 that acts in training only, such as
            `layers.pixel_noise` or `layers.RandomMask`. With it, the clean image must
            be restored from a corrupted one (Vincent et al., 2008).
        target: a layer on images in [0, 1] that says what is to be restored, such as
            `layers.PatchNormalization`. Default: the image itself.
    """

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        corrupt: keras.layers.Layer | None = None,
        target: keras.layers.Layer | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if encoder.input_shape != decoder.output_shape:
            raise ValueError(
                f"The decoder gives images of shape {decoder.output_shape[1:]}, but "
                f"the encoder takes {encoder.input_shape[1:]}: they must be equal."
            )
        self.encoder = encoder
        self.decoder = decoder
        self.corrupt = corrupt or keras.layers.Identity(name="corrupt")
        self.target = target or keras.layers.Identity(name="target")
        self.build(encoder.input_shape)

    def build(self, input_shape):
        self.built = True

    def call(self, images, training=None):
        seen = self.corrupt(ops.cast(images, "float32"), training=training)
        code = self.encoder(seen, training=training)
        return self.decoder(code, training=training)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        target = self.target(ops.cast(x, y_pred.dtype) / 255)
        return ops.mean(ops.square(target - y_pred))


def tokens_at(tokens, places):
    """Return the tokens of each image at its own places, in their order.

    Keras' `take_along_axis` does the same with an index for every number.

    Shapes: (batch, n, size) and (batch, k) → (batch, k, size).
    """
    batch, n, size = ops.shape(tokens)
    first = n * ops.arange(batch, dtype="int32")[:, None]
    rows = ops.reshape(tokens, (-1, size))
    return ops.take(rows, first + ops.cast(places, "int32"), axis=0)


class MaskedAutoencoder(keras.Model):
    """Tell hidden patches of an image from the others: MAE (He et al., 2022).

    The encoder is shown the visible patches alone, so it never meets a mask, and works
    less. To its codes, a vector that is learnt is added wherever a patch is hidden, and
    a small decoder restores the image from all. The error counts where patches were
    hidden.

    In every call patches are hidden, in training or not; the encoder by itself sees
    whole images, and makes of them a map of features like any other.

    Shapes: images (batch, height, width, channels) in 0 … 255 → the restored target of
    the same shape, and what was hidden, 0 or 1, (batch, height, width, 1).

    Args:
        encoder: a `models.patch_encoder`.
        decoder: a `models.patch_decoder` with patches of the same size.
        fraction: of the patches that are hidden.
        target: a layer on images in [0, 1] that says what is to be restored. Default:
            the image itself.
        visible: how much the error at visible patches counts, as a fraction of that at
            hidden ones.
        seed: fixes which patches are hidden.
    """

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        fraction: float = 0.75,
        target: keras.layers.Layer | None = None,
        visible: float = 0.0,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if encoder.input_shape != decoder.output_shape:
            raise ValueError(
                f"The decoder gives images of shape {decoder.output_shape[1:]}, but "
                f"the encoder takes {encoder.input_shape[1:]}: they must be equal."
            )
        self.encoder = encoder
        self.decoder = decoder
        self.target = target or keras.layers.Identity(name="target")
        self.visible = visible
        self.seed = keras.random.SeedGenerator(seed)
        self.rows, self.columns, size = encoder.output_shape[1:]
        self.shown = round((1 - fraction) * self.rows * self.columns)
        self.mask_token = self.add_weight(shape=(size,), name="mask_token")
        # The cache knows a run by its layers and initial weights. This is neither, and
        # decides what is learnt.
        settings = self.add_weight(shape=(2,), trainable=False, name="settings")
        settings.assign([fraction, visible])
        self.build(encoder.input_shape)

    def build(self, input_shape):
        self.built = True

    def draw(self, batch):
        """Return the patches of each image in a random order, (batch, patches).

        The first `self.shown` of them are visible.
        """
        numbers = keras.random.uniform(
            (batch, self.rows * self.columns), seed=self.seed
        )
        return ops.argsort(numbers, axis=1)

    def restore(self, images, order, training=None):
        """Return what the network makes of images with patches shown in this order."""
        tokens = self.encoder.get_layer("patches")(ops.cast(images, "float32"))
        seen = tokens_at(tokens, order[:, : self.shown])
        code = self.encoder.get_layer("transformer")(seen, training=training)
        batch, patches, size = ops.shape(tokens)
        masks = ops.broadcast_to(
            ops.cast(self.mask_token, code.dtype), (batch, patches - self.shown, size)
        )
        # Back to their places: the order of an order is what undoes it.
        places = ops.argsort(order, axis=1)
        full = tokens_at(ops.concatenate([code, masks], axis=1), places)
        full = ops.reshape(full, (batch, self.rows, self.columns, size))
        return self.decoder(full, training=training)

    def hidden(self, order):
        """Return 1 where patches are hidden, else 0: (batch, height, width, 1)."""
        rank = ops.argsort(order, axis=1)
        hidden = ops.cast(rank >= self.shown, "float32")
        hidden = ops.reshape(hidden, (-1, self.rows, self.columns, 1))
        patch = self.encoder.input_shape[1] // self.rows
        return ops.repeat(ops.repeat(hidden, patch, axis=1), patch, axis=2)

    def call(self, images, training=None):
        order = self.draw(ops.shape(images)[0])
        return self.restore(images, order, training), self.hidden(order)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        restored, hidden = y_pred
        target = self.target(ops.cast(x, restored.dtype) / 255)
        weight = hidden + self.visible * (1 - hidden)
        error = ops.mean(ops.square(target - restored), axis=-1, keepdims=True)
        return ops.sum(weight * error) / ops.sum(weight)


class RotationPredictor(keras.Model):
    """Tell by how many quarter turns an image was turned (Gidaris et al., 2018).

    To know which way is up, the encoder has to know what the image shows. Of each
    batch, which comes shuffled, every fourth image is turned equally far.

    Shapes: images (batch, height, width, channels) in 0 … 255, height = width → logits
    (batch, 4).

    Args:
        encoder: images → a map of features.
        augment: a layer on images that acts in training only.
    """

    def __init__(
        self,
        encoder: keras.Model,
        augment: keras.layers.Layer | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.head = models.pooled_head(encoder.output_shape[1:], classes=4)
        self.augment = augment or keras.layers.Identity(name="augment")
        self.build(encoder.input_shape)

    def build(self, input_shape):
        self.built = True

    @staticmethod
    def turns(images):
        """Return how many quarter turns each image of a batch gets, (batch,)."""
        return ops.arange(ops.shape(images)[0], dtype="int32") % 4

    def call(self, images, training=None):
        if training:
            images = self.augment(ops.cast(images, "float32"), training=True)
            turns = self.turns(images)[:, None, None, None]
            upright = images
            for k in (1, 2, 3):
                turned = ops.rot90(upright, k, axes=(1, 2))
                images = ops.where(turns == k, turned, images)
        return self.head(self.encoder(images, training=training))

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        return ops.mean(
            keras.losses.sparse_categorical_crossentropy(
                self.turns(x), y_pred, from_logits=True
            )
        )


class TwoViews(keras.Model):
    """See each image of a batch twice, differently augmented, for a loss to compare.

    Args:
        encoder: images → a map of features; the projector is thrown away afterwards.
        augment: a layer on images that acts in training only.
        size: of the projector's layers.
        setting: of the loss, a number or several.
    """

    def __init__(
        self,
        encoder: keras.Model,
        augment: keras.layers.Layer,
        size: int,
        setting: float | Sequence[float],
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.augment = augment
        self.projector = models.projector(encoder.output_shape[1:], size)
        # The cache knows a run by its layers and initial weights. This is neither, and
        # decides what is learnt.
        kept = self.add_weight(shape=np.shape(setting), trainable=False, name="setting")
        kept.assign(setting)
        self.build(encoder.input_shape)

    def build(self, input_shape):
        self.built = True

    def project(self, images, training=None):
        """Return what the projector makes of the images, or of two views of each."""
        if training:
            both = ops.concatenate([images, images])
            images = self.augment(ops.cast(both, "float32"), training=True)
        return self.projector(self.encoder(images, training=training))


class ContrastiveLearner(TwoViews):
    """Know two views of an image among those of all others: SimCLR (Chen et al., 2020).

    What a small network, the projector, makes of two views of an image shall point in
    the same direction, and in another than what it makes of the other images of the
    batch: a classification of each view, with its partner as the right class, by the
    cosine of the angles over a temperature.

    Shapes: images (batch, height, width, channels) in 0 … 255 → unit vectors; in
    training those of both views, (2 batch, size), first all first views.

    Args:
        encoder, augment, size: see `TwoViews`.
        temperature: the lower, the more it counts which other image is the nearest.
    """

    def __init__(
        self,
        encoder: keras.Model,
        augment: keras.layers.Layer,
        size: int = 128,
        temperature: float = 0.2,
        **kwargs,
    ):
        super().__init__(encoder, augment, size, setting=temperature, **kwargs)
        self.temperature = temperature

    def call(self, images, training=None):
        return ops.normalize(self.project(images, training), axis=-1)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        views = ops.shape(y_pred)[0]
        cosines = ops.matmul(y_pred, ops.transpose(y_pred))
        # No view is its own partner.
        logits = cosines / self.temperature - 1e9 * ops.eye(views)
        partner = (ops.arange(views, dtype="int32") + views // 2) % views
        return ops.mean(
            keras.losses.sparse_categorical_crossentropy(
                partner, logits, from_logits=True
            )
        )


class VICReg(TwoViews):
    """Make two views alike without comparing images: VICReg (Bardes et al., 2022).

    Three terms. Invariance: the projections of two views of an image lie close
    together. Variance: over a batch, each number of a projection has a standard
    deviation of at least 1, which a network with one answer to everything has not.
    Covariance: no two numbers say the same.

    Shapes: images (batch, height, width, channels) in 0 … 255 → (batch, size); in
    training those of both views, (2 batch, size), first all first views.

    Args:
        encoder, augment, size: see `TwoViews`.
        weights_of_terms: of the three; those of the paper by default.
    """

    def __init__(
        self,
        encoder: keras.Model,
        augment: keras.layers.Layer,
        size: int = 128,
        weights_of_terms: Sequence[float] = (25.0, 25.0, 1.0),
        **kwargs,
    ):
        super().__init__(encoder, augment, size, setting=weights_of_terms, **kwargs)
        self.weights_of_terms = tuple(weights_of_terms)

    def call(self, images, training=None):
        return self.project(images, training)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        views = ops.split(y_pred, 2)
        invariance = ops.mean(ops.square(views[0] - views[1]))
        variance, covariance = 0.0, 0.0
        for view in views:
            rows, size = ops.shape(view)
            centred = view - ops.mean(view, axis=0)
            shared = ops.matmul(ops.transpose(centred), centred)
            shared = shared / ops.cast(ops.maximum(rows - 1, 1), view.dtype)
            own = ops.diagonal(shared)
            lacking = ops.relu(1 - ops.sqrt(own + 1e-4))
            variance += ops.mean(lacking) / 2
            others = ops.sum(ops.square(shared)) - ops.sum(ops.square(own))
            covariance += others / size
        terms = zip(
            self.weights_of_terms, (invariance, variance, covariance), strict=True
        )
        return sum(weight * term for weight, term in terms)


def alignment(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean squared distance between two views of the same image.

    Zero where all views of an image agree (Wang & Isola, 2020).

    Args:
        one, other: unit vectors, (images, size), in the same order.
    """
    return float(np.square(one - other).sum(axis=1).mean())


def uniformity(z: np.ndarray) -> float:
    """Return how evenly unit vectors are spread: ln E exp(−2 ‖z − z′‖²).

    Zero where all are the same; towards −4 where they point in all directions
    (Wang & Isola, 2020).

    Args:
        z: unit vectors, (images, size).
    """
    squares = 2 - 2 * (z @ z.T)
    pairs = squares[np.triu_indices(len(z), 1)]
    return float(np.log(np.mean(np.exp(-2 * pairs))))


def conv_autoencoder(input_shape: models.Shape, seed: int = 0) -> Autoencoder:
    """Return a new convolutional autoencoder of the book's standard size.

    Args:
        input_shape: of one image, (height, width, channels).
        seed: fixes the initial weights.
    """
    keras.utils.set_random_seed(seed)
    encoder = models.conv_encoder(input_shape)
    decoder = models.conv_decoder(encoder.output_shape[1:], channels=input_shape[-1])
    return Autoencoder(encoder, decoder)


def pretrain(
    model: Autoencoder,
    x: np.ndarray,
    *,
    epochs: int,
    learning_rate: float = 2e-3,
    batch_size: int = 128,
    seed: int = 0,
    title: str = "Pretraining",
) -> dict[str, list[float]]:
    """Train a model of this module on images without labels, or take it from the cache.

    Adam (Kingma & Ba, 2015), its learning rate falling to zero along a cosine. The
    cache knows a run by the initial weights, the images and all settings: to find it
    again, call `keras.utils.set_random_seed` before the model is built.

    Args:
        model: a new one, such as an autoencoder: any with a loss that needs no labels.
        x: images in 0 … 255, shape (n, height, width, channels).
        learning_rate: at the start.
        seed: fixes the order of the images.
        title: what the progress line says.

    Returns:
        The history: the `loss` of each epoch (of an autoencoder, the mean squared
        error), and the `seconds` of the whole training.
    """

    def train():
        keras.utils.set_random_seed(seed)
        steps = epochs * -(-len(x) // batch_size)
        schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
        model.compile(keras.optimizers.Adam(schedule), **compile_options())
        # Otherwise the first step would make its variables, and be traced twice.
        model.optimizer.build(model.trainable_variables)
        images = batches(x, batch_size=batch_size, seed=seed)
        callbacks = [Progress(title)]
        start = time.perf_counter()
        history = model.fit(
            images, epochs=epochs, shuffle=False, callbacks=callbacks, verbose=0
        ).history
        return history | {"seconds": [time.perf_counter() - start]}

    parts = [model]
    for part in parts:  # which grows: layers, the layers in them, and so on
        parts += getattr(part, "layers", ())
    ours = {type(p) for p in parts if type(p).__module__.startswith(__package__)}
    return cache.train_once(
        model,
        train,
        method=type(model).__name__.lower(),
        networks=[keras.saving.serialize_keras_object(p) for p in model.layers],
        # With the states of random layers, which follow from their seeds.
        weights=cache.digest([ops.convert_to_numpy(v) for v in model.variables]),
        images=cache.digest([x]),
        settings=[epochs, learning_rate, batch_size, seed],
        code=cache.code_hash(pretrain, *ours),
    )


def reconstruct(model: Autoencoder, x: np.ndarray) -> np.ndarray:
    """Return the restored images, float32 in [0, 1], shape (n, height, width, c)."""
    return models.predict(model, x)


def reconstruction_error(model: Autoencoder, x: np.ndarray) -> float:
    """Return the mean squared error per pixel and channel, on the scale [0, 1]."""
    total = 0.0
    for i in range(0, len(x), 4096):
        part = x[i : i + 4096]
        error = reconstruct(model, part) - part.astype("float32") / 255
        total += float(np.square(error).sum(dtype="float64"))
    return total / x.size
