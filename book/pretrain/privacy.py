"""Attacks on images and on training sets, and training that withstands them."""

from collections.abc import Callable
from functools import lru_cache

import keras
import numpy as np
from keras import ops
from scipy.special import logsumexp, softmax
from scipy.stats import norm
from sklearn.metrics import roc_curve
from sklearn.neighbors import NearestNeighbors

# -------------------------------------------------------------------- images


def pixelate(x: np.ndarray, block: int) -> np.ndarray:
    """Replace each square block of pixels by its mean colour.

    Shapes: uint8 images, (n, height, width, channels), in and out.

    Raises:
        ValueError: if `block` does not divide height and width.
    """
    n, height, width, channels = x.shape
    if height % block or width % block:
        raise ValueError(f"Blocks of {block} do not fit into {height} by {width}.")
    split = x.reshape(n, height // block, block, width // block, block, channels)
    means = split.mean(axis=(2, 4)).round().astype("uint8")
    return means.repeat(block, axis=1).repeat(block, axis=2)


def identified(probes: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Tell which probes have their own row of the gallery for their nearest.

    Guessing is right once in as many tries as the gallery has rows.

    Args:
        probes, gallery: row i of one belongs to row i of the other; of any shape
            (n, …), compared by their Euclidean distance.

    Returns:
        Whether each was identified, (n,).
    """
    known = NearestNeighbors(n_neighbors=1).fit(gallery.reshape(len(gallery), -1))
    nearest = known.kneighbors(probes.reshape(len(probes), -1), return_distance=False)
    return nearest[:, 0] == np.arange(len(probes))


# ------------------------------------------------------ membership inference


def complementary_halves(y: np.ndarray, pairs: int, seed: int) -> np.ndarray:
    """Draw random halves, in pairs that complement each other.

    Over all of them each image is inside exactly as often as outside (Carlini et al.,
    2022), and each half holds the same number of every class.

    Args:
        y: labels, (n,), an even number of each class.

    Returns:
        Which images are inside, bool, (2 · `pairs`, n).
    """
    rng = np.random.default_rng(seed)
    inside = np.zeros((pairs, len(y)), bool)
    for c in np.unique(y):
        rows = np.flatnonzero(y == c)
        for half in inside:
            half[rng.permutation(rows)[: len(rows) // 2]] = True
    return np.concatenate([inside, ~inside])


def confidence(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return log(p / (1 - p)) for the probability p of the right class.

    On this scale the confidences of many networks lie roughly on a bell curve, where p
    itself would crowd at 1 (Carlini et al., 2022).

    Shapes: logits (n, classes), labels (n,) → (n,).
    """
    rows, others = np.arange(len(y)), np.array(logits, "float64")
    right = others[rows, y]
    others[rows, y] = -np.inf
    return right - logsumexp(others, axis=1)


def likelihood_ratio(
    scores: np.ndarray, shadows: np.ndarray, inside: np.ndarray
) -> np.ndarray:
    """Return how much better "it was trained on this" explains each score (LiRA).

    For each image, one bell curve for networks that were trained on it and one for
    those that were not; each has its mean from the shadow networks. With few of these,
    the spread of an image cannot be estimated: each of the two spreads is the same for
    all images (Carlini et al., 2022).

    Args:
        scores: what the attacked network says, such as its `confidence`, (n,).
        shadows: the same of networks that the attacker trained, (shadows, n).
        inside: which images each of those was trained on, bool, (shadows, n).

    Returns:
        The logarithm of the likelihood ratio, (n,); high speaks for membership.

    Raises:
        ValueError: if some image is in, or out of, fewer than two shadow networks.
    """
    if min(inside.sum(axis=0).min(), (~inside).sum(axis=0).min()) < 2:
        raise ValueError("Every image must be in two shadow networks and out of two.")
    density = []
    for group in (inside, ~inside):
        values = np.where(group, shadows, np.nan)
        spread = np.nanvar(values, axis=0, ddof=1).mean() ** 0.5
        density.append(norm.logpdf(scores, np.nanmean(values, axis=0), spread))
    return density[0] - density[1]


def true_positive_rate(
    members: np.ndarray, others: np.ndarray, false_positive_rate: float = 0.01
) -> float:
    """Return the share of members found while few others are accused.

    Args:
        members, others: scores, (n,) and (m,); members should have higher ones.
        false_positive_rate: the largest share of others that may be accused.
    """
    truth = np.repeat([1, 0], [len(members), len(others)])
    false, true, _ = roc_curve(
        truth, np.concatenate([members, others]), drop_intermediate=False
    )
    return float(true[false <= false_positive_rate].max())


# ------------------------------------------------------ differential privacy


# `dp_accounting` is imported where it is used: Colab does not have it, and there every
# chapter imports this module, by way of the checks of its exercises.


def _event(noise: float, steps: int, rate: float):
    import dp_accounting as dp

    step = dp.GaussianDpEvent(noise)
    return dp.SelfComposedDpEvent(
        step if rate == 1 else dp.PoissonSampledDpEvent(rate, step), steps
    )


def _accountant():
    from dp_accounting.rdp import RdpAccountant

    # Integer orders have a formula that is exact and fast, sampling included.
    return RdpAccountant(orders=range(2, 257))


def epsilon(noise: float, delta: float, steps: int, rate: float = 1.0) -> float:
    """Return the ε that a training run guarantees, by Rényi accounting.

    Two sets are neighbours if one has one image more (Mironov et al., 2019).

    Args:
        noise: standard deviation of the noise, by the clipping norm.
        delta: the probability that the guarantee may fail with.
        steps: gradient steps.
        rate: probability with which an image takes part in a step, each for itself.
    """
    accountant = _accountant().compose(_event(noise, steps, rate))
    return float(accountant.get_epsilon(delta))


def noise_for(epsilon: float, delta: float, steps: int, rate: float = 1.0) -> float:
    """Return the least noise that guarantees ε, by the clipping norm; ∞ needs none."""
    if np.isinf(epsilon):
        return 0.0
    from dp_accounting import calibrate_dp_mechanism

    return calibrate_dp_mechanism(
        _accountant, lambda noise: _event(noise, steps, rate), epsilon, delta
    )


def linear_clipped_sum(
    features: np.ndarray, errors: np.ndarray, clip: float
) -> np.ndarray:
    """Add up the gradients of a linear head, none of them longer than `clip`.

    That of one image is the outer product of its features and its errors, softmax minus
    one-hot label, so its norm is the product of their norms (Goodfellow, 2015).

    Shapes: (n, features), (n, classes) → (features, classes).
    """
    squares = [np.einsum("ij,ij->i", v, v) for v in (features, errors)]
    norms = np.sqrt(squares[0] * squares[1])
    return features.T @ (errors * np.minimum(1, clip / (norms + 1e-12))[:, None])


def private_head(
    features: np.ndarray,
    y: np.ndarray,
    classes: int,
    *,
    noise: float,
    clip: float = 1.0,
    steps: int = 60,
    learning_rate: float = 4.0,
    seed: int = 0,
) -> np.ndarray:
    """Train a linear head by DP-SGD (Abadi et al., 2016), all images in every step.

    Momentum is 0.9: what is made of noisy gradients alone costs no privacy. The number
    of images counts as known.

    Args:
        features: (n, features), a column of ones among them if there is to be a bias;
            about 1 long, so that clipping does not stop the learning.
        noise: standard deviation of the noise, by `clip`; 0 gives no privacy.
        seed: fixes the noise. In earnest it must be secret, and strong.

    Returns:
        The kernel, (features, classes).
    """
    rng = np.random.default_rng(seed)
    kernel = np.zeros((features.shape[1], classes), "float32")
    velocity, target = np.zeros_like(kernel), np.eye(classes, dtype="float32")[y]
    for _ in range(steps):
        errors = softmax(features @ kernel, axis=1) - target
        total = linear_clipped_sum(features, errors, clip)
        total += noise * clip * rng.normal(size=total.shape)
        velocity = 0.9 * velocity - learning_rate * total / len(y)
        kernel += velocity
    return kernel


@lru_cache(maxsize=1)  # a network that is trained again is not compiled again
def per_example_gradients(network: keras.Model) -> Callable:
    """Return a function of images and labels: the gradient of each image's loss.

    The loss is the cross-entropy of logits. A network with batch norm has no gradient
    of one image. Like `attribution.gradient`, this asks for the engine below Keras.

    Returns:
        (n, height, width, channels) and (n,) → a list of tensors, one for each
        trainable variable, of shape (n, *shape of the variable).

    Raises:
        NotImplementedError: if the engine is neither TensorFlow nor JAX.
    """
    engine = keras.backend.backend()

    def loss(y, logits):
        return ops.sum(
            keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
        )

    if engine == "tensorflow":
        import tensorflow as tf

        weights = [variable.value for variable in network.trainable_variables]

        def of_one(example):
            x, y = example
            with tf.GradientTape() as tape:
                value = loss(y[None], network(x[None], training=True))
            return tape.gradient(value, weights)

        compiled = tf.function(lambda x, y: tf.vectorized_map(of_one, (x, y)))
        return lambda x, y: compiled(tf.cast(x, "float32"), tf.constant(y))
    if engine == "jax":
        import jax

        def of_one(weights, x, y):
            fixed = [v.value for v in network.non_trainable_variables]
            logits, _ = network.stateless_call(weights, fixed, x[None], training=True)
            return loss(y[None], logits)

        compiled = jax.jit(jax.vmap(jax.grad(of_one), (None, 0, 0)))
        return lambda x, y: compiled(
            [v.value for v in network.trainable_variables], x.astype("float32"), y
        )
    raise NotImplementedError(f"Gradients here need tensorflow or jax, not {engine}.")


def clipped_sum(gradients: list, weight: np.ndarray, clip: float) -> list[np.ndarray]:
    """Add up gradients, each over all variables together no longer than `clip`.

    Args:
        gradients: for each variable (n, *shape), as `per_example_gradients` has them.
        weight: 1 for each that counts, 0 for one that only fills the batch, (n,).
    """
    flat = [ops.convert_to_numpy(g).reshape(len(weight), -1) for g in gradients]
    norms = np.sqrt(sum(np.square(g).sum(axis=1) for g in flat))
    scale = weight * np.minimum(1, clip / (norms + 1e-12))
    return [
        (scale @ g).reshape(gradient.shape[1:])
        for g, gradient in zip(flat, gradients, strict=True)
    ]


def private_fit(
    network: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    *,
    noise: float,
    rate: float,
    steps: int,
    learning_rate: float,
    clip: float = 1.0,
    seed: int = 0,
) -> None:
    """Train a network by DP-SGD with momentum 0.9 (Abadi et al., 2016).

    For each step every image is drawn or not, each for itself, as the accounting of
    sampled batches assumes.

    Args:
        network: from images to logits, without batch norm.
        x, y: images in 0 … 255, (n, height, width, channels), and labels, (n,).
        noise: standard deviation of the noise, by `clip`; 0 gives no privacy.
        rate: probability with which an image is drawn.
        seed: fixes draws and noise. In earnest it must be secret, and strong.
    """
    rng, gradients_of = np.random.default_rng(seed), per_example_gradients(network)
    expected = rate * len(x)
    room = int(expected + 5 * expected**0.5)  # a batch of one size compiles once
    optimizer = keras.optimizers.SGD(learning_rate, momentum=0.9)
    for _ in range(steps):
        drawn = np.flatnonzero(rng.uniform(size=len(x)) < rate)[:room]
        rows = np.pad(drawn, (0, room - len(drawn)))
        weight = (np.arange(room) < len(drawn)).astype("float32")
        totals = clipped_sum(gradients_of(x[rows], y[rows]), weight, clip)
        noisy = [t + noise * clip * rng.normal(size=t.shape) for t in totals]
        optimizer.apply(
            [ops.convert_to_tensor(t / expected, "float32") for t in noisy],
            network.trainable_variables,
        )
