"""From a pretrained encoder to a classifier: probe it, freeze it, fine-tune it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops
from sklearn.linear_model import LogisticRegression

from pretrain import models
from pretrain.feed import batches
from pretrain.profiles import compile_options
from pretrain.progress import Progress

# Inverse regularisation strengths C from which a probe chooses on validation data.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def features(encoder: keras.Model, x: np.ndarray) -> np.ndarray:
    """Encode images without training anything.

    Args:
        encoder: any model on images.
        x: images in 0 … 255, shape (n, height, width, channels).

    Returns:
        float32 features, one flat row per image: shape (n, features).
    """
    return models.predict(encoder, x).reshape(len(x), -1)


@dataclass(frozen=True)
class Probe:
    """A linear classifier on features: logits = features @ kernel + bias.

    Shapes: kernel (features, classes), bias (classes,). `strength` is the inverse
    regularisation that did best on validation data.
    """

    kernel: np.ndarray
    bias: np.ndarray
    strength: float

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the most likely class of each row, shape (n,)."""
        return np.argmax(features @ self.kernel + self.bias, axis=1)

    def accuracy(self, features: np.ndarray, y: np.ndarray) -> float:
        """Return the fraction of rows classified as `y` says."""
        return float(np.mean(self.predict(features) == y))


def linear_probe(
    f_train: np.ndarray,
    y_train: np.ndarray,
    f_val: np.ndarray,
    y_val: np.ndarray,
    strengths: Sequence[float] = STRENGTHS,
) -> Probe:
    """Fit a linear classifier on frozen features (Alain & Bengio, 2016).

    Features are standardised with the training rows; the strength of the
    regularisation is chosen by accuracy on the validation rows.

    Args:
        f_train, f_val: features, shape (n, features).
        y_train, y_val: labels, shape (n,), counted from 0.
        strengths: candidates for C of scikit-learn's `LogisticRegression`.

    Raises:
        ValueError: if a class does not occur in `y_train`.
    """
    classes = range(1 + max(y_train.max(), y_val.max()))
    if missing := sorted(set(classes) - set(y_train.tolist())):
        raise ValueError(f"A probe needs each class once: y_train lacks {missing}.")
    mean = f_train.mean(axis=0)
    scale = f_train.std(axis=0)
    scale[scale < 1e-6] = 1.0
    # The solution lies in the span of the training rows. With fewer rows than
    # features, solving in that span gives the same probe many times faster.
    rows, span = (f_train - mean) / scale, None
    if len(rows) < rows.shape[1]:
        u, s, span = np.linalg.svd(rows, full_matrices=False)
        rows = u * s
    best, best_accuracy = None, -1.0
    # From strong to weak regularisation, each fit starts where the one before ended.
    model = LogisticRegression(max_iter=300, tol=1e-3, warm_start=True)
    for strength in sorted(strengths):
        model.set_params(C=strength).fit(rows, y_train)
        weights, intercept = model.coef_, model.intercept_
        if len(weights) == 1:  # of two classes, what the second has above the first
            weights = np.concatenate([0 * weights, weights])
            intercept = np.append(0, intercept)
        weights = weights if span is None else weights @ span
        kernel = (weights / scale).T.astype("float32")
        bias = (intercept - mean @ kernel).astype("float32")
        probe = Probe(kernel, bias, strength)
        accuracy = probe.accuracy(f_val, y_val)
        if accuracy > best_accuracy:
            best, best_accuracy = probe, accuracy
    return best


def probe_to_head(probe: Probe, head: keras.Model) -> None:
    """Copy a probe into the dense layer of a `models.linear_head`.

    This is the first half of LP-FT (Kumar et al., 2022): fine-tuning then starts
    from a head that already fits the features, and does not distort them.
    """
    head.get_layer("logits").set_weights([probe.kernel, probe.bias])


@keras.saving.register_keras_serializable("pretrain")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that rises in a line, then falls to zero along a cosine.

    The values of Keras' `CosineDecay` with `warmup_steps`, without its branching.
    AdamW asks for the rate once per variable, and branches take long to compile.
    """

    def __init__(self, peak: float, steps: int, warmup: int):
        self.peak, self.steps, self.warmup = peak, steps, warmup

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rise = ops.minimum(step / self.warmup, 1)
        past = (step - self.warmup) / max(self.steps - self.warmup, 1)
        fall = (1 + ops.cos(math.pi * ops.clip(past, 0, 1))) / 2
        return self.peak * rise * fall

    def get_config(self):
        return {"peak": self.peak, "steps": self.steps, "warmup": self.warmup}


class LayerwiseAdamW(keras.optimizers.AdamW):
    """AdamW whose learning rate is multiplied by a factor of each layer.

    `rates` maps names of layers to factors; a layer it does not name keeps factor 1.
    The factors do not reach the weight decay, which is the same for all layers. Smaller
    rates for earlier layers are due to Howard & Ruder (2018).
    """

    def __init__(self, *args, rates: Mapping[str, float], **kwargs):
        super().__init__(*args, **kwargs)
        self.rates = dict(rates)

    def build(self, variables):
        super().build(variables)
        self.factors = [
            math.prod(self.rates.get(part, 1.0) for part in variable.path.split("/"))
            for variable in variables
        ]

    def update_step(self, gradient, variable, learning_rate):
        factor = self.factors[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * factor)


def freeze_normalisation(encoder: keras.Model) -> None:
    """Keep batch norm at the statistics it has, while all else may train.

    A frozen `BatchNormalization` uses its running statistics in training, too, so
    that the network trained is the network evaluated. Whether that pays differs from
    case to case: compare both.
    """
    for layer in encoder.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def settle_normalisation(encoder: keras.Model, x: np.ndarray, seed: int = 0) -> None:
    """Let batch norm get to know images, while no weight moves.

    An encoder that nobody trained still has the statistics that it was made with, mean
    0 and variance 1. As a control for a trained one it is too weak: what pretraining
    seems to bring is then in part what the statistics bring.

    One batch of up to 1,000 images settles all norms exactly: with a momentum of 0 its
    statistics replace the old ones.

    Args:
        x: images in 0 … 255, shape (n, height, width, channels); no labels are needed.
        seed: fixes which of them are taken.
    """
    norms = [
        layer
        for layer in encoder.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    rows = np.random.default_rng(seed).permutation(len(x))[:1000]
    encoder(x[rows], training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def stage_of(layer_name: str) -> int:
    """Return the number in the name of a layer (`conv2a`: 2); 0 if there is none."""
    return int("".join(c for c in layer_name if c.isdigit()) or 0)


def layerwise_rates(encoder: keras.Model, decay: float) -> dict[str, float]:
    """Return a factor for each layer with weights: decay, decay², … towards the input.

    Layers that share a number at the end of their name (`conv2`, `norm2`) share a
    factor.
    """
    names = [layer.name for layer in encoder.layers if layer.weights]
    stages = [stage_of(name) for name in names]
    return {
        name: decay ** (max(stages) - stage + 1)
        for name, stage in zip(names, stages, strict=True)
    }


def fine_tune(
    classifier: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float = 1e-4,
    batch_size: int = 64,
    rates: Mapping[str, float] | None = None,
    seed: int = 0,
    title: str | None = "Fine-tuning",
) -> dict[str, list[float]]:
    """Train what is trainable in a classifier, by cross-entropy on its logits.

    AdamW with a short warm-up and a cosine decay to zero (Loshchilov & Hutter, 2019).
    Frozen layers stay frozen: set `trainable` before. From scratch, frozen and
    fine-tuned networks all go through this one function.

    Args:
        classifier: from images to logits.
        x, y: labelled images, (n, height, width, channels), and labels, (n,).
        steps: gradient steps; small data sets are passed through many times.
        learning_rate: the peak rate.
        rates: factors on the learning rate by layer name, see `layerwise_rates`.
        seed: fixes the order of batches.
        title: what the progress line says; None for no progress line.

    Returns:
        The history of the one epoch of `steps` steps: loss and accuracy.

    Raises:
        ValueError: if the numbers of images and labels differ.
    """
    if len(x) != len(y):
        raise ValueError(f"{len(x)} images, but {len(y)} labels: they must be paired.")
    schedule = WarmupCosine(learning_rate, steps, warmup=max(1, steps // 20))
    optimizer = LayerwiseAdamW(schedule, weight_decay=weight_decay, rates=rates or {})
    classifier.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **compile_options(),
    )
    # Otherwise the first step would make their variables, and be traced twice.
    optimizer.build(classifier.trainable_variables)
    logits = ops.zeros((1, classifier.output_shape[-1]))
    classifier.compute_metrics(x[:1], y[:1], logits)
    classifier.reset_metrics()
    labelled = batches(x, y, batch_size=min(batch_size, len(y)), steps=steps, seed=seed)
    history = classifier.fit(
        labelled,
        callbacks=[Progress(title)] if title else [],
        verbose=0,
        shuffle=False,
    )
    return history.history


def accuracy(classifier: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """Return the fraction of images classified as `y` says."""
    return float(np.mean(models.predict(classifier, x).argmax(axis=1) == y))
