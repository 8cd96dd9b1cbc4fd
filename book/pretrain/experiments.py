"""What the chapters compare beside the ways to use labels; run by the same study.

Convolutional and dense networks, frozen stages, optimizers: see `pretrain.methods` for
what a method is.
"""

from bisect import bisect_left
from collections.abc import Callable
from functools import partial

import keras
import numpy as np
from keras import layers

from pretrain import flops, methods, models, objectives, transfer
from pretrain.feed import batches
from pretrain.layers import BatchNormalization, RandomCropFlip
from pretrain.methods import Fitted, Task, method
from pretrain.profiles import compile_options


@method(
    "first stages frozen",
    tuple(
        {"weights": weights, "stages": n}
        for weights in ("autoencoder", "random")
        for n in range(len(methods.FILTERS) + 1)
    ),
    methods.best_autoencoder,
)
def first_stages_frozen(task: Task, weights: str, stages: int) -> Fitted:
    """A network whose first convolutions keep the weights that they start with.

    Only the convolutions are frozen: the norms behind them go on adapting, so that
    random features, too, reach the later stages on a useful scale.
    """
    encoder = methods.random_encoder(task)
    if weights == "autoencoder":
        encoder.set_weights(methods.best_autoencoder(task)[0].encoder.get_weights())
    for layer in encoder.layers:
        if isinstance(layer, keras.layers.Conv2D):
            layer.trainable = transfer.stage_of(layer.name) > stages
    head = models.pooled_head(encoder.output_shape[1:], task.classes)
    return Fitted(
        methods.train(task, encoder, head, learning_rate=2e-3, weight_decay=0.5)
    )


def permuted(x: np.ndarray) -> np.ndarray:
    """Rearrange the pixels of all images in the same way, drawn once for all.

    Shapes: (n, height, width, channels) in and out.
    """
    order = np.random.default_rng(0).permutation(x.shape[1] * x.shape[2])
    return x.reshape(len(x), -1, x.shape[-1])[:, order].reshape(x.shape)


def without_change(x: np.ndarray) -> np.ndarray:
    """Return the images as they are."""
    return x


# More learning rates than above: a dense network may want another one.
PLAIN = tuple({"learning_rate": rate} for rate in (5e-4, 2e-3, 8e-3))


def train_plainly(
    task: Task, encoder: keras.Model, arrange: Callable, **settings
) -> Fitted:
    """Train an encoder with a linear head on rearranged images, not augmented."""
    head = models.linear_head(encoder.output_shape[1:], task.classes)
    network = models.classifier(encoder, head)
    transfer.fine_tune(
        network,
        arrange(task.x),
        task.y,
        steps=task.steps,
        batch_size=methods.BATCH_SIZE,
        weight_decay=0.05,
        seed=task.seed,
        title=None,
        **settings,
    )
    return Fitted(lambda x: models.predict(network, arrange(x)).argmax(axis=1))


def small_conv_encoder(task: Task) -> keras.Model:
    """Return three strided convolutions, their weights drawn with the trial's seed."""
    keras.utils.set_random_seed(task.seed)
    return models.conv_encoder(task.x.shape[1:])


def dense_encoder(input_shape: models.Shape, units: int) -> keras.Model:
    """Encode an image by two dense layers, normalised like the convolutional ones.

    Shapes: `input_shape` → (units,).
    """
    image = keras.Input(input_shape, name="image")
    h = layers.Rescaling(1 / 255, name="scale")(image)
    h = layers.Flatten(name="flatten")(h)
    for i in (1, 2):
        h = layers.Dense(units, use_bias=False, name=f"dense{i}")(h)
        h = BatchNormalization(name=f"norm{i}")(h)
        h = layers.ReLU(name=f"relu{i}")(h)
    return keras.Model(image, h, name="dense_encoder")


def equal_dense_encoder(task: Task, cost: Callable[[keras.Model], int]) -> keras.Model:
    """Return a dense encoder that, with its head, costs as much as the convolutions.

    Args:
        cost: of a classifier, such as its number of parameters.
    """

    def whole(encoder):
        head = models.linear_head(encoder.output_shape[1:], task.classes)
        return cost(models.classifier(encoder, head))

    shape, budget = task.x.shape[1:], whole(small_conv_encoder(task))
    units = bisect_left(
        range(1, 4096), budget, key=lambda u: whole(dense_encoder(shape, u))
    )
    keras.utils.set_random_seed(task.seed)
    return dense_encoder(shape, units + 1)


def parameters(model: keras.Model) -> int:
    """Return the number of parameters."""
    return model.count_params()


@method("convolutional", PLAIN)
def convolutional(task: Task, **settings) -> Fitted:
    """A small convolutional network."""
    return train_plainly(task, small_conv_encoder(task), without_change, **settings)


@method("dense", PLAIN)
def dense(task: Task, **settings) -> Fitted:
    """A dense network with as many parameters."""
    encoder = equal_dense_encoder(task, parameters)
    return train_plainly(task, encoder, without_change, **settings)


@method("dense, equal arithmetic", PLAIN)
def dense_equal_arithmetic(task: Task, **settings) -> Fitted:
    """A dense network that does as much arithmetic for an image."""
    encoder = equal_dense_encoder(task, flops.forward)
    return train_plainly(task, encoder, without_change, **settings)


@method("convolutional, permuted", PLAIN)
def convolutional_permuted(task: Task, **settings) -> Fitted:
    """The convolutional network on images whose pixels were rearranged."""
    return train_plainly(task, small_conv_encoder(task), permuted, **settings)


@method("dense, permuted", PLAIN)
def dense_permuted(task: Task, **settings) -> Fitted:
    """The dense network on those images."""
    encoder = equal_dense_encoder(task, parameters)
    return train_plainly(task, encoder, permuted, **settings)


OPTIMIZERS: dict[str, Callable[..., keras.Optimizer]] = {
    "SGD": keras.optimizers.SGD,
    "momentum": partial(keras.optimizers.SGD, momentum=0.9, nesterov=True),
    "RMSprop": keras.optimizers.RMSprop,
    "Adam": keras.optimizers.Adam,
    "AdamW": keras.optimizers.AdamW,
    "Lion": keras.optimizers.Lion,
    "Muon": keras.optimizers.Muon,
}
# Plain SGD and Lion are some four powers of ten apart in what suits them.
RATES = (1e-4, 5e-4, 2e-3, 1e-2, 5e-2, 0.2, 1.0, 5.0)
EVERY_OPTIMIZER = tuple(
    {"optimizer": name, "rate": rate} for name in OPTIMIZERS for rate in RATES
)
CHUNK = 10


def optimize(
    task: Task, model: keras.Model, optimizer: str, rate: float, loss, *arrays
) -> dict[str, float]:
    """Train a model, and return its loss, the mean of each ten steps.

    The learning rate falls to zero along a cosine, for all optimizers alike. Training
    ends early where the loss is no longer a number; the losses after that are missing.
    """
    schedule = keras.optimizers.schedules.CosineDecay(rate, task.steps)
    model.compile(OPTIMIZERS[optimizer](schedule), loss, **compile_options())
    fed = batches(*arrays, batch_size=64, steps=task.steps, seed=task.seed)
    history = model.fit(
        fed.repeat(),
        epochs=task.steps // CHUNK,
        steps_per_epoch=CHUNK,
        shuffle=False,
        verbose=0,
        callbacks=[keras.callbacks.TerminateOnNaN()],
    )
    found = enumerate(history.history["loss"], 1)
    return {f"after {CHUNK * i}": value for i, value in found if np.isfinite(value)}


@method("optimizer, pretraining", EVERY_OPTIMIZER)
def optimizer_pretraining(task: Task, optimizer: str, rate: float) -> Fitted:
    """A linear probe on a small autoencoder that an optimizer trained."""
    model = objectives.conv_autoencoder(task.x.shape[1:], task.seed)
    found = optimize(task, model, optimizer, rate, None, task.unlabelled)
    if not all(np.isfinite(w).all() for w in model.encoder.get_weights()):
        # No probe can be fitted: answer with the first class, as logits without a
        # number do.
        return Fitted(lambda x: np.zeros(len(x), int), found)
    fitted = methods.probe(task, methods.features_of(model.encoder))
    return Fitted(fitted.predict, found)


def small_autoencoder(task: Task) -> objectives.Autoencoder:
    """Return a small autoencoder of all unlabelled images, trained for two passes."""
    model = objectives.conv_autoencoder(task.x.shape[1:])
    objectives.pretrain(model, task.unlabelled, epochs=2)
    return model


@method("optimizer, fine-tuning", EVERY_OPTIMIZER, small_autoencoder)
def optimizer_fine_tuning(task: Task, optimizer: str, rate: float) -> Fitted:
    """Its encoder with a new head, trained on the labels by an optimizer."""
    encoder = small_autoencoder(task).encoder
    keras.utils.set_random_seed(task.seed)
    head = models.pooled_head(encoder.output_shape[1:], task.classes)
    augment = RandomCropFlip(seed=task.seed)
    network = models.classifier(encoder, head, augment)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    found = optimize(task, network, optimizer, rate, loss, task.x, task.y)
    return Fitted(lambda x: models.predict(network, x).argmax(axis=1), found)
