"""Maps of pixels, held against networks whose right map can be worked out by hand."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from pretrain import attribution, models

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (3, 8, 8, 3)).astype("uint8")
CLASSES = np.array([1, 0, 1])


def linear(seed=0):
    """Return a linear network on 8×8×3 images, and its kernel as (8, 8, 3, 2)."""
    keras.utils.set_random_seed(seed)
    dense = layers.Dense(2)
    network = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), dense])
    return network, np.array(dense.kernel).reshape(8, 8, 3, 2)


def curved():
    """Return a network that is no straight line between two images."""
    keras.utils.set_random_seed(0)
    stack = [layers.Rescaling(1 / 255), layers.Conv2D(4, 3, activation="gelu")]
    stack += [layers.Flatten(), layers.Dense(5, "tanh"), layers.Dense(2)]
    return keras.Sequential([keras.Input((8, 8, 3)), *stack])


def test_gradient_is_that_of_calculus():
    x = np.array([[1.0, -2.0, 3.0]])
    np.testing.assert_allclose(attribution.gradient(lambda z: z**3, x), 3 * x**2)
    of_all = attribution.gradient(lambda z: ops.sum(z, axis=1) ** 2, x)
    np.testing.assert_allclose(of_all, [[4, 4, 4]])


def test_gradient_without_an_engine_says_so(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    with pytest.raises(NotImplementedError, match="not numpy"):
        attribution.gradient(lambda z: z, np.zeros(1))


def test_saliency_of_a_linear_network_is_the_size_of_its_weights():
    network, kernel = linear()
    expected = np.abs(kernel).max(axis=2)
    found = attribution.saliency(network, X, CLASSES)
    for one, c in zip(found, CLASSES, strict=True):
        np.testing.assert_allclose(one, expected[..., c], rtol=1e-5)


def test_integrated_gradients_of_a_linear_network_are_weight_times_change():
    network, kernel = linear()
    found = attribution.integrated_gradients(network, X, CLASSES, 100.0, steps=2)
    weights = np.moveaxis(kernel[..., CLASSES], -1, 0)
    np.testing.assert_allclose(found, weights * (X - 100.0), rtol=1e-4, atol=1e-3)


def test_integrated_gradients_are_complete():
    network = curved()
    baseline = np.array([10.0, 120.0, 200.0])
    logits = [
        models.predict(network, np.broadcast_to(x, X.shape))[range(3), CLASSES]
        for x in (X, baseline)
    ]
    errors = [
        attribution.integrated_gradients(network, X, CLASSES, baseline, steps).sum(
            axis=(1, 2, 3)
        )
        - (logits[0] - logits[1])
        for steps in (1, 64)
    ]
    assert np.abs(errors[1]).max() < 1e-3 < np.abs(errors[0]).max()


def test_grad_cam_weighs_maps_by_what_the_head_makes_of_them():
    # Features: the image's own three channels, at 4 by 4 places.
    encoder = keras.Sequential([keras.Input((8, 8, 3)), layers.AveragePooling2D(2)])
    head = models.pooled_head((4, 4, 3), 2)
    head.get_layer("logits").set_weights(
        [np.array([[1.0, -1.0], [0, 0], [0, 0]]), np.zeros(2)]
    )
    x = np.zeros((2, 8, 8, 3), "float32")
    x[:, :2, 4:6, 0] = 100  # a red spot; green and blue count for nothing
    x[..., 1] = RNG.uniform(0, 255, (8, 8))
    for_red, against = attribution.grad_cam(encoder, head, x, np.array([0, 1]))
    top = np.unravel_index(for_red.argmax(), for_red.shape)
    assert top[0] < 2 and 4 <= top[1] < 6
    assert for_red.shape == (8, 8) and for_red[6:].max() == 0
    assert against.max() == 0


def test_occlusion_of_a_linear_network_sums_what_is_covered():
    network, kernel = linear()
    found = attribution.occlusion(network, X, CLASSES, 50.0, size=4, stride=4)
    for image, c, one in zip(X, CLASSES, found, strict=True):
        share = (kernel[..., c] * (image - 50.0)).sum(axis=-1)
        blocks = share.reshape(2, 4, 2, 4).sum(axis=(1, 3))
        expected = np.kron(blocks, np.ones((4, 4)))
        np.testing.assert_allclose(one, expected, rtol=1e-3, atol=1e-2)


def test_occlusion_averages_over_windows_that_overlap():
    network, kernel = linear()
    found = attribution.occlusion(network, X[:1], [0], 0.0, size=4, stride=2)[0]
    share = (kernel[..., 0] * X[0]).sum(axis=-1)
    corner = share[:4, :4].sum()
    np.testing.assert_allclose(found[0, 0], corner, rtol=1e-3)
    both = (corner + share[:4, 2:6].sum()) / 2
    np.testing.assert_allclose(found[0, 2], both, rtol=1e-3)


def test_edges_are_where_the_image_changes():
    x = np.zeros((1, 8, 8, 3), "uint8")
    x[:, :, 4:] = 200
    found = attribution.edges(x)[0]
    assert (found[:, 3:5] > 0).all() and found[:, :3].max() == found[:, 5:].max() == 0
    beside = np.concatenate([x, 0 * x, X])
    np.testing.assert_allclose(attribution.edges(beside)[0], found)
    assert attribution.edges(beside)[1].max() == 0


def test_rank_correlation():
    maps = RNG.normal(size=(200, 8, 8))
    same = attribution.rank_correlation(maps, np.exp(3 * maps))
    np.testing.assert_allclose(same, 1)
    np.testing.assert_allclose(attribution.rank_correlation(maps, -maps), -1)
    others = attribution.rank_correlation(maps, RNG.normal(size=maps.shape))
    assert abs(others.mean()) < 4 / (64 * 200) ** 0.5
    flat = np.zeros_like(maps)
    np.testing.assert_array_equal(attribution.rank_correlation(maps, flat), 0)


def test_pixels_are_replaced_in_the_order_of_the_map():
    before, after = np.ones((1, 2, 2, 3)), np.zeros(3)
    maps = np.array([[[3.0, 1.0], [2.0, 4.0]]])
    found = attribution.replaced(before, after, maps, steps=4)[:, 0, :, :, 0]
    expected = [[[1, 1], [1, 1]], [[1, 1], [1, 0]], [[0, 1], [1, 0]]]
    np.testing.assert_array_equal(found[:3], expected)
    np.testing.assert_array_equal(found[4], np.zeros((2, 2)))


def test_equal_pixels_are_replaced_in_random_order():
    ties = np.zeros((50, 8, 8))
    found = attribution.replaced(np.ones((50, 8, 8, 1)), 0, ties, steps=2)[1]
    assert (found.sum(axis=(1, 2, 3)) == 32).all()
    often = found.mean(axis=0)
    assert often.min() > 0.2 and often.max() < 0.8


def test_deletion_finds_the_only_pixel_that_counts():
    network, _ = linear()
    weights = np.zeros((192, 2))
    weights[0, 1] = 0.1  # the first channel of the first pixel
    network.layers[-1].set_weights([weights, np.zeros(2)])
    x = np.full((2, 8, 8, 3), 200, "uint8")
    maps = np.zeros((2, 8, 8))
    maps[0, 0, 0], maps[1, 7, 7] = 1, 1  # one knows it, the other does not
    maps[1, 0, 0] = -1
    versions = attribution.replaced(x, 0, maps, steps=64)
    knowing, guessing = attribution.probabilities(network, versions, [1, 1])
    assert knowing[0] == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(knowing[1:], 0.5)
    np.testing.assert_allclose(guessing[:-1], knowing[0])


@pytest.mark.parametrize("name", ["conv1", "conv2", "conv3"])
def test_a_unit_sees_its_receptive_field_and_nothing_else(name):
    keras.utils.set_random_seed(0)
    encoder = models.conv_encoder((32, 32, 3), (4, 4, 4))
    part = models.truncate(encoder, name)
    x = RNG.uniform(0, 255, (1, 32, 32, 3))
    size, stride, start = attribution.receptive_field(encoder, name)
    slope = attribution.gradient(lambda z: ops.sum(part(z)[:, 1, 1], axis=-1), x)
    rows = np.flatnonzero(np.abs(slope[0]).sum(axis=(1, 2)))
    first = start + stride
    assert rows.tolist() == list(range(max(first, 0), first + size))


def test_receptive_field_of_convolutions_that_keep_the_size():
    image = keras.Input((32, 32, 3))
    h = layers.Conv2D(2, 3, padding="same", name="a")(image)
    network = keras.Model(image, layers.Conv2D(2, 5, padding="same", name="b")(h))
    assert attribution.receptive_field(network, "b") == (7, 1, -3)


def test_strongest_patches_are_cut_where_the_feature_is_strongest():
    x = np.zeros((3, 8, 8, 1), "uint8")
    x[1, 4:6, 2:4] = 9
    x[2, 0:2, 0:2] = 5
    activations = x[:, ::2, ::2, 0].astype("float32")
    patches, chosen = attribution.strongest_patches(x, activations, (4, 2, -1), 2)
    assert chosen.tolist() == [1, 2]
    np.testing.assert_array_equal(patches[0], x[1, 3:7, 1:5])
    assert patches[1, 0].max() == 0 and patches[1, 1, 1] == 5  # a row is outside
