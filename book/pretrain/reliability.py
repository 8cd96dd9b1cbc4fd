"""Whether to rely on an answer: confidence, damaged images, images of no class."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import bootstrap, rankdata

from pretrain.stats import Interval

# -------------------------------------------------------------------------- calibration


def equal_mass_bins(
    confidence: np.ndarray, correct: np.ndarray, bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group answers by confidence, equally many in each group (Nixon et al., 2019).

    Args:
        confidence: probability of the answer, (n,).
        correct: whether it was right, (n,).

    Returns:
        For each bin, from the least confident: mean confidence, share of right answers,
        number of answers.

    Raises:
        ValueError: if there are fewer answers than bins.
    """
    if len(confidence) < bins:
        raise ValueError(f"{bins} bins need as many answers, got {len(confidence)}.")
    groups = np.array_split(np.argsort(confidence, kind="stable"), bins)
    means = [[np.mean(v[g]) for g in groups] for v in (confidence, correct)]
    return *(np.array(mean) for mean in means), np.array([len(g) for g in groups])


def calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = 10
) -> float:
    """Return the expected calibration error, ECE (Guo et al., 2017).

    The gap between confidence and share of right answers, averaged over all answers,
    from equal-mass bins. It is never negative, so chance alone makes it positive, the
    more the fewer answers there are.
    """
    said, right, count = equal_mass_bins(confidence, correct, bins)
    return float(np.average(np.abs(said - right), weights=count))


def fit_temperature(logits: np.ndarray, y: np.ndarray) -> float:
    """Return what to divide logits by, so that confidence fits (Guo et al., 2017).

    It minimises the cross-entropy on images that were not trained on. It lies between
    0.05 and 20, changes no answer, and is above 1 where a network is too confident.

    Args:
        logits: (n, classes). y: labels, (n,).
    """

    def loss(log_temperature):
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -scaled[np.arange(len(y)), y].mean()

    limits = np.log([0.05, 20])
    return float(np.exp(minimize_scalar(loss, bounds=limits, method="bounded").x))


# ---------------------------------------------------------------------- damaged images


def _noise(x: np.ndarray, deviation: float) -> np.ndarray:
    return x + np.random.default_rng(0).normal(0, 255 * deviation, x.shape)


def _blur(x: np.ndarray, radius: float) -> np.ndarray:
    return gaussian_filter(x.astype("float32"), (0, radius, radius, 0))


def _contrast(x: np.ndarray, kept: float) -> np.ndarray:
    mean = x.mean(axis=(1, 2), keepdims=True)
    return mean + kept * (x - mean)


def _jpeg(x: np.ndarray, quality: int) -> np.ndarray:
    def compressed(image):
        file = BytesIO()
        Image.fromarray(image.squeeze()).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file)).reshape(image.shape)

    return np.stack([compressed(image) for image in x])


# Kind → what does it, and how strongly: standard deviation on [0, 1], radius in pixels,
# share of the contrast that is kept, quality that is asked of Pillow.
CORRUPTIONS = {
    "noise": (_noise, (0.04, 0.08, 0.12, 0.18, 0.26)),
    "blur": (_blur, (0.4, 0.6, 0.8, 1.1, 1.5)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "JPEG": (_jpeg, (50, 30, 20, 12, 6)),
}


def corrupt(x: np.ndarray, kind: str, strength: int) -> np.ndarray:
    """Damage images in one of four ways, after Hendrycks & Dietterich (2019).

    Args:
        x: uint8, (n, height, width, channels).
        kind: a key of `CORRUPTIONS`.
        strength: 1 to 5; 0 leaves the images as they are.

    Returns:
        uint8 images of the same shape, the same at each call.

    Raises:
        ValueError: if there is no such kind or strength.
    """
    if kind not in CORRUPTIONS or strength not in range(6):
        raise ValueError(
            f"There is no {kind!r} of strength {strength}: kinds are "
            f"{', '.join(CORRUPTIONS)}, strengths 0 to 5."
        )
    if strength == 0:
        return x
    damage, levels = CORRUPTIONS[kind]
    return np.clip(np.round(damage(x, levels[strength - 1])), 0, 255).astype("uint8")


# ------------------------------------------------------------------ images of no class


def auroc(inside: Sequence[float], outside: Sequence[float]) -> float:
    """Return how well a score tells two groups apart: the area under the ROC curve.

    It is the share of all pairs in which the one from outside has the higher score; a
    tie counts half (Hanley & McNeil, 1982). 0.5 is chance, 1 is perfect.

    Args:
        inside, outside: scores that ought to be low, and high; (n,) and (m,).
    """
    # By ranks: many times as fast as scikit-learn's, and a bootstrap asks often.
    n, m = len(inside), len(outside)
    ranks = rankdata(np.concatenate([inside, outside]))
    return float((ranks[n:].sum() - m * (m + 1) / 2) / (n * m))


def auroc_interval(
    inside: Sequence[float], outside: Sequence[float], draws: int = 500
) -> Interval:
    """Return the AUROC with the 95 % interval of a bootstrap over images.

    It says how far other images of the same two kinds could move the number. It does
    not cover another training of the network.
    """
    found = bootstrap(
        (inside, outside),
        auroc,
        n_resamples=draws,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(auroc(inside, outside), float(found.low), float(found.high))
