"""What the chapters compare beside the ways to use labels; run by the same study.

Convolutional and dense networks, frozen stages, optimizers, more images, larger
networks: see `pretrain.methods` for what a method is.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import keras
import numpy as np
from keras import layers, ops

from pretrain import data, flops, methods, models, objectives, transfer
from pretrain.feed import batches
from pretrain.layers import (
    BatchNormalization,
    HighPass,
    PatchNormalization,
    RandomCropFlip,
    RandomMask,
    pixel_noise,
)
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


class Muon(keras.optimizers.Muon):
    """Muon (Jordan et al., 2024), for the kernels of convolutions, too.

    Keras' own leaves all that is no matrix to AdamW, which in a convolutional network
    is nearly everything. Here a kernel is the matrix that it was in the original: a
    row for each number of a window, a column for each filter.
    """

    def _should_use_adamw(self, variable):
        return len(variable.shape) not in (2, 4)

    def zeropower_via_newtonschulz5(self, x, steps):
        matrix = ops.reshape(x, (-1, x.shape[-1]))
        return ops.reshape(super().zeropower_via_newtonschulz5(matrix, steps), x.shape)

    def lr_adjust(self, x):
        matrix = ops.reshape(x, (-1, x.shape[-1]))
        return ops.reshape(super().lr_adjust(matrix), x.shape)


OPTIMIZERS = ("SGD", "momentum", "RMSprop", "Adam", "AdamW", "Lion", "Muon")


def new_optimizer(name: str, rate) -> keras.Optimizer:
    """Return one of the optimizers, with Keras' defaults but for the learning rate."""
    makers = {
        "SGD": keras.optimizers.SGD,
        "momentum": partial(keras.optimizers.SGD, momentum=0.9, nesterov=True),
        "RMSprop": keras.optimizers.RMSprop,
        "Adam": keras.optimizers.Adam,
        "AdamW": keras.optimizers.AdamW,
        "Lion": keras.optimizers.Lion,
        "Muon": Muon,
    }
    return makers[name](rate)


# Plain SGD and Lion are some four powers of ten apart in what suits them.
RATES = (1e-4, 5e-4, 2e-3, 1e-2, 5e-2, 0.2, 1.0, 5.0, 20.0)
EVERY_OPTIMIZER = tuple(
    {"optimizer": name, "rate": rate} for name in OPTIMIZERS for rate in RATES
)
CHUNK = 10


def optimize(
    model: keras.Model,
    optimizer: str,
    rate: float,
    *arrays: np.ndarray,
    steps: int,
    batch_size: int,
    seed: int,
    loss=None,
) -> dict[str, float]:
    """Train a model, and return its loss, the mean of each ten steps.

    The learning rate falls to zero along a cosine, for all optimizers alike. Training
    ends early where the loss is no longer a number; the losses after that are missing.

    Args:
        arrays: images, and labels if the loss needs them.
    """
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(new_optimizer(optimizer, schedule), loss, **compile_options())
    # Otherwise the first step would make its variables, and be traced twice.
    model.optimizer.build(model.trainable_variables)
    fed = batches(*arrays, batch_size=batch_size, steps=steps, seed=seed)
    history = model.fit(
        fed.repeat(),
        epochs=steps // CHUNK,
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
    found = optimize(
        model,
        optimizer,
        rate,
        task.unlabelled,
        steps=task.steps,
        batch_size=methods.BATCH_SIZE,
        seed=task.seed,
    )
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
    found = optimize(
        network,
        optimizer,
        rate,
        task.x,
        task.y,
        steps=task.steps,
        batch_size=methods.BATCH_SIZE,
        seed=task.seed,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return Fitted(lambda x: models.predict(network, x).argmax(axis=1), found)


BATCH_SIZE = 64


def masked_autoencoder(
    encoder: keras.Model, channels: int, seed: int
) -> objectives.Autoencoder:
    """Return an autoencoder of half-masked images, its decoder new."""
    height = encoder.output_shape[1]
    decoder = models.conv_decoder(
        encoder.output_shape[1:],
        filters=(64, 32) if height == 4 else (32,),
        channels=channels,
    )
    mask = RandomMask(4, 0.5, seed=seed, name="mask")
    return objectives.Autoencoder(encoder, decoder, mask)


def masked_error(model: objectives.Autoencoder, x: np.ndarray) -> float:
    """Return the mean squared error of restoring masked images, in [0, 1]."""
    seen = np.array(model.corrupt(x.astype("float32"), training=True))
    restored = models.predict(model, seen)
    return float(np.mean(np.square(restored - x.astype("float32") / 255)))


def draw(x: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return n of the images, drawn with a seed; nested, as for labels."""
    return x[np.random.default_rng(seed).permutation(len(x))[:n]]


def fashion_in_colour() -> np.ndarray:
    """Return the training images of Fashion-MNIST with three equal channels."""
    return np.repeat(data.load("fashion-full").x_train, 3, axis=-1)


def images_from(task: Task, source: str, n: int) -> np.ndarray:
    """Return n unlabelled images, those of the study or others."""
    if source == "two photographs":
        return data.photo_crops(n, task.seed)
    x = fashion_in_colour() if source == "Fashion-MNIST" else task.unlabelled
    return draw(x, n, task.seed)


AMOUNTS = (50, 500, 1_500, 5_000, 15_000, 45_000)


@method(
    "more images",
    tuple(
        {"source": source, "images": n}
        for source, amounts in (
            ("the same", (0, *AMOUNTS)),
            ("Fashion-MNIST", (500, 45_000)),
            ("two photographs", (500, 45_000)),
            ("no learning", (45_000,)),
        )
        for n in amounts
    ),
)
def more_images(task: Task, source: str, images: int) -> Fitted:
    """A linear probe on a small masked autoencoder of more or fewer images.

    All train for equally many steps, with few images in more passes. What is found
    besides: the error on validation images, and the accuracy after fine-tuning.

    `no learning` is the control: steps of length zero, so that the weights stay random
    while batch norm gets to know the images. With 0 images, nothing does.
    """
    rate = 0.0 if source == "no learning" else 2e-3
    encoder, tuned = small_conv_encoder(task), small_conv_encoder(task)
    model = masked_autoencoder(encoder, task.x.shape[-1], task.seed)
    if images:
        x = images_from(task, source, images)
        optimize(
            model,
            "Adam",
            rate,
            x,
            steps=1_000,
            batch_size=BATCH_SIZE,
            seed=task.seed,
        )
    tuned.set_weights(encoder.get_weights())
    head = models.pooled_head(encoder.output_shape[1:], task.classes)
    predict = methods.train(task, tuned, head, learning_rate=2e-3, weight_decay=0.05)
    found = {
        "masked_error": masked_error(model, task.x_val),
        "fine_tuned": 100 * float(np.mean(predict(task.x_val) == task.y_val)),
    }
    fitted = methods.probe(task, methods.features_of(encoder))
    return Fitted(fitted.predict, found)


def staged(width: int, blocks: int, join: Callable = layers.add) -> Callable:
    """Return what makes a convolutional network of a width and a depth."""
    filters = (width, 2 * width, 4 * width)
    return partial(models.deep_encoder, filters=filters, blocks=blocks, join=join)


BUDGETS = (1e11, 4e11, 1.6e12)  # operations of a whole training


def steps_for(budget: float, model: keras.Model) -> int:
    """Return how many steps of training cost a budget of operations."""
    return max(CHUNK, round(budget / flops.training(model, BATCH_SIZE)))


def new_network(task: Task, name: str) -> keras.Model:
    """Return one of the networks, its weights drawn with the seed of the trial."""
    networks = {
        "width 4": staged(4, 1),
        "width 8": staged(8, 1),
        "width 16": staged(16, 1),
        "deep": staged(8, 3),
        "deep, plain": staged(8, 3, models.layers_only),
        "transformer": partial(models.vision_transformer, size=32, blocks=4),
    }
    keras.utils.set_random_seed(task.seed)
    return networks[name](task.x.shape[1:])


def spend(task: Task, network: str, budget: float, rate: float) -> Fitted:
    """Train a network on the labels until a budget of arithmetic is spent."""
    encoder = new_network(task, network)
    head = models.pooled_head(encoder.output_shape[1:], task.classes)
    whole = models.classifier(encoder, head, RandomCropFlip(seed=task.seed))
    steps = steps_for(budget, whole)
    transfer.fine_tune(
        whole,
        task.x,
        task.y,
        steps=steps,
        learning_rate=rate,
        weight_decay=0.05,
        batch_size=BATCH_SIZE,
        seed=task.seed,
        title=None,
    )
    return Fitted(lambda x: models.predict(whole, x).argmax(axis=1), {"steps": steps})


# Each with the learning rate that did best in the search below.
NETWORKS = {
    "width 4": 1.6e-2,
    "width 8": 1.6e-2,
    "width 16": 4e-3,
    "deep": 1.6e-2,
    "deep, plain": 4e-3,
    "transformer": 4e-3,
}


@method(
    "size, learning rate",
    tuple(
        {"network": name, "rate": rate}
        for name in NETWORKS
        for rate in (2.5e-4, 1e-3, 4e-3, 1.6e-2, 6.4e-2)
    ),
)
def size_learning_rate(task: Task, network: str, rate: float) -> Fitted:
    """A network trained on the labels, for the middle one of the budgets."""
    return spend(task, network, BUDGETS[1], rate)


def with_every_budget(rates: Mapping[str, float]) -> tuple[dict, ...]:
    """Return the settings of networks with each budget, from their learning rates."""
    return tuple(
        {"network": name, "budget": budget, "rate": rate}
        for name, rate in rates.items()
        for budget in BUDGETS
    )


@method(
    "size, labels",
    with_every_budget(NETWORKS),
)
def size_labels(task: Task, network: str, budget: float, rate: float) -> Fitted:
    """The same with every budget, at the learning rate that suits the network."""
    return spend(task, network, budget, rate)


def probe_on_map(task: Task, encoder: keras.Model) -> Fitted:
    """Return a linear probe on the features of an encoder at 4 by 4 places."""
    cells = encoder.output_shape[1] // 4  # a transformer has more places
    pool = layers.AveragePooling2D(cells)(encoder.output)
    return methods.probe(task, methods.features_of(keras.Model(encoder.input, pool)))


def spend_without_labels(
    task: Task, network: str, budget: float, rate: float
) -> Fitted:
    """Pretrain an encoder until a budget of arithmetic is spent, and probe it."""
    encoder = new_network(task, network)
    model = masked_autoencoder(encoder, task.x.shape[-1], task.seed)
    steps = steps_for(budget, model)
    optimize(
        model,
        "Adam",
        rate,
        task.unlabelled,
        steps=steps,
        batch_size=BATCH_SIZE,
        seed=task.seed,
    )
    found = {"masked_error": masked_error(model, task.x_val), "steps": steps}
    return Fitted(probe_on_map(task, encoder).predict, found)


# Without labels: each with its best rate in the search below.
PRETRAINED = {"width 4": 4e-3, "width 8": 1e-3, "width 16": 1e-3, "transformer": 4e-3}


@method(
    "size, pretraining rate",
    tuple(
        {"network": name, "rate": rate}
        for name in PRETRAINED
        for rate in (1e-3, 4e-3, 1.6e-2)
    ),
)
def size_pretraining_rate(task: Task, network: str, rate: float) -> Fitted:
    """An encoder pretrained for the middle one of the budgets, and probed."""
    return spend_without_labels(task, network, BUDGETS[1], rate)


@method(
    "size, pretraining",
    with_every_budget(PRETRAINED),
)
def size_pretraining(task: Task, network: str, budget: float, rate: float) -> Fitted:
    """The same with every budget, at the learning rate that suits the network."""
    return spend_without_labels(task, network, budget, rate)


@method("size, no learning", tuple({"network": name} for name in PRETRAINED))
def size_no_learning(task: Task, network: str) -> Fitted:
    """The control: a probe on an encoder of random weights, its norms settled."""
    encoder = new_network(task, network)
    transfer.settle_normalisation(encoder, task.unlabelled, task.seed)
    return probe_on_map(task, encoder)


def images_for(task: Task, pretrained_on: str) -> np.ndarray:
    """Return 5,000 images of a kind, drawn with the seed of the trial."""
    n = 5_000
    if pretrained_on == "the same":
        return draw(task.unlabelled, n, task.seed)
    if pretrained_on == "Fashion-MNIST":
        return draw(fashion_in_colour(), n, task.seed)
    makers = {
        "dead leaves": data.dead_leaves,
        "1/f noise": data.pink_noise,
        "white noise": data.white_noise,
    }
    return makers[pretrained_on](n, task.seed)


KINDS = ("the same", "Fashion-MNIST", "dead leaves", "1/f noise", "white noise")


def percent_right(task: Task, encoder: keras.Model) -> float:
    """Return how many validation images a linear probe names right, in percent."""
    fitted = methods.probe(task, methods.features_of(encoder))
    return 100 * float(np.mean(fitted.predict(task.x_val) == task.y_val))


@method(
    "what it was pretrained on",
    tuple({"pretrained_on": kind} for kind in (*KINDS, "nothing")),
)
def what_it_was_pretrained_on(task: Task, pretrained_on: str) -> Fitted:
    """A linear probe on a small masked autoencoder of images of one kind or another.

    Before the probe, batch norm of each encoder meets the images of the study, also
    where it was pretrained on others, or on nothing. So what differs are the weights
    alone. What is found besides: the probe with a tenth of the labels; and, where there
    was pretraining, the probe with the statistics of that, and the error on masked
    validation images.
    """
    encoder, found = small_conv_encoder(task), {}
    if pretrained_on != "nothing":
        model = masked_autoencoder(encoder, task.x.shape[-1], task.seed)
        optimize(
            model,
            "Adam",
            2e-3,
            images_for(task, pretrained_on),
            steps=task.steps,
            batch_size=BATCH_SIZE,
            seed=task.seed,
        )
        found["own_statistics"] = percent_right(task, encoder)
        found["masked_error"] = masked_error(model, task.x_val)
    transfer.settle_normalisation(encoder, task.unlabelled, task.seed)
    tenth = max(1, len(task.y) // task.classes // 10)
    rows = data.label_subset(task.y, tenth, task.seed)
    few = replace(task, x=task.x[rows], y=task.y[rows])
    found["tenth"] = percent_right(few, encoder)
    fitted = methods.probe(task, methods.features_of(encoder))
    return Fitted(fitted.predict, found)


def corruption(
    kind: str, strength: float, patch: int, seed: int
) -> layers.Layer | None:
    """Return a layer that adds noise or hides patches; None for `nothing`."""
    makers = {
        "nothing": lambda: None,
        "noise": lambda: pixel_noise(strength, seed),
        "mask": lambda: RandomMask(patch, strength, seed=seed),
    }
    return makers[kind]()


def restored_target(name: str) -> layers.Layer | None:
    """Return what makes of an image what is to be restored; None for itself."""
    makers = {
        "image": lambda: None,
        "patches": lambda: PatchNormalization(4),
        "high-pass": lambda: HighPass(5),
    }
    return makers[name]()


def denoising_grid() -> tuple[dict, ...]:
    """Return corruptions of each strength; targets and augmentation with a few."""
    nothing, noise = {"corrupt": "nothing"}, {"corrupt": "noise", "strength": 0.25}
    mask = {"corrupt": "mask", "patch": 4, "strength": 0.5}
    return (
        {"corrupt": "no learning"},
        nothing,
        *({"corrupt": "noise", "strength": s} for s in (0.1, 0.25, 0.5)),
        *(
            {"corrupt": "mask", "patch": patch, "strength": s}
            for patch, s in ((4, 0.25), (4, 0.5), (4, 0.75), (8, 0.5), (8, 0.75))
        ),
        *(
            {**how, "target": target}
            for target in ("patches", "high-pass")
            for how in (nothing, mask)
        ),
        *({**how, "augmented": True} for how in (nothing, noise)),
    )


def pretraining_images(task: Task, augmented: bool = False) -> np.ndarray:
    """Return 10,000 images drawn with the seed of the trial, or variants of them.

    The variants, shifted and mirrored, are as many as the steps of the study need.
    """
    x = draw(task.unlabelled, 10_000, task.seed)
    if not augmented:
        return x
    augment = RandomCropFlip(seed=task.seed)
    passes = -(-task.steps * BATCH_SIZE // len(x))
    variants = (augment(x, training=True) for _ in range(passes))
    return np.concatenate([ops.convert_to_numpy(v) for v in variants])


@method("denoising", denoising_grid())
def denoising(
    task: Task,
    corrupt: str,
    strength: float = 0.0,
    patch: int = 0,
    target: str = "image",
    augmented: bool = False,
) -> Fitted:
    """A linear probe on a small autoencoder that restores corrupted images.

    Before the probe, batch norm of each encoder meets whole images: corrupted ones have
    other statistics, and the weights alone shall differ. What is found besides: the
    probe on earlier stages; with the statistics of pretraining, on the last one; and
    the errors of restoring validation images, corrupted and whole.
    """
    encoder, found = small_conv_encoder(task), {}
    if corrupt != "no learning":
        decoder = models.conv_decoder(
            encoder.output_shape[1:],
            channels=task.x.shape[-1],
            activation="sigmoid" if target == "image" else "linear",
        )
        model = objectives.Autoencoder(
            encoder,
            decoder,
            corruption(corrupt, strength, patch, task.seed),
            restored_target(target),
        )
        optimize(
            model,
            "Adam",
            2e-3,
            pretraining_images(task, augmented),
            steps=task.steps,
            batch_size=BATCH_SIZE,
            seed=task.seed,
        )
        found["own_statistics"] = percent_right(task, encoder)
        if target == "image":
            found["task_error"] = masked_error(model, task.x_val)
            found["copy_error"] = objectives.reconstruction_error(model, task.x_val)
    transfer.settle_normalisation(encoder, task.unlabelled, task.seed)
    for stage in (1, 2):
        part = models.pooled_features(encoder, f"relu{stage}", 4)
        found[f"stage{stage}"] = percent_right(task, part)
    fitted = methods.probe(task, methods.features_of(encoder))
    return Fitted(fitted.predict, found)


def hidden_error(model: objectives.MaskedAutoencoder, x: np.ndarray) -> float:
    """Return the error of the target on images, as in training."""
    parts = [x[i : i + 500] for i in range(0, len(x), 500)]
    losses = [model.compute_loss(part, y_pred=model(part)) for part in parts]
    return float(np.mean([float(loss) for loss in losses]))


@method(
    "masked transformer",
    (
        {"pretrained": False},
        {"fraction": 0.0, "visible": 1.0},
        {"fraction": 0.25},
        {"fraction": 0.5},
        {"fraction": 0.75},
        {"fraction": 0.75, "visible": 1.0},
        {"fraction": 0.75, "target": "image"},
    ),
)
def masked_transformer(
    task: Task,
    fraction: float = 0.0,
    visible: float = 0.0,
    target: str = "patches",
    pretrained: bool = True,
) -> Fitted:
    """A linear probe on a small transformer that is shown a part of the patches.

    With a fraction of 0 it is shown all, and copies. What is found besides: the probe
    on the first two blocks, and the loss on validation images.
    """
    keras.utils.set_random_seed(task.seed)
    encoder, found = models.patch_encoder(task.x.shape[1:], size=32, blocks=3), {}
    if pretrained:
        decoder = models.patch_decoder(
            encoder.output_shape[1:], size=32, blocks=1, channels=task.x.shape[-1]
        )
        model = objectives.MaskedAutoencoder(
            encoder,
            decoder,
            fraction,
            restored_target(target),
            visible,
            seed=task.seed,
        )
        optimize(
            model,
            "Adam",
            4e-3,
            pretraining_images(task),
            steps=task.steps,
            batch_size=BATCH_SIZE,
            seed=task.seed,
        )
        found["loss"] = hidden_error(model, task.x_val)
    for block in (1, 2):
        part = models.up_to_block(encoder, block)
        pool = models.pooled_features(part, part.layers[-1].name, 4)
        found[f"block{block}"] = percent_right(task, pool)
    return Fitted(probe_on_map(task, encoder).predict, found)
