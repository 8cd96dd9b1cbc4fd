"""Attacks and private training, held against cases that can be worked out by hand."""

import keras
import numpy as np
import pytest
from scipy.special import comb, logsumexp, softmax
from scipy.stats import norm

from pretrain import privacy, reliability

RNG = np.random.default_rng(0)


# -------------------------------------------------------------------- images


def test_pixelating_takes_means():
    x = np.zeros((1, 4, 4, 1), "uint8")
    x[0, :2, :2, 0] = [[10, 20], [30, 41]]
    found = privacy.pixelate(x, 2)
    assert found.dtype == np.uint8 and found.shape == x.shape
    np.testing.assert_array_equal(found[0, :2, :2, 0], 25)
    assert found[0, 2:].max() == found[0, :2, 2:].max() == 0
    np.testing.assert_array_equal(privacy.pixelate(x, 1), x)
    with pytest.raises(ValueError, match="Blocks of 3 do not fit into 4 by 4"):
        privacy.pixelate(x, 3)


def test_the_nearest_is_identified():
    gallery = np.array([[0.0, 0], [10, 0], [0, 10]])
    probes = np.array([[1.0, 1], [0, 9], [0, 11]])
    assert privacy.identified(probes, gallery).tolist() == [True, False, True]


# ------------------------------------------------------ membership inference


def test_halves_complement_each_other_class_by_class():
    y = np.repeat([0, 1, 2], [10, 20, 6])
    inside = privacy.complementary_halves(y, pairs=3, seed=0)
    assert inside.shape == (6, 36)
    np.testing.assert_array_equal(inside[:3], ~inside[3:])
    for half in inside:
        assert np.bincount(y[half]).tolist() == [5, 10, 3]
    assert (inside[0] != inside[1]).any()
    assert (privacy.complementary_halves(y, 3, seed=1) != inside).any()


def test_confidence_is_the_log_odds_of_the_right_class():
    logits = np.log([[0.75, 0.25, 1e-30], [0.1, 0.6, 0.3]])
    found = privacy.confidence(logits, np.array([0, 2]))
    np.testing.assert_allclose(found, np.log([3, 3 / 7]))
    sure = privacy.confidence(np.array([[1000.0, 0.0]]), np.array([0]))
    np.testing.assert_allclose(sure, [1000])


def test_likelihood_ratio_by_hand():
    # One image: inside 1 and 3, outside -1 and 1; both groups have variance 2.
    shadows = np.array([[1.0], [3.0], [-1.0], [1.0]])
    inside = np.array([[True], [True], [False], [False]])
    found = privacy.likelihood_ratio(np.array([2.0]), shadows, inside)
    np.testing.assert_allclose(found, [((2 - 0) ** 2 - (2 - 2) ** 2) / (2 * 2)])
    inside[1] = False
    with pytest.raises(ValueError, match="in two shadow networks"):
        privacy.likelihood_ratio(np.array([2.0]), shadows, inside)


def gaussian_case(shadows=64, n=20_000):
    """Images of different difficulty; being inside adds 1 to a score of spread 1."""
    hard = RNG.normal(0, 3, n)
    inside = privacy.complementary_halves(np.zeros(n, int), shadows // 2, 0)
    truth = RNG.uniform(size=n) < 0.5
    scores = hard + truth + RNG.normal(size=n)
    return scores, hard + inside + RNG.normal(size=inside.shape), inside, truth


def test_the_attack_on_bell_curves_is_nearly_the_best_there_is():
    scores, shadows, inside, truth = gaussian_case()
    ratio = privacy.likelihood_ratio(scores, shadows, inside)
    best = norm.cdf(1 / 2**0.5)  # of a shift by one standard deviation: 0.760
    area = reliability.auroc(ratio[~truth], ratio[truth])
    assert area == pytest.approx(best, abs=0.015)
    by_loss = reliability.auroc(scores[~truth], scores[truth])
    assert by_loss == pytest.approx(norm.cdf(1 / 20**0.5), abs=0.015)  # 0.588
    found = privacy.true_positive_rate(ratio[truth], ratio[~truth])
    assert found == pytest.approx(norm.cdf(1 - norm.ppf(0.99)), abs=0.02)  # 0.092


def test_who_saw_nothing_gives_nothing_away():
    _, shadows, inside, truth = gaussian_case(shadows=8)
    scores = RNG.normal(size=len(truth))
    ratio = privacy.likelihood_ratio(scores, shadows, inside)
    area = reliability.auroc(ratio[~truth], ratio[truth])
    assert area == pytest.approx(0.5, abs=0.015)


def test_true_positives_are_counted():
    others = np.arange(100.0)  # one of them may be accused
    members = np.array([200.0, 98.5, 98.0, 97.5, 3])
    assert privacy.true_positive_rate(members, others) == pytest.approx(2 / 5)
    assert privacy.true_positive_rate(members, others, 0) == pytest.approx(1 / 5)
    assert privacy.true_positive_rate(members, others, 0.03) == pytest.approx(4 / 5)
    assert privacy.true_positive_rate(-members, others, 0) == 0


# ------------------------------------------------------ differential privacy

DELTA = 1e-5
ORDERS = np.arange(2, 257)


def converted(divergence):
    """From Rényi divergences at ORDERS to ε, after Canonne et al. (2020)."""
    found = divergence + np.log1p(-1 / ORDERS)
    return np.min(found - (np.log(DELTA) + np.log(ORDERS)) / (ORDERS - 1))


@pytest.mark.parametrize(("noise", "steps"), [(25.0, 40), (4.0, 40), (1.0, 1)])
def test_epsilon_of_whole_batches_by_hand(noise, steps):
    by_hand = converted(steps * ORDERS / (2 * noise**2))
    found = privacy.epsilon(noise, DELTA, steps)
    assert found == pytest.approx(by_hand, rel=1e-6)
    # The exact guarantee of a Gaussian (Balle & Wang, 2018) is a little better.
    s = noise / steps**0.5
    exact = norm.cdf(1 / (2 * s) - found * s)
    exact -= np.exp(found) * norm.cdf(-1 / (2 * s) - found * s)
    assert DELTA / 20 < exact <= DELTA


def test_epsilon_of_drawn_batches_by_hand():
    q, noise, steps = 0.02, 1.2, 100
    # At whole orders the divergence is a finite sum (Mironov et al., 2019).
    divergence = []
    for a in ORDERS:
        k = np.arange(a + 1)
        with np.errstate(divide="ignore"):
            terms = np.log(comb(a, k)) + (a - k) * np.log1p(-q) + k * np.log(q)
        terms = terms + (k**2 - k) / (2 * noise**2)
        divergence.append(steps * logsumexp(terms) / (a - 1))
    found = privacy.epsilon(noise, DELTA, steps, q)
    assert found == pytest.approx(converted(np.array(divergence)), rel=1e-4)


def test_epsilon_is_no_worse_than_published():
    # Abadi et al. (2016): q = 0.01, σ = 4, 10,000 steps; their accountant says 1.26.
    assert 0.8 < privacy.epsilon(4.0, 1e-5, 10_000, 0.01) <= 1.26


@pytest.mark.parametrize("rate", [1.0, 0.02])
def test_noise_is_the_least_that_keeps_the_promise(rate):
    noise = privacy.noise_for(3.0, DELTA, 50, rate)
    found = privacy.epsilon(noise, DELTA, 50, rate)
    assert 2.99 < found <= 3.0
    assert privacy.noise_for(1.0, DELTA, 50, rate) > noise
    assert privacy.noise_for(np.inf, DELTA, 50, rate) == 0


def test_gradients_of_a_head_are_clipped_one_by_one():
    features, errors = RNG.normal(size=(50, 7)), RNG.normal(size=(50, 3))
    each = features[:, :, None] * errors[:, None]
    norms = np.linalg.norm(each.reshape(50, -1), axis=1)
    clip = np.median(norms)
    scale = np.where(norms > clip, clip / norms, 1)
    found = privacy.linear_clipped_sum(features, errors, clip)
    np.testing.assert_allclose(found, np.tensordot(scale, each, 1))
    for f, e, g in zip(features, errors, each, strict=True):
        one = privacy.linear_clipped_sum(f[None], e[None], clip)
        assert np.linalg.norm(one) <= clip * (1 + 1e-9)
        if np.linalg.norm(g) < clip:
            np.testing.assert_allclose(one, g)


def test_one_image_moves_a_step_by_no_more_than_the_clip():
    features, y = RNG.normal(0, 3, (30, 5)), np.arange(30) % 3
    head = [
        privacy.private_head(f, y, 3, noise=0, clip=0.5, steps=1, learning_rate=30.0)
        for f in (features, np.vstack([0 * features[:1], features[1:]]))
    ]
    moved = np.linalg.norm(head[0] - head[1])
    assert 0.4 < moved <= 0.5 + 1e-6


def test_the_noise_of_a_head_has_the_variance_that_was_asked():
    features, y = np.zeros((20, 4000)), np.arange(20) % 2
    kernel = privacy.private_head(
        features, y, 2, noise=3.0, clip=0.5, steps=1, learning_rate=20.0
    )
    assert kernel.std() == pytest.approx(1.5, rel=0.03)
    again = privacy.private_head(
        features, y, 2, noise=3.0, clip=0.5, steps=1, learning_rate=20.0, seed=1
    )
    assert abs(np.corrcoef(kernel.ravel(), again.ravel())[0, 1]) < 0.05


def test_a_head_learns_where_there_is_no_noise():
    y = np.arange(60) % 3
    features = (np.eye(3)[y] + RNG.normal(0, 0.2, (60, 3))).astype("float32")
    kernel = privacy.private_head(features, y, 3, noise=0)
    assert np.mean((features @ kernel).argmax(axis=1) == y) > 0.95


def linear_network():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((2, 2, 1)), *layers])


X = RNG.integers(0, 9, (6, 2, 2, 1)).astype("uint8")
Y = np.array([0, 1, 2, 0, 1, 2])
SUPPORTED = keras.backend.backend() in ("tensorflow", "jax")


@pytest.mark.skipif(not SUPPORTED, reason="this engine has no such gradients")
def test_gradients_of_single_images():
    network = linear_network()
    kernel, bias = privacy.per_example_gradients(network)(X, Y)
    logits = keras.ops.convert_to_numpy(network(X.astype("float32")))
    errors = softmax(logits, axis=1) - np.eye(3)[Y]
    outer = X.reshape(6, 4)[:, :, None] * errors[:, None]
    np.testing.assert_allclose(kernel, outer, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bias, errors, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not SUPPORTED, reason="this engine has no such gradients")
def test_gradients_follow_the_weights():
    network = linear_network()
    gradients_of = privacy.per_example_gradients(network)
    before = np.array(gradients_of(X, Y)[1])
    network.set_weights([w + RNG.normal(size=w.shape) for w in network.get_weights()])
    assert np.abs(np.array(gradients_of(X, Y)[1]) - before).max() > 0.01


def test_gradients_without_an_engine_say_so(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    with pytest.raises(NotImplementedError, match="not numpy"):
        privacy.per_example_gradients(linear_network())


def test_clipping_counts_all_variables_together():
    kernel = np.array([[[3.0, 0.0]], [[0.3, 0.0]], [[9.0, 9.0]]])  # 3 images, 1×2
    bias = np.array([[4.0], [0.4], [9.0]])
    found = privacy.clipped_sum([kernel, bias], np.array([1, 1, 0]), clip=1.0)
    # The first has norm 5 and is cut to a fifth; the second has 0.5; the third is off.
    np.testing.assert_allclose(found[0], [[0.9, 0.0]])
    np.testing.assert_allclose(found[1], [1.2])


@pytest.mark.skipif(not SUPPORTED, reason="this engine has no such gradients")
def test_the_noise_of_a_network_has_the_variance_that_was_asked():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(1000)]
    network = keras.Sequential([keras.Input((2, 2, 1)), *layers])
    before = network.get_weights()
    privacy.private_fit(
        network, X, Y, noise=60.0, clip=0.1, rate=1.0, steps=1, learning_rate=1.0
    )
    moved = [a - b for a, b in zip(network.get_weights(), before, strict=True)]
    assert moved[0].std() == pytest.approx(1.0, rel=0.05)  # 60 × 0.1 / 6 images
    assert moved[1].std() == pytest.approx(1.0, rel=0.1)


@pytest.mark.skipif(not SUPPORTED, reason="this engine has no such gradients")
def test_a_network_learns_where_there_is_no_noise():
    x = np.eye(4, dtype="uint8")[np.arange(80) % 3].reshape(80, 2, 2, 1) * 5
    y, network = np.arange(80) % 3, linear_network()
    privacy.private_fit(
        network, x, y, noise=0.0, rate=0.25, steps=30, learning_rate=0.5
    )
    logits = keras.ops.convert_to_numpy(network(x.astype("float32")))
    assert np.mean(logits.argmax(axis=1) == y) > 0.95
