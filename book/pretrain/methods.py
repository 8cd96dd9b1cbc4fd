"""What a study compares: each method is one function, from labels to a classifier.

A method gets a `Task`, which holds no test image, and returns a `Fitted` classifier.
`@method` puts it on the list, and the study then runs it like all others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import keras
import numpy as np
from sklearn.decomposition import PCA

from pretrain import models, objectives, transfer
from pretrain.layers import strong_augmentation


@dataclass(frozen=True, eq=False)
class Task:
    """What a method may see in one trial.

    Shapes: `x` (n, height, width, channels) with labels `y` (n,); `x_val`, `y_val` to
    make choices on; `unlabelled` images to pretrain on. `steps` is the number of
    gradient steps on labels, `pretrain_epochs` that of passes without, `width` scales
    the filters of the network.
    """

    x: np.ndarray
    y: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    unlabelled: np.ndarray
    classes: int
    steps: int
    pretrain_epochs: int
    width: float
    seed: int


@dataclass(frozen=True, eq=False)
class Fitted:
    """A classifier: images → labels, and what it took to get there.

    `chosen` are settings that the method chose by itself, on validation images.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    chosen: Mapping[str, float] = field(default_factory=dict)
    pretrain_seconds: float = 0.0


@dataclass(frozen=True)
class Method:
    """A function, and the settings among which a study chooses for it."""

    fit: Callable[..., Fitted]
    grid: Sequence[Mapping[str, float]]
    prepare: Callable[[Task], object] | None = None


METHODS: dict[str, Method] = {}


def method(
    name: str,
    grid: Sequence[Mapping[str, float]] = ({},),
    prepare: Callable[[Task], object] | None = None,
):
    """Register the decorated function as a method.

    Args:
        name: as it stands in tables and figures.
        grid: settings to compare on validation images, as keyword arguments.
        prepare: pretrains what all trials share, and leaves it in the cache.
    """

    def register(fit):
        METHODS[name] = Method(fit, grid, prepare)
        return fit

    return register


# Four settings for every network that is trained, the baseline like the favourite.
# Probes choose among as many strengths of regularisation.
TRAINED = tuple(
    {"learning_rate": rate, "weight_decay": decay}
    for rate, decay in product((2e-3, 6e-3), (0.05, 0.5))
)
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
BATCH_SIZE = 32


def fit_probe(task: Task, represent: Callable) -> transfer.Probe:
    """Fit a linear classifier on what `represent` makes of the images."""
    return transfer.linear_probe(
        represent(task.x), task.y, represent(task.x_val), task.y_val, STRENGTHS
    )


def probe(task: Task, represent: Callable, pretrain_seconds: float = 0.0) -> Fitted:
    """Return that classifier as the result of a method."""
    found = fit_probe(task, represent)
    return Fitted(
        lambda x: found.predict(represent(x)),
        {"strength": found.strength},
        pretrain_seconds,
    )


def pixels(x: np.ndarray) -> np.ndarray:
    """Return the pixels as features, (n, height · width · channels), in [0, 1]."""
    return x.reshape(len(x), -1).astype("float32") / 255


@method("pixels")
def logistic_on_pixels(task: Task) -> Fitted:
    """Logistic regression on pixels."""
    return probe(task, pixels)


@method("PCA", tuple({"components": n} for n in (8, 16, 32, 64)))
def logistic_on_components(task: Task, components: int) -> Fitted:
    """Logistic regression on the principal components of the unlabelled images."""
    pca = PCA(components, svd_solver="covariance_eigh")
    pca.fit(pixels(task.unlabelled[:10_000]))
    return probe(task, lambda x: pca.transform(pixels(x)))


FILTERS = (24, 48, 96, 144)


def new_encoder(task: Task) -> keras.Model:
    """Return the network that all methods share, untrained."""
    filters = [round(task.width * f) for f in FILTERS]
    return models.residual_encoder(task.x.shape[1:], filters)


def random_encoder(task: Task) -> keras.Model:
    """Return an untrained encoder, its weights drawn with the seed of the trial."""
    keras.utils.set_random_seed(task.seed)
    return new_encoder(task)


def pretrained_autoencoder(task: Task) -> tuple[objectives.Autoencoder, float]:
    """Return the autoencoder of all unlabelled images, and its seconds of training."""
    keras.utils.set_random_seed(0)
    encoder = new_encoder(task)
    decoder = models.conv_decoder(encoder.output_shape[1:], channels=task.x.shape[-1])
    model = objectives.Autoencoder(encoder, decoder)
    history = objectives.pretrain(model, task.unlabelled, epochs=task.pretrain_epochs)
    return model, history["seconds"][0]


def flat(network: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from images to the features of a network, (n, features)."""
    return lambda x: transfer.features(network, x)


@method("random, frozen")
def random_frozen(task: Task) -> Fitted:
    """A linear probe on an encoder that nobody trained."""
    return probe(task, flat(random_encoder(task)))


@method("autoencoder, frozen", prepare=pretrained_autoencoder)
def autoencoder_frozen(task: Task) -> Fitted:
    """A linear probe on the encoder of the autoencoder."""
    model, seconds = pretrained_autoencoder(task)
    return probe(task, flat(model.encoder), seconds)


def train(task: Task, encoder: keras.Model, head: keras.Model, **settings) -> Callable:
    """Train encoder and head on the labels; return the classifier, images → labels."""
    augment = strong_augmentation(task.x.shape[-1], task.seed)
    network = models.classifier(encoder, head, augment)
    transfer.fine_tune(
        network,
        task.x,
        task.y,
        steps=task.steps,
        batch_size=BATCH_SIZE,
        seed=task.seed,
        title=None,
        **settings,
    )
    return lambda x: models.predict(network, x).argmax(axis=1)


@method("from scratch", TRAINED)
def from_scratch(task: Task, **settings) -> Fitted:
    """The same network without pretraining."""
    encoder = random_encoder(task)
    head = models.pooled_head(encoder.output_shape[1:], task.classes)
    return Fitted(train(task, encoder, head, **settings))


@method("autoencoder, fine-tuned", TRAINED, pretrained_autoencoder)
def autoencoder_fine_tuned(task: Task, **settings) -> Fitted:
    """The encoder of the autoencoder with a new head, all of it trained."""
    model, seconds = pretrained_autoencoder(task)
    keras.utils.set_random_seed(task.seed)
    head = models.pooled_head(model.encoder.output_shape[1:], task.classes)
    return Fitted(train(task, model.encoder, head, **settings), {}, seconds)


@method("autoencoder, LP-FT", TRAINED, pretrained_autoencoder)
def autoencoder_lp_ft(task: Task, **settings) -> Fitted:
    """The same, but the head starts as a linear probe (Kumar et al., 2022)."""
    model, seconds = pretrained_autoencoder(task)
    head = models.pooled_head(model.encoder.output_shape[1:], task.classes)
    pool = keras.layers.GlobalAveragePooling2D()(model.encoder.output)
    found = fit_probe(task, flat(keras.Model(model.encoder.input, pool)))
    transfer.probe_to_head(found, head)
    chosen = {"strength": found.strength}
    return Fitted(train(task, model.encoder, head, **settings), chosen, seconds)
