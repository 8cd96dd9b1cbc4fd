"""A network from ImageNet as a method of the study: frozen, fine-tuned, looked into.

The network is EfficientNet-Lite0, see `pretrain.imagenet`.
"""

from dataclasses import replace
from itertools import product

import keras
import numpy as np

from pretrain import cache, imagenet, models, transfer
from pretrain.layers import RandomCropFlip
from pretrain.methods import BATCH_SIZE, Fitted, Task, fit_probe, method, probe

# Where a network from ImageNet can be looked into: after each stage, and at its end.
TAPS = (
    "stage1_block1_project_norm",
    "stage2_block2_add",
    "stage3_block2_add",
    "stage4_block3_add",
    "stage5_block3_add",
    "stage6_block4_add",
    "stage7_block1_project_norm",
    "head_relu",
)
CHANNELS = (16, 24, 40, 80, 112, 192, 320, 1280)
# Images at a time: the early layers need 20 MB for each.
FEW = 64


def new_network(
    task: Task, side: int, weights: str = "ImageNet", norms: str = "kept"
) -> keras.Model:
    """Return EfficientNet-Lite0, for images of a side, with weights of some kind.

    Args:
        weights: `ImageNet`, or `random`.
        norms: `kept` as they are, or `settled`: their statistics replaced by those of
            256 unlabelled images.
    """
    keras.utils.set_random_seed(0)
    make = {"ImageNet": imagenet.pretrained, "random": imagenet.efficientnet_lite0}
    network = make[weights](side)
    if norms == "settled":
        enlarge = imagenet.enlarger(task.x.shape[1:], side)
        x = models.predict(enlarge, task.unlabelled[:256])
        transfer.settle_normalisation(network, x)
    return network


def tap_features(
    task: Task,
    x: np.ndarray,
    side: int,
    weights: str = "ImageNet",
    norms: str = "kept",
) -> dict[str, np.ndarray]:
    """Return the spatial means of all taps, (n, channels) each, by name.

    They are averaged over the image and its mirror image, and kept in the cache: all
    trials share the validation and test images.

    Args:
        x: images in 0 … 255, (n, height, width, 1 or 3).
        side, weights, norms: of the network, see `new_network`.
    """

    def compute():
        network = new_network(task, side, weights, norms)
        taps = imagenet.spatial_means(network, TAPS)
        encoder = imagenet.on_images(taps, x.shape[1:])
        mirrored = np.ascontiguousarray(x[:, :, ::-1])
        return sum(models.predict(encoder, both, FEW) for both in (x, mirrored)) / 2

    found = cache.compute_once(
        compute,
        method="imagenet",
        images=cache.digest([x, task.unlabelled[:256]]),
        file=cache.digest([np.fromfile(imagenet.WEIGHTS, "uint8")]),
        settings=[side, weights, norms],
        code=cache.code_hash(tap_features),
    )
    parts = np.split(found, np.cumsum(CHANNELS)[:-1], axis=1)
    return dict(zip(TAPS, parts, strict=True))


FROZEN = tuple(
    {"side": side, "layers": layers} for side, layers in product((128, 160), (1, 3))
)


def see_validation_images(task: Task) -> None:
    """Compute the features of the images that all trials choose their settings on."""
    for side in {setting["side"] for setting in FROZEN}:
        tap_features(task, task.x_val, side)


@method("ImageNet, frozen", FROZEN, see_validation_images)
def imagenet_frozen(task: Task, side: int, layers: int) -> Fitted:
    """A linear probe on the last taps of a network that learnt ImageNet's labels.

    Its pretraining took place elsewhere, and its seconds are not counted.
    """

    def represent(x):
        taps = tap_features(task, x, side)
        return np.concatenate([taps[name] for name in TAPS[-layers:]], axis=1)

    return probe(task, represent)


@method(
    "ImageNet, LP-FT",
    tuple(
        {"side": 160, "stage": stage, "learning_rate": rate}
        for stage, rate in product((4, 6), (1e-4, 3e-4))
    ),
    see_validation_images,
)
def imagenet_lp_ft(task: Task, side: int, stage: int, learning_rate: float) -> Fitted:
    """The same network, trained on from a stage; the head starts as a linear probe.

    Its steps are dear: there are a sixteenth as many as for the book's own network, and
    so few passes need no strong augmentation. Its norms keep ImageNet's statistics.
    """
    network = imagenet.pretrained(side)
    imagenet.freeze_before(network, stage)
    transfer.freeze_normalisation(network)
    encoder = imagenet.on_images(network, task.x.shape[1:])
    head = models.pooled_head(encoder.output_shape[1:], task.classes)
    last = TAPS[-1]
    found = fit_probe(task, lambda x: tap_features(task, x, side)[last])
    transfer.probe_to_head(found, head)
    classifier = models.classifier(encoder, head, RandomCropFlip(seed=task.seed))
    transfer.fine_tune(
        classifier,
        task.x,
        task.y,
        steps=max(1, task.steps // 16),
        learning_rate=learning_rate,
        batch_size=BATCH_SIZE,
        seed=task.seed,
        title=None,
    )
    return Fitted(
        lambda x: models.predict(classifier, x, FEW).argmax(axis=1),
        {"strength": found.strength},
    )


@method(
    "ImageNet, long LP-FT",
    tuple(
        {"side": 160, "stage": stage, "learning_rate": rate}
        for stage, rate in product((2, 4), (3e-4, 1e-3))
    ),
    see_validation_images,
)
def imagenet_long_lp_ft(task: Task, **settings) -> Fitted:
    """The same for four times the steps, with room for larger rates and more stages."""
    return imagenet_lp_ft(replace(task, steps=4 * task.steps), **settings)


# The last tap against the side of the image, and all taps at two sides and for three
# kinds of network.
KINDS = (
    {"side": 32, "weights": "ImageNet", "norms": "kept"},
    {"side": 128, "weights": "ImageNet", "norms": "kept"},
    {"side": 128, "weights": "ImageNet", "norms": "settled"},
    {"side": 128, "weights": "random", "norms": "settled"},
)
LOOKS = tuple(
    [
        {"side": side, "weights": "ImageNet", "norms": "kept", "tap": TAPS[-1]}
        for side in (64, 96, 160, 192)
    ]
    + [{**kind, "tap": tap} for kind, tap in product(KINDS, TAPS)]
)


def see_all_kinds(task: Task) -> None:
    """Compute the features of the validation images by every kind of network."""
    for look in LOOKS:
        kind = {name: value for name, value in look.items() if name != "tap"}
        tap_features(task, task.x_val, **kind)


@method("ImageNet, one tap", LOOKS, see_all_kinds)
def imagenet_one_tap(task: Task, tap: str, **kind) -> Fitted:
    """A linear probe on a single tap of a network from ImageNet, or of its like."""
    return probe(task, lambda x: tap_features(task, x, **kind)[tap])
