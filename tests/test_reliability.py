"""Calibration, corruptions and AUROC, held against cases worked out by hand."""

from itertools import product

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from pretrain import reliability

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (4, 32, 32, 3)).astype("uint8")


def test_bins_hold_equally_many_answers():
    confidence = np.array([0.9, 0.1, 0.8, 0.3, 0.5])
    correct = np.array([1, 0, 1, 1, 0])
    said, right, count = reliability.equal_mass_bins(confidence, correct, bins=2)
    assert count.tolist() == [3, 2]
    np.testing.assert_allclose(said, [0.3, 0.85])
    np.testing.assert_allclose(right, [1 / 3, 1])
    with pytest.raises(ValueError, match="6 bins need as many answers, got 5"):
        reliability.equal_mass_bins(confidence, correct, bins=6)


def test_calibration_error_by_hand():
    # Four answers at 0.5 of which two are right, four at 0.9 of which two are right.
    confidence = np.repeat([0.5, 0.9], 4)
    correct = np.tile([1, 0], 4)
    found = reliability.calibration_error(confidence, correct, bins=2)
    assert found == pytest.approx(0.2)


def test_a_calibrated_forecaster_has_next_to_no_error():
    confidence = RNG.uniform(0.1, 1, 50_000)
    correct = RNG.uniform(size=50_000) < confidence
    assert reliability.calibration_error(confidence, correct) < 0.02
    always = np.ones(50_000)
    assert reliability.calibration_error(always, correct) == pytest.approx(0.45, 0.05)


def test_temperature_undoes_a_scale():
    logits = RNG.normal(0, 2, (20_000, 5))
    y = np.array([RNG.choice(5, p=p) for p in softmax(logits, axis=1)])
    assert reliability.fit_temperature(logits, y) == pytest.approx(1, abs=0.05)
    assert reliability.fit_temperature(3 * logits, y) == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize("kind", reliability.CORRUPTIONS)
def test_damage_grows_with_its_strength(kind):
    smooth = np.linspace(40, 200, 32)[:, None, None] * np.ones((2, 1, 32, 3))
    smooth[:, 8:20, 8:20] = (200, 30, 90)
    x = smooth.astype("uint8")
    damaged = [reliability.corrupt(x, kind, s) for s in range(6)]
    np.testing.assert_array_equal(damaged[0], x)
    assert all(d.dtype == np.uint8 and d.shape == x.shape for d in damaged)
    errors = [np.square(d.astype(float) - x).mean() for d in damaged]
    assert errors == sorted(errors) and errors[1] > 0
    np.testing.assert_array_equal(damaged[5], reliability.corrupt(x, kind, 5))


def test_damage_is_that_of_its_definition():
    grey = np.full((1, 32, 32, 1), 100, "uint8")
    noisy = reliability.corrupt(grey, "noise", 1).astype(float) - 100
    assert noisy.std() == pytest.approx(0.04 * 255, rel=0.1)
    halves = np.full((1, 32, 32, 1), 100, "uint8")
    halves[:, :16] = 140
    flat = reliability.corrupt(halves, "contrast", 2)
    assert sorted(np.unique(flat)) == [110, 130]  # 120 ± half of 20
    blurred = reliability.corrupt(halves, "blur", 5)
    assert np.abs(blurred.mean() - halves.mean()) < 1 and blurred[0, 15, 5, 0] < 140


def test_grey_images_can_be_compressed():
    assert reliability.corrupt(X[..., :1], "JPEG", 3).shape == (4, 32, 32, 1)


def test_an_unknown_kind_or_strength_is_an_error():
    with pytest.raises(ValueError, match="no 'fog' of strength 1: kinds are noise"):
        reliability.corrupt(X, "fog", 1)
    with pytest.raises(ValueError, match="'blur' of strength 6"):
        reliability.corrupt(X, "blur", 6)


def test_auroc_counts_pairs():
    inside, outside = np.array([1, 2, 2, 5]), np.array([2, 3, 9])
    pairs = list(product(inside, outside))
    share = np.mean([(b > a) + 0.5 * (b == a) for a, b in pairs])
    assert reliability.auroc(inside, outside) == pytest.approx(share)
    assert reliability.auroc([0, 1], [2, 3]) == 1
    assert reliability.auroc([2, 3], [0, 1]) == 0
    assert reliability.auroc([1, 1], [1, 1]) == 0.5


def test_auroc_is_that_of_scikit_learn():
    a, b = RNG.normal(size=300), RNG.normal(0.7, 2, size=200).round(1)
    truth = np.repeat([0, 1], [300, 200])
    expected = roc_auc_score(truth, np.concatenate([a, b]))
    assert reliability.auroc(a, b) == pytest.approx(expected)


def test_the_interval_of_an_auroc_covers_the_truth():
    # Two bell curves, one standard deviation apart: AUROC = Φ(1/√2) = 0.760.
    hits = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found = reliability.auroc_interval(
            rng.normal(size=100), rng.normal(1, 1, size=100), draws=200
        )
        assert found.low < found.mean < found.high
        hits += found.low <= 0.760 <= found.high
    assert hits >= 51
