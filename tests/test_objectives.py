import keras
import numpy as np
import pytest
from keras import ops

from pretrain import layers, models, objectives

rng = np.random.default_rng(0)


def slope(n, side=16):
    """Return images that get brighter from top to bottom, with some noise."""
    ramp = np.linspace(40, 210, side)[:, None, None]
    return (ramp + rng.normal(0, 8, (n, side, side, 1))).clip(0, 255).astype("uint8")


def numbers(tensor):
    return keras.ops.convert_to_numpy(tensor)


def same(images):
    """Return an encoder that gives back its images."""
    image = keras.Input(images.shape[1:])
    return keras.Model(image, keras.layers.Identity()(image))


# --------------------------------------------------------------- parts of an image


def weights_of(start, length, size=4):
    asked = (np.array([v], "float32") for v in (start, length))
    return numbers(layers.RandomResizedCrop.weights_of(*asked, size))[0]


def test_the_whole_image_is_taken_as_it_is_and_backward_it_is_mirrored():
    np.testing.assert_allclose(weights_of(0, 1), np.eye(4), atol=1e-6)
    np.testing.assert_allclose(weights_of(1, -1), np.eye(4)[::-1], atol=1e-6)


def test_the_first_half_is_stretched_with_linear_interpolation():
    # The middles of four pixels in two lie at -1/4, 1/4, 3/4, 5/4; none before 0.
    expected = [
        [1, 0, 0, 0],
        [0.75, 0.25, 0, 0],
        [0.25, 0.75, 0, 0],
        [0, 0.75, 0.25, 0],
    ]
    np.testing.assert_allclose(weights_of(0, 0.5), expected, atol=1e-6)


def test_parts_differ_and_keep_to_the_values_of_the_image():
    x = slope(64)
    crop = layers.RandomResizedCrop(0.2, seed=0)
    parts = numbers(crop(x, training=True))
    assert parts.shape == x.shape
    assert parts.min() >= x.min() - 1e-3
    assert parts.max() <= x.max() + 1e-3
    span = np.ptp(parts.mean(axis=(2, 3)), axis=1)  # of the light, top to bottom
    assert span.min() < 0.6 * span.max()
    np.testing.assert_array_equal(crop(x, training=False), x)


@pytest.mark.parametrize("channels", [1, 3])
def test_two_views_of_an_image_differ(channels):
    x = np.repeat(slope(8), channels, axis=-1)
    augment = layers.two_view_augmentation(channels, seed=0)
    one, two = (numbers(augment(x.astype("float32"), training=True)) for _ in "ab")
    assert one.shape == x.shape
    assert np.abs(one - two).mean() > 5
    assert one.min() >= 0
    assert one.max() <= 255


# ------------------------------------------------------------------- quarter turns


def test_every_fourth_image_is_turned_and_the_loss_knows_how_far(monkeypatch):
    x = rng.integers(0, 255, (6, 8, 8, 1)).astype("float32")
    head = keras.layers.Identity()  # to see what the encoder sees
    monkeypatch.setattr(models, "pooled_head", lambda *_, **__: head)
    model = objectives.RotationPredictor(same(x))
    turned = numbers(model(x, training=True))
    for i, image in enumerate(turned):
        np.testing.assert_array_equal(image, np.rot90(x[i], i % 4))
    np.testing.assert_array_equal(model(x, training=False), x)

    right = 20 * np.eye(4, dtype="float32")[[0, 1, 2, 3, 0, 1]]
    assert float(model.compute_loss(x, y_pred=right)) < 1e-6
    assert float(model.compute_loss(x, y_pred=0 * right)) == pytest.approx(np.log(4))


def test_rotations_are_learnt(monkeypatch, tmp_path):
    monkeypatch.setenv("PRETRAIN_CACHE", str(tmp_path))
    keras.utils.set_random_seed(0)
    model = objectives.RotationPredictor(models.conv_encoder((16, 16, 1), (4, 8)))
    history = objectives.pretrain(
        model, slope(64), epochs=12, batch_size=16, learning_rate=1e-2
    )
    assert history["loss"][-1] < 0.5 * np.log(4)


# ------------------------------------------------------------------- two views


def contrastive(x, **settings):
    augment = layers.RandomResizedCrop(0.5, seed=0)
    return objectives.ContrastiveLearner(same(x), augment, **settings)


def test_the_contrastive_loss_is_the_one_worked_out_in_loops():
    x = slope(3)
    model = contrastive(x, temperature=0.5)
    z = rng.normal(size=(6, 4))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    losses = []
    for i in range(6):
        likeness = {j: np.exp(z[i] @ z[j] / 0.5) for j in range(6) if j != i}
        losses.append(-np.log(likeness[(i + 3) % 6] / sum(likeness.values())))
    found = float(model.compute_loss(x, y_pred=ops.cast(z, "float32")))
    assert found == pytest.approx(np.mean(losses), rel=1e-4)


def test_a_collapsed_encoder_has_the_loss_of_guessing():
    x = slope(3)
    everything_alike = np.ones((6, 1), "float32")
    found = float(contrastive(x).compute_loss(x, y_pred=everything_alike))
    assert found == pytest.approx(np.log(5), rel=1e-4)


def test_both_views_come_in_training_and_one_afterwards():
    x = slope(3)
    model = contrastive(x, size=8)
    views = numbers(model(x, training=True))
    assert views.shape == (6, 8)
    np.testing.assert_allclose(np.linalg.norm(views, axis=1), 1, rtol=1e-4)
    assert model(x, training=False).shape == (3, 8)


def test_views_are_told_apart_after_some_training(monkeypatch, tmp_path):
    monkeypatch.setenv("PRETRAIN_CACHE", str(tmp_path))
    keras.utils.set_random_seed(0)
    light = rng.uniform(20, 235, (64, 1, 1, 1))
    x = np.broadcast_to(light, (64, 16, 16, 1)).astype("uint8")
    encoder = models.conv_encoder((16, 16, 1), (4, 8))
    crop = layers.RandomResizedCrop(0.5, seed=0)  # leaves the light as it is
    model = objectives.ContrastiveLearner(encoder, crop, size=16)
    history = objectives.pretrain(
        model, x, epochs=20, batch_size=16, learning_rate=1e-2
    )
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert history["loss"][-1] < 0.8 * np.log(31)  # guessing
