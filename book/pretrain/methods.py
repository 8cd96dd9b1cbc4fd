"""What a study compares: each method is one function, from labels to a classifier.

A method gets a `Task`, which holds no test image, and returns a `Fitted` classifier.
`@method` puts it on the list, and the study then runs it like all others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import keras
import numpy as np
from sklearn.decomposition import PCA

from pretrain import models, objectives, transfer
from pretrain.layers import (
    PatchNormalization,
    RandomCropFlip,
    RandomMask,
    pixel_noise,
    strong_augmentation,
)


@dataclass(frozen=True, eq=False)
class Task:
    """What a method may see in one trial.

    Shapes: `x` (n, height, width, channels) with labels `y` (n,); `x_val`, `y_val` to
    make choices on; `unlabelled` images to pretrain on. `steps` is the number of
    gradient steps on labels, `augment` the augmentation of all networks, `strong` or
    `light`, `pretrain_epochs` the number of passes without labels, `width` scales the
    filters of the network.
    """

    x: np.ndarray
    y: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    unlabelled: np.ndarray
    classes: int
    steps: int
    augment: str
    pretrain_epochs: int
    width: float
    seed: int


@dataclass(frozen=True, eq=False)
class Fitted:
    """A classifier: images → labels, and what it took to get there.

    `found` is what the method chose by itself, on validation images, or measured.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    found: Mapping[str, float] = field(default_factory=dict)
    pretrain_seconds: float = 0.0


@dataclass(frozen=True)
class Method:
    """A function, and the settings among which a study chooses for it."""

    fit: Callable[..., Fitted]
    grid: Sequence[Mapping[str, Any]]
    prepare: Callable[[Task], object] | None = None


METHODS: dict[str, Method] = {}


def method(
    name: str,
    grid: Sequence[Mapping[str, Any]] = ({},),
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


# Four settings for every method, the baselines like the favourite: how to train for a
# network that trains, which features for one that is frozen.
TRAINED = tuple(
    {"learning_rate": rate, "weight_decay": decay}
    for rate, decay in product((2e-3, 6e-3), (0.05, 0.5))
)
FROZEN = tuple(
    {"layer": layer, "cells": cells}
    for layer, cells in product(("stage2", "stage3"), (2, 4))
)
# Each probe, in each trial, chooses among four strengths of regularisation.
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


FILTERS = (16, 32, 64, 128)


def new_encoder(task: Task, stages: int = len(FILTERS)) -> keras.Model:
    """Return the network that all methods share, or its first stages, untrained."""
    filters = [round(task.width * f) for f in FILTERS[:stages]]
    return models.residual_encoder(task.x.shape[1:], filters)


def random_encoder(task: Task) -> keras.Model:
    """Return an untrained encoder, its weights drawn with the seed of the trial."""
    keras.utils.set_random_seed(task.seed)
    return new_encoder(task)


def pretrained_autoencoder(
    task: Task,
    *,
    epochs: int = 0,
    stages: int = len(FILTERS),
    code: int = 0,
    corrupt: str = "nothing",
    target: str = "image",
    seed: int = 0,
) -> tuple[objectives.Autoencoder, dict[str, list[float]]]:
    """Return an autoencoder of all unlabelled images, and the history of its training.

    Args:
        epochs: default: as many as the study says.
        stages: of the encoder.
        code: number of channels in the code; 0 for those of the last stage.
        corrupt: `nothing`, `noise` or `mask`.
        target: `image`, or `patches`: each patch normalised.
        seed: of the initial weights and the order of the images.
    """
    keras.utils.set_random_seed(seed)
    encoder = new_encoder(task, stages)
    if code:
        encoder = models.with_code(encoder, code)
    code_shape = encoder.output_shape[1:]
    decoder = models.conv_decoder(
        code_shape,
        filters=(64, 32)[len(FILTERS) - stages :],
        channels=task.x.shape[-1],
        activation="sigmoid" if target == "image" else "linear",
    )
    corruptions = {
        "nothing": None,
        "noise": pixel_noise(0.2, seed),
        "mask": RandomMask(4, 0.5, seed=seed, name="mask"),
    }
    targets = {"image": None, "patches": PatchNormalization(8, name="patches")}
    model = objectives.Autoencoder(
        encoder, decoder, corruptions[corrupt], targets[target]
    )
    history = objectives.pretrain(
        model, task.unlabelled, epochs=epochs or task.pretrain_epochs, seed=seed
    )
    return model, history


def best_autoencoder(task: Task) -> tuple[objectives.Autoencoder, float]:
    """Return the autoencoder of the recipe that did best, and its training seconds.

    Of the recipes below, on validation images of CIFAR-10: masks, and long training.
    """
    model, history = pretrained_autoencoder(task, corrupt="mask")
    return model, history["seconds"][0]


def features_of(network: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from images to the features of a network, (n, features)."""
    return lambda x: transfer.features(network, x)


def probe_layer(
    task: Task, encoder: keras.Model, seconds: float, layer: str, cells: int
) -> Fitted:
    """Fit a linear probe on a layer, averaged over a grid of cells.

    Args:
        seconds: that the pretraining of the encoder took.
    """
    represent = features_of(models.pooled_features(encoder, layer, cells))
    return probe(task, represent, seconds)


@method("random, frozen", FROZEN)
def random_frozen(task: Task, layer: str, cells: int) -> Fitted:
    """A linear probe on an encoder that nobody trained, but whose norms are settled."""
    encoder = random_encoder(task)
    transfer.settle_normalisation(encoder, task.unlabelled, task.seed)
    return probe_layer(task, encoder, 0.0, layer, cells)


@method("autoencoder, frozen", FROZEN, best_autoencoder)
def autoencoder_frozen(task: Task, layer: str, cells: int) -> Fitted:
    """A linear probe on the encoder of the autoencoder."""
    model, seconds = best_autoencoder(task)
    return probe_layer(task, model.encoder, seconds, layer, cells)


def train_logits(
    task: Task, encoder: keras.Model, head: keras.Model, **settings
) -> Callable:
    """Train encoder and head on the labels; return a function, images → logits.

    The logits are the sum of those for the image and for its mirror image.
    """
    augment = (
        strong_augmentation(task.x.shape[-1], task.seed)
        if task.augment == "strong"
        else RandomCropFlip(seed=task.seed)
    )
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

    def logits(x):
        mirrored = np.ascontiguousarray(x[:, :, ::-1])
        return models.predict(network, x) + models.predict(network, mirrored)

    return logits


def train(task: Task, encoder: keras.Model, head: keras.Model, **settings) -> Callable:
    """Train encoder and head on the labels; return the classifier, images → labels."""
    logits = train_logits(task, encoder, head, **settings)
    return lambda x: logits(x).argmax(axis=1)


@method("from scratch", TRAINED)
def from_scratch(task: Task, **settings) -> Fitted:
    """The same network without pretraining."""
    encoder = random_encoder(task)
    head = models.pooled_head(encoder.output_shape[1:], task.classes)
    return Fitted(train(task, encoder, head, **settings))


def network_from(
    task: Task, pretrained: keras.Model, stages: int
) -> tuple[keras.Model, keras.Model]:
    """Return an encoder and a head, untrained but for the encoder's first stages."""
    encoder = random_encoder(task)
    for layer in encoder.layers:
        if layer.weights and transfer.stage_of(layer.name) <= stages:
            layer.set_weights(pretrained.get_layer(layer.name).get_weights())
    return encoder, models.pooled_head(encoder.output_shape[1:], task.classes)


def start_from(
    task: Task, pretrained: keras.Model, seconds: float, stages: int, **settings
) -> Fitted:
    """Train a network whose first stages come from another, and the others do not.

    Args:
        seconds: that the pretraining of the other took.
    """
    network = network_from(task, pretrained, stages)
    return Fitted(train(task, *network, **settings), {}, seconds)


@method(
    "autoencoder depth",
    tuple({"stages": n} for n in range(len(FILTERS) + 1)),
    best_autoencoder,
)
def autoencoder_depth(task: Task, stages: int) -> Fitted:
    """Fine-tuning with one setting for all, from more or fewer pretrained stages."""
    settings = {"learning_rate": 2e-3, "weight_decay": 0.5}
    model, seconds = best_autoencoder(task)
    return start_from(task, model.encoder, seconds, stages, **settings)


@method("autoencoder, fine-tuned", TRAINED, best_autoencoder)
def autoencoder_fine_tuned(task: Task, **settings) -> Fitted:
    """The encoder of the autoencoder with a new head, all of it trained."""
    model, seconds = best_autoencoder(task)
    return start_from(task, model.encoder, seconds, len(FILTERS), **settings)


@method("autoencoder, LP-FT", TRAINED, best_autoencoder)
def autoencoder_lp_ft(task: Task, **settings) -> Fitted:
    """The same, but the head starts as a linear probe (Kumar et al., 2022)."""
    model, seconds = best_autoencoder(task)
    head = models.pooled_head(model.encoder.output_shape[1:], task.classes)
    pool = models.pooled_features(model.encoder, model.encoder.layers[-1].name, 1)
    found = fit_probe(task, features_of(pool))
    transfer.probe_to_head(found, head)
    fitted = train(task, model.encoder, head, **settings)
    return Fitted(fitted, {"strength": found.strength}, seconds)


def recipe_grid() -> tuple[dict[str, Any], ...]:
    """Return ways to pretrain an autoencoder, each with the features to probe.

    From one recipe in the middle, each choice is varied by itself; then what could
    add up is combined.
    """
    middle = {"epochs": 2}
    recipes = [
        {"epochs": 1},
        middle,
        {"epochs": 10},
        *(middle | {"stages": n} for n in (2, 3)),
        *(middle | {"code": n} for n in (2, 8, 32)),
        *(middle | {"corrupt": kind} for kind in ("noise", "mask")),
        middle | {"target": "patches"},
        *(
            middle | {"corrupt": kind, "target": "patches"}
            for kind in ("noise", "mask")
        ),
        middle | {"seed": 1},
        {"epochs": 10, "corrupt": "mask"},
    ]
    return tuple(
        {**recipe, "layer": f"stage{stage}", "cells": cells}
        for recipe in recipes
        for stage in range(2, recipe.get("stages", len(FILTERS)) + 1)
        for cells in (1, 2, 4)
    )


RECIPES = recipe_grid()


def pretrain_recipes(task: Task) -> None:
    """Pretrain by every recipe."""
    for recipe in RECIPES:
        how = {k: v for k, v in recipe.items() if k not in ("layer", "cells")}
        pretrained_autoencoder(task, **how)


@method("autoencoder recipe", RECIPES, pretrain_recipes)
def autoencoder_recipe(task: Task, layer: str, cells: int, **recipe) -> Fitted:
    """A linear probe on one layer of an autoencoder that was trained by a recipe."""
    model, history = pretrained_autoencoder(task, **recipe)
    fitted = probe_layer(task, model.encoder, history["seconds"][0], layer, cells)
    error = {"loss": history["loss"][-1]}
    if recipe.get("target", "image") == "image":
        error["copy_error"] = objectives.reconstruction_error(model, task.x_val)
    return replace(fitted, found={**fitted.found, **error})
