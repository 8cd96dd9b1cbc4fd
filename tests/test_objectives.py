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


def test_one_view_in_five_is_without_colour_whichever_part_it_shows():
    x = rng.uniform(0, 255, (2_000, 8, 8, 3)).astype("float32")
    x[:, :, 4:] = 0.2 * x[:, :, 4:]  # so that parts differ in light
    augment = layers.two_view_augmentation(3, seed=0)
    view = numbers(augment(x, training=True))
    grey = np.ptp(view, axis=-1).max(axis=(1, 2)) < 0.1
    assert 0.15 < grey.mean() < 0.25
    parts = numbers(augment.get_layer("part")(x, training=True))
    light, spread = parts.mean(axis=(1, 2, 3)), parts.std(axis=(1, 2, 3))
    for number in (light, spread):
        gap = number[grey].mean() - number[~grey].mean()
        assert abs(gap) < 0.2 * number.std()


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


# ------------------------------------------------------- two views, not compared


def vicreg(x, **settings):
    return objectives.VICReg(same(x), layers.RandomResizedCrop(0.5, seed=0), **settings)


def test_the_three_terms_are_those_worked_out_with_numpy():
    x, z = slope(5), rng.normal(size=(10, 4)).astype("float32")
    one, two = z[:5], z[5:]
    expected = np.zeros(3)
    expected[0] = np.mean((one - two) ** 2)
    for view in (one, two):
        deviations = np.sqrt(view.var(axis=0, ddof=1) + 1e-4)
        expected[1] += np.maximum(0, 1 - deviations).mean() / 2
        covariances = np.cov(view, rowvar=False)
        others = covariances[~np.eye(4, dtype=bool)]
        expected[2] += np.sum(others**2) / 4
    for term in range(3):
        model = vicreg(x, weights_of_terms=np.eye(3)[term])
        found = float(model.compute_loss(x, y_pred=ops.convert_to_tensor(z)))
        assert found == pytest.approx(expected[term], rel=1e-4)


def test_one_answer_to_everything_is_what_variance_forbids():
    x, z = slope(5), np.ones((10, 4), "float32")
    found = [
        float(vicreg(x, weights_of_terms=w).compute_loss(x, y_pred=z))
        for w in np.eye(3)
    ]
    assert found == pytest.approx([0, 0.99, 0])


def test_a_batch_of_one_image_has_no_variance_but_a_loss():
    x, z = slope(1), rng.normal(size=(2, 4)).astype("float32")
    loss = vicreg(x).compute_loss(x, y_pred=ops.convert_to_tensor(z))
    assert np.isfinite(float(loss))


def test_the_cache_tells_settings_apart(monkeypatch, tmp_path):
    monkeypatch.setenv("PRETRAIN_CACHE", str(tmp_path))
    x = slope(16)

    def train(kind, **settings):
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        encoder = models.conv_encoder((16, 16, 1), (4,))
        augment = layers.RandomResizedCrop(0.5, seed=0, name="part")
        model = kind(encoder, augment, size=4, **settings)
        objectives.pretrain(model, x, epochs=1, batch_size=8)
        return len(list(tmp_path.glob("*.h5")))

    kinds = [
        (objectives.ContrastiveLearner, {"temperature": 0.2}),
        (objectives.ContrastiveLearner, {"temperature": 0.5}),
        (objectives.VICReg, {"weights_of_terms": (25, 25, 1)}),
        (objectives.VICReg, {"weights_of_terms": (25, 0, 0)}),
    ]
    files = [train(kind, **settings) for kind, settings in kinds]
    assert files == [1, 2, 3, 4]
    assert train(kinds[0][0], **kinds[0][1]) == 4  # found again


def test_alignment_and_uniformity_of_points_on_a_circle():
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    spread = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert objectives.alignment(spread, -spread) == pytest.approx(4)
    assert objectives.alignment(spread, spread) == 0
    # The mean of exp(4 cos a − 4) over a circle is exp(−4) I₀(4).
    expected = np.log(np.exp(-4) * np.i0(4))
    assert objectives.uniformity(spread) == pytest.approx(expected, abs=0.02)
    alike = np.tile(spread[:1], (10, 1))
    assert objectives.uniformity(alike) == pytest.approx(0)


# ------------------------------------------------------------- hidden patches


def masked(side=16, fraction=0.75, seed=0, **settings):
    """Return a small masked autoencoder with patches of 4 by 4."""
    keras.utils.set_random_seed(1)
    encoder = models.patch_encoder((side, side, 1), size=8, blocks=1, heads=2)
    decoder = models.patch_decoder(
        encoder.output_shape[1:], size=8, blocks=1, channels=1, heads=2
    )
    return objectives.MaskedAutoencoder(
        encoder, decoder, fraction, seed=seed, **settings
    )


def test_of_hidden_patches_the_network_sees_nothing():
    x, model = slope(2).astype("float32"), masked()
    order = model.draw(2)
    hidden = numbers(model.hidden(order))
    before = numbers(model.restore(x, order))
    other_hidden = numbers(model.restore(np.where(hidden == 1, 0, x), order))
    np.testing.assert_array_equal(other_hidden, before)
    other_visible = numbers(model.restore(np.where(hidden == 0, 0, x), order))
    assert np.abs(other_visible - before).max() > 1e-3


def test_as_many_patches_are_hidden_as_asked_and_others_in_the_next_call():
    model = masked(fraction=0.75)
    draws = [numbers(model.hidden(model.draw(5))) for _ in "ab"]
    for hidden in draws:
        patches = hidden.reshape(5, 4, 4, 4, 4, 1).mean(axis=(2, 4))
        assert set(np.unique(patches)) == {0, 1}
        np.testing.assert_array_equal(patches.sum(axis=(1, 2, 3)), 12)
    assert not np.array_equal(*draws)


def test_the_same_seed_hides_the_same_patches():
    one, same, other = (numbers(masked(seed=s).draw(4)) for s in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_each_code_comes_back_to_the_place_of_its_patch():
    model = masked()
    # Nothing is changed on the way, so what is decoded is tokens and masks.
    tokens = model.encoder.get_layer("patches")
    parts = {"patches": tokens, "transformer": lambda h, training: h}
    model.decoder = lambda h, training: h
    model.encoder = type(
        "Parts", (), {"get_layer": parts.get, "input_shape": tokens.input_shape}
    )
    model.mask_token.assign(np.full(8, 7.0))
    x = slope(2)
    order = model.draw(2)
    found = numbers(model.restore(x, order)).reshape(2, 16, 8)
    hidden = numbers(model.hidden(order))[:, ::4, ::4].reshape(2, 16) == 1
    np.testing.assert_array_equal(found[hidden], 7)
    np.testing.assert_array_equal(found[~hidden], numbers(tokens(x))[~hidden])


@pytest.mark.parametrize(
    ("visible", "expected"), [(0, 4.0), (1, (12 * 4 + 4 * 1) / 16), (0.5, 50 / 14)]
)
def test_the_error_counts_at_hidden_patches(visible, expected):
    model = masked(visible=visible)
    x = np.zeros((3, 16, 16, 1), "uint8")
    hidden = model.hidden(model.draw(3))
    restored = 1 + hidden  # off by 2 at hidden patches, by 1 at the others
    assert float(model.compute_loss(x, y_pred=(restored, hidden))) == pytest.approx(
        expected
    )


def test_the_target_may_be_another_than_the_image():
    model = masked(target=layers.PatchNormalization(4, floor=0))
    x = slope(2)
    hidden = model.hidden(model.draw(2))
    nothing = np.zeros(x.shape, "float32")
    # Each patch has variance 1.
    found = float(model.compute_loss(x, y_pred=(nothing, hidden)))
    assert found == pytest.approx(1, abs=1e-3)


def test_the_parts_of_a_masked_autoencoder_must_fit_together():
    encoder = models.patch_encoder((16, 16, 1), size=8, blocks=1)
    decoder = models.patch_decoder((4, 4, 8), size=8, blocks=1, channels=3)
    with pytest.raises(ValueError, match="must be equal"):
        objectives.MaskedAutoencoder(encoder, decoder)


def test_its_encoder_makes_a_map_of_a_whole_image():
    model = masked(fraction=0.0)
    x = slope(2)
    found = models.predict(model.encoder, x)
    assert found.shape == (2, 4, 4, 8)
    tokens = model.encoder.get_layer("patches")(x)
    mixed = ops.take(tokens, [3, 0, 2, 1, *range(4, 16)], axis=1)
    apart = numbers(model.encoder.get_layer("transformer")(mixed))
    np.testing.assert_allclose(apart[:, 0], found[:, 0, 3], atol=1e-5)


def test_the_cache_tells_masked_autoencoders_apart():
    def kinds(**settings):
        return [w for w in masked(**settings).get_weights() if w.shape == (2,)]

    assert not np.array_equal(kinds(), kinds(fraction=0.5))
    assert not np.array_equal(kinds(), kinds(visible=0.5))
    np.testing.assert_array_equal(kinds(), kinds())


def test_masked_pretraining_learns_and_is_found_again(monkeypatch, tmp_path):
    monkeypatch.setenv("PRETRAIN_CACHE", str(tmp_path))
    model, x = masked(), slope(128)
    settings = {"epochs": 12, "batch_size": 32, "learning_rate": 1e-2}
    history = objectives.pretrain(model, x, **settings)
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    again = masked()
    assert objectives.pretrain(again, x, **settings) == history
    for w, v in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(w, v)


# ------------------------------------------------------------------- edges alone


def test_a_high_pass_leaves_nothing_of_flat_images_and_most_of_a_point():
    flat = np.full((1, 9, 9, 2), 0.7, "float32")
    np.testing.assert_allclose(layers.HighPass(5)(flat), 0, atol=1e-6)
    point = np.zeros((1, 9, 9, 1), "float32")
    point[0, 4, 4] = 1
    found = numbers(layers.HighPass(3)(point))[0, :, :, 0]
    assert found[4, 4] == pytest.approx(8 / 9)
    np.testing.assert_allclose(found[3, 3:6], -1 / 9, rtol=1e-5)
    assert np.count_nonzero(found) == 9
