"""Methods of today's pretraining, from label-free tasks to a network from ImageNet."""

import time
from dataclasses import dataclass, replace
from itertools import product

import keras
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.cluster import MiniBatchKMeans

from pretrain import cache, objectives
from pretrain.layers import RandomCropFlip, two_view_augmentation
from pretrain.methods import (
    FROZEN,
    METHODS,
    Fitted,
    Task,
    method,
    network_from,
    new_encoder,
    probe,
    probe_layer,
    start_from,
    train_logits,
)


def rotation_encoder(task: Task) -> tuple[keras.Model, float]:
    """Return an encoder that learned to tell quarter turns, and its training seconds.

    Twice as many passes as the autoencoder, which also has a decoder to train.
    """
    keras.utils.set_random_seed(0)
    augment = RandomCropFlip(seed=0)
    model = objectives.RotationPredictor(new_encoder(task), augment)
    epochs = 2 * task.pretrain_epochs
    history = objectives.pretrain(model, task.unlabelled, epochs=epochs)
    return model.encoder, history["seconds"][0]


def contrastive_encoder(task: Task) -> tuple[keras.Model, float]:
    """Return an encoder that learned to know two views, and its training seconds.

    As many passes as the autoencoder; each sees every image twice.
    """
    keras.utils.set_random_seed(0)
    augment = two_view_augmentation(task.x.shape[-1], seed=0)
    model = objectives.ContrastiveLearner(new_encoder(task), augment)
    history = objectives.pretrain(
        model, task.unlabelled, epochs=task.pretrain_epochs, batch_size=256
    )
    return model.encoder, history["seconds"][0]


# How many stages to keep, and the learning rate.
FROM_STAGES = tuple(
    {"stages": stages, "learning_rate": rate, "weight_decay": 0.5}
    for stages, rate in product((3, 4), (2e-3, 6e-3))
)


@method("rotation, frozen", FROZEN, rotation_encoder)
def rotation_frozen(task: Task, **which) -> Fitted:
    """A linear probe on the encoder that learned to tell quarter turns."""
    return probe_layer(task, *rotation_encoder(task), **which)


@method("rotation, fine-tuned", FROM_STAGES, rotation_encoder)
def rotation_fine_tuned(task: Task, **settings) -> Fitted:
    """The same encoder, or its first three stages, trained on with a new head."""
    return start_from(task, *rotation_encoder(task), **settings)


@method("contrastive, frozen", FROZEN, contrastive_encoder)
def contrastive_frozen(task: Task, **which) -> Fitted:
    """A linear probe on the encoder that learned to know two views of an image."""
    return probe_layer(task, *contrastive_encoder(task), **which)


@method("contrastive, fine-tuned", FROM_STAGES, contrastive_encoder)
def contrastive_fine_tuned(task: Task, **settings) -> Fitted:
    """The same encoder, or its first three stages, trained on with a new head."""
    return start_from(task, *contrastive_encoder(task), **settings)


def most_sure(logits: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the images that a classifier is surest of, equally many for each class.

    Args:
        logits: of its answers, (n, classes).
        share: of all n that are wanted; fewer where a class is hardly ever named.

    Returns:
        The rows of these images, and the classes named: its pseudo-labels.
    """
    named = logits.argmax(axis=1)
    sure = logits.max(axis=1) - np.logaddexp.reduce(logits, axis=1)
    most = round(share * len(logits) / logits.shape[1])
    of_each = (np.flatnonzero(named == c) for c in range(logits.shape[1]))
    rows = np.concatenate([own[np.argsort(-sure[own])][:most] for own in of_each])
    return rows, named[rows]


def with_pseudo_labels(task: Task, logits: np.ndarray, share: float) -> Task:
    """Add the surest answers about the unlabelled images to the labelled ones.

    The labelled images are repeated, to be a quarter of all if there are fewer.
    """
    rows, named = most_sure(logits, share)
    times = max(1, len(rows) // (3 * len(task.x)))
    return replace(
        task,
        x=np.concatenate([*[task.x] * times, task.unlabelled[rows]]),
        y=np.concatenate([*[task.y] * times, named]),
    )


# How to fine-tune is what did best for "rotation, fine-tuned", with any labels.
@method(
    "rotation, self-trained",
    tuple({"stages": n, "share": s} for n, s in product((3, 4), (0.2, 0.4))),
    rotation_encoder,
)
def rotation_self_trained(task: Task, stages: int, share: float) -> Fitted:
    """Three networks from one encoder; the later ones learn from pseudo-labels, too.

    The first is "rotation, fine-tuned". It names the unlabelled images, and the
    second learns from the answers that it is surest of; the third learns from those
    of the first two together (Lee, 2013; Xie et al., 2020). All three decide, by the
    sum of their logits.
    """
    encoder, seconds = rotation_encoder(task)
    trained, known, logits = [], task, 0
    for _ in range(3):
        if trained:
            logits = logits + trained[-1](task.unlabelled)
            known = with_pseudo_labels(task, logits / len(trained), share)
        network = network_from(known, encoder, stages)
        trained.append(
            train_logits(known, *network, learning_rate=2e-3, weight_decay=0.5)
        )
    return Fitted(
        lambda x: sum(network(x) for network in trained).argmax(axis=1),
        pretrain_seconds=seconds,
    )


def pretrained_longer(task: Task) -> Task:
    """Return the task with three times as many passes over the unlabelled images."""
    return replace(task, pretrain_epochs=3 * task.pretrain_epochs)


def long_rotation_encoder(task: Task) -> tuple[keras.Model, float]:
    """Return an encoder that learned to tell quarter turns for three times as long."""
    return rotation_encoder(pretrained_longer(task))


@method("long rotation, fine-tuned", FROM_STAGES, long_rotation_encoder)
def long_rotation_fine_tuned(task: Task, **settings) -> Fitted:
    """The same as "rotation, fine-tuned", from that encoder."""
    return rotation_fine_tuned(pretrained_longer(task), **settings)


@method(
    "long rotation, self-trained",
    METHODS["rotation, self-trained"].grid,
    long_rotation_encoder,
)
def long_rotation_self_trained(task: Task, **which) -> Fitted:
    """The same as "rotation, self-trained", from that encoder."""
    return rotation_self_trained(pretrained_longer(task), **which)


PATCH = 6  # pixels on a side


def patches_of(x: np.ndarray) -> np.ndarray:
    """Return a view of all square patches: (n, rows, columns, channels, side, side)."""
    return sliding_window_view(x, (PATCH, PATCH), axis=(1, 2))


def standardised(patches: np.ndarray) -> np.ndarray:
    """Return patches as rows of pixels, of mean 0 and variance 1 but for flat ones.

    Shapes: (…, channels, side, side) → (…, channels · side²), float32.
    """
    rows = patches.reshape(*patches.shape[:-3], -1).astype("float32")
    rows -= rows.mean(axis=-1, keepdims=True)
    return rows / np.sqrt(rows.var(axis=-1, keepdims=True) + 10)


@dataclass(frozen=True, eq=False)
class PatchDictionary:
    """What k-means found in the patches of images without labels.

    Shapes: `whiten` (pixels of a patch, the same), applied after subtracting `mean`;
    `centroids` (number, pixels of a patch).
    """

    mean: np.ndarray
    whiten: np.ndarray
    centroids: np.ndarray

    def features(self, x: np.ndarray, cells: int) -> np.ndarray:
        """Return how close the patches of each image are to each centroid.

        A patch activates the centroids that are nearer than the average one, by how
        much they are nearer; this is averaged over a grid of cells.

        Shapes: (n, height, width, channels) → (n, cells² · number of centroids).
        """
        return np.concatenate(
            [self._features(x[i : i + 50], cells) for i in range(0, len(x), 50)]
        )

    def _features(self, x: np.ndarray, cells: int) -> np.ndarray:
        places = patches_of(x)
        rows = standardised(places.reshape(-1, *places.shape[3:]))
        rows = (rows - self.mean) @ self.whiten
        lengths = np.square(rows).sum(axis=1, keepdims=True)
        squares = lengths + np.square(self.centroids).sum(axis=1)
        distances = np.sqrt(np.maximum(squares - 2 * rows @ self.centroids.T, 0))
        active = np.maximum(distances.mean(axis=1, keepdims=True) - distances, 0)
        active = active.reshape(*places.shape[:3], -1)
        pooled = [
            column.mean(axis=(1, 2))
            for row in np.array_split(active, cells, axis=1)
            for column in np.array_split(row, cells, axis=2)
        ]
        return np.concatenate(pooled, axis=1)


def learn_patches(x: np.ndarray, centroids: int, seed: int = 0) -> PatchDictionary:
    """Learn a dictionary of patches by k-means (Coates, Ng & Lee, 2011).

    100,000 patches at random places are standardised, whitened, which makes all
    directions of pixel space equally long, and clustered. No gradient is computed.

    Args:
        x: images without labels, (n, height, width, channels).
        centroids: their number.
        seed: fixes which patches are seen, and where k-means starts.
    """
    places = patches_of(x)
    rng = np.random.default_rng(seed)
    chosen = tuple(rng.integers(0, size, 100_000) for size in places.shape[:3])
    rows = standardised(places[chosen])
    mean = rows.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(rows, rowvar=False))
    whiten = (directions / np.sqrt(variances + 0.1)) @ directions.T
    whiten = whiten.astype("float32")
    found = MiniBatchKMeans(centroids, batch_size=4096, n_init=1, random_state=seed)
    found.fit((rows - mean) @ whiten)
    return PatchDictionary(mean, whiten, found.cluster_centers_)


@method(
    "k-means, frozen",
    tuple({"centroids": n, "cells": cells} for n, cells in product((200, 800), (2, 4))),
)
def k_means_frozen(task: Task, centroids: int, cells: int) -> Fitted:
    """A linear probe on a dictionary of patches: no network, no gradient."""
    start = time.perf_counter()
    dictionary = learn_patches(task.unlabelled, centroids)
    seconds = time.perf_counter() - start

    def represent(x):
        return cache.compute_once(
            lambda: dictionary.features(x, cells),
            method="patches",
            images=[cache.digest([task.unlabelled]), cache.digest([x])],
            settings=[centroids, cells],
            code=cache.code_hash(learn_patches, PatchDictionary),
        )

    return probe(task, represent, seconds)
