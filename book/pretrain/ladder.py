"""Methods of today's pretraining, from label-free tasks to a network from ImageNet."""

from itertools import product

import keras

from pretrain import models, objectives
from pretrain.layers import RandomCropFlip, two_view_augmentation
from pretrain.methods import (
    FROZEN,
    Fitted,
    Task,
    features_of,
    method,
    new_encoder,
    probe,
    start_from,
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


# Four settings, as many as all other methods have.
FROM_STAGES = tuple(
    {"stages": stages, "learning_rate": rate, "weight_decay": 0.5}
    for stages, rate in product((3, 4), (2e-3, 6e-3))
)


@method("rotation, frozen", FROZEN, rotation_encoder)
def rotation_frozen(task: Task, layer: str, cells: int) -> Fitted:
    """A linear probe on the encoder that learned to tell quarter turns."""
    encoder, seconds = rotation_encoder(task)
    return probe(
        task, features_of(models.pooled_features(encoder, layer, cells)), seconds
    )


@method("rotation, fine-tuned", FROM_STAGES, rotation_encoder)
def rotation_fine_tuned(task: Task, stages: int, **settings) -> Fitted:
    """The same encoder, or its first three stages, trained on with a new head."""
    encoder, seconds = rotation_encoder(task)
    return Fitted(start_from(task, encoder, stages, **settings), {}, seconds)


@method("contrastive, frozen", FROZEN, contrastive_encoder)
def contrastive_frozen(task: Task, layer: str, cells: int) -> Fitted:
    """A linear probe on the encoder that learned to know two views of an image."""
    encoder, seconds = contrastive_encoder(task)
    return probe(
        task, features_of(models.pooled_features(encoder, layer, cells)), seconds
    )


@method("contrastive, fine-tuned", FROM_STAGES, contrastive_encoder)
def contrastive_fine_tuned(task: Task, stages: int, **settings) -> Fitted:
    """The same encoder, or its first three stages, trained on with a new head."""
    encoder, seconds = contrastive_encoder(task)
    return Fitted(start_from(task, encoder, stages, **settings), {}, seconds)
