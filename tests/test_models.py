import keras
import numpy as np
import pytest

from pretrain import layers, models, objectives


def images(n=4, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 32, 32, channels)).astype("uint8")


def test_shapes_of_the_convolutional_pair():
    encoder = models.conv_encoder((32, 32, 3))
    decoder = models.conv_decoder(encoder.output_shape[1:])
    shapes = [encoder.get_layer(f"relu{i}").output.shape[1:] for i in (1, 2, 3)]
    assert shapes == [(16, 16, 32), (8, 8, 64), (4, 4, 128)]
    assert decoder.output_shape == (None, 32, 32, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_of_the_residual_encoder(channels):
    encoder = models.residual_encoder((32, 32, channels), (4, 8, 12, 16))
    stages = [encoder.get_layer(f"stage{i}").output.shape[1:] for i in (2, 3, 4)]
    assert stages == [(16, 16, 8), (8, 8, 12), (4, 4, 16)]
    convolutions = [layer for layer in encoder.layers if "conv" in layer.name]
    assert len(convolutions) == 10


def test_depth_and_shortcuts_of_the_deep_encoder():
    deep, plain = (
        models.deep_encoder((32, 32, 3), (4, 8, 12), blocks=3, join=join)
        for join in (keras.layers.add, models.layers_only)
    )
    assert deep.output_shape == plain.output_shape == (None, 4, 4, 12)
    assert deep.count_params() == plain.count_params()
    kinds = {model: [type(layer) for layer in model.layers] for model in (deep, plain)}
    assert kinds[deep].count(keras.layers.Conv2D) == 1 + 2 * (1 + 2 * 3)
    assert kinds[deep].count(keras.layers.Add) == 6
    assert keras.layers.Add not in kinds[plain]


def patches(map, order):
    """Rearrange the places of a map, (1, 8, 8, channels)."""
    return map.reshape(1, 64, -1)[:, order].reshape(map.shape)


def test_a_transformer_knows_places_by_their_embedding_only():
    keras.utils.set_random_seed(0)
    encoder = models.vision_transformer((32, 32, 3), size=16, blocks=2)
    assert encoder.output_shape == (None, 8, 8, 16)
    places = encoder.get_layer("places")
    rest = keras.Model(places.output, encoder.output)
    tokens = np.random.default_rng(0).normal(size=(1, 8, 8, 16)).astype("float32")
    order = np.random.default_rng(1).permutation(64)
    moved = np.array(rest(patches(tokens, order)))
    np.testing.assert_allclose(moved, patches(np.array(rest(tokens)), order), atol=1e-4)
    waves = np.array(places(tokens)) - tokens
    assert len(np.unique(waves.reshape(64, 16).round(4), axis=0)) == 64


def test_the_parts_of_a_patch_encoder_make_the_map_of_its_blocks():
    encoder = models.patch_encoder((16, 16, 3), size=8, blocks=2, heads=2)
    assert encoder.output_shape == (None, 4, 4, 8)
    decoder = models.patch_decoder((4, 4, 8), size=12, blocks=1, heads=2)
    assert decoder.output_shape == (None, 16, 16, 3)
    x = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype("uint8")
    last = models.up_to_block(encoder, 2)
    normed = encoder.get_layer("transformer").get_layer("norm")(models.predict(last, x))
    np.testing.assert_allclose(normed, models.predict(encoder, x), atol=1e-5)
    first = models.predict(models.up_to_block(encoder, 1), x)
    assert np.abs(first - models.predict(last, x)).max() > 1e-3


def test_a_patch_decoder_puts_pixels_where_their_patch_is():
    decoder = models.patch_decoder((2, 2, 4), 4, 1, patch=3, channels=1, heads=1)
    network = decoder.get_layer("pixels")
    network.kernel.assign(np.zeros((4, 9)))
    network.bias.assign(np.arange(9.0))
    image = models.predict(decoder, np.zeros((1, 2, 2, 4)))[0, :, :, 0]
    np.testing.assert_array_equal(image, np.tile(np.arange(9).reshape(3, 3), (2, 2)))


@pytest.mark.parametrize("channels", [1, 3])
def test_strong_augmentation_repeats_with_its_seed_and_rests_outside_training(channels):
    x = images(8, channels).astype("float32")
    first, second = (
        np.array(layers.strong_augmentation(channels, seed=3)(x, training=True))
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, x)
    assert first.min() >= 0 and first.max() <= 255
    still = layers.strong_augmentation(channels, seed=3)(x, training=False)
    np.testing.assert_array_equal(still, x)


def test_strong_augmentation_takes_the_colour_from_half_of_the_images():
    x = images(400).astype("float32")
    seen = np.array(layers.strong_augmentation(3, seed=0)(x, training=True))
    grey = np.ptp(seen, axis=-1).max(axis=(1, 2)) < 0.1
    assert 0.45 < grey.mean() < 0.6


def test_a_mask_hides_the_fraction_asked_of_the_patches_and_rests_outside_training():
    x = images(3).astype("float32") * 0 + 9
    mask = layers.RandomMask(patch=8, fraction=0.25, seed=1)
    seen = np.array(mask(x, training=True))
    assert set(np.unique(seen)) == {9.0, 127.5}
    patches = seen.reshape(3, 4, 8, 4, 8, 3).transpose(0, 1, 3, 2, 4, 5)
    hidden = patches.reshape(3, 16, -1) == 127.5
    np.testing.assert_array_equal(hidden.all(-1), hidden.any(-1))
    np.testing.assert_array_equal(hidden.all(-1).sum(1), [4, 4, 4])
    assert not np.array_equal(hidden[0], hidden[1])
    np.testing.assert_array_equal(mask(x, training=False), x)


def test_patches_are_normalised_one_by_one():
    x = images(2).astype("float32") / 255
    x[0, :8, :8] = 0.5
    found = np.array(layers.PatchNormalization(8, floor=1e-4)(x))
    patches = found.reshape(2, 4, 8, 4, 8, 3)
    np.testing.assert_allclose(patches.mean((2, 4)), 0, atol=1e-4)
    flat, others = patches[0, 0, :, 0], patches[1]
    np.testing.assert_allclose(flat, 0, atol=1e-3)
    np.testing.assert_allclose(others.std((1, 3)), 1, atol=1e-2)


@pytest.mark.parametrize(
    "corrupt",
    [layers.pixel_noise(0.2, seed=0), layers.RandomMask(4, 0.5, seed=0)],
    ids=["noise", "mask"],
)
def test_a_denoiser_sees_something_else_than_it_must_restore(corrupt):
    encoder = models.conv_encoder((32, 32, 3), (4, 8, 8))
    decoder = models.conv_decoder(encoder.output_shape[1:], (8, 4))
    model = objectives.Autoencoder(encoder, decoder, corrupt)
    x = images(4)
    seen = np.array(corrupt(x.astype("float32"), training=True))
    assert np.abs(seen - x).mean() > 5
    restored = model(x)
    loss = float(model.compute_loss(x=x, y_pred=restored))
    expected = np.square(x / 255 - np.array(restored)).mean()
    assert loss == pytest.approx(expected, rel=1e-5), "the target is the clean image"
    plain = objectives.Autoencoder(encoder, decoder)
    np.testing.assert_allclose(restored, plain(x), atol=1e-6)  # nothing hidden in use


def test_a_narrow_code_and_pooled_features_have_the_shapes_they_say():
    encoder = models.residual_encoder((32, 32, 3), (4, 8, 12, 16))
    narrow = models.with_code(encoder, 2)
    assert narrow.output_shape == (None, 4, 4, 2)
    pooled = models.pooled_features(narrow, "stage3", 2)
    assert pooled.output_shape == (None, 2, 2, 12)
    x = images(2)
    whole = np.array(models.truncate(narrow, "stage3")(x))
    means = whole.reshape(2, 2, 4, 2, 4, 12).mean((2, 4))
    np.testing.assert_allclose(pooled(x), means, rtol=1e-4, atol=1e-5)


def test_shapes_of_the_dense_pair():
    encoder = models.dense_encoder((32, 32, 1), 7, hidden=(20,))
    decoder = models.dense_decoder((32, 32, 1), 7, hidden=(20,))
    assert encoder.output_shape == (None, 7)
    assert decoder.output_shape == (None, 32, 32, 1)
    assert encoder.count_params() == 1024 * 20 + 20 + 20 * 7 + 7


def test_a_dense_pair_without_hidden_layers_is_affine():
    encoder = models.dense_encoder((32, 32, 1), 5)
    x = images(3, 1).astype("float32")
    x[2] = (x[0] + x[1]) / 2
    code = encoder.predict(x, verbose=0)
    np.testing.assert_allclose(code[2], (code[0] + code[1]) / 2, atol=1e-5)


@pytest.mark.parametrize("head", [models.linear_head, models.pooled_head])
def test_a_classifier_shares_its_encoder(head):
    encoder = models.conv_encoder()
    classifier = models.classifier(encoder, head((4, 4, 128), 10))
    assert classifier.output_shape == (None, 10)
    ours = {id(w) for w in encoder.weights}
    assert ours < {id(w) for w in classifier.weights}


def test_truncate_shares_weights_and_names_the_layers():
    encoder = models.conv_encoder()
    part = models.truncate(encoder, "relu2")
    assert part.output_shape == (None, 8, 8, 64)
    assert part.get_layer("conv1").kernel is encoder.get_layer("conv1").kernel
    with pytest.raises(ValueError, match=r"'relu9' is no layer.*relu1"):
        models.truncate(encoder, "relu9")


def test_augmentation_acts_only_in_training():
    layer = layers.RandomCropFlip(4, seed=0)
    x = images(8).astype("float32")
    np.testing.assert_array_equal(layer(x, training=False), x)
    changed = np.array(layer(x, training=True))
    assert changed.shape == x.shape
    assert not np.array_equal(changed, x)
    assert not np.array_equal(np.array(layer(x, training=True)), changed)


def test_every_augmented_image_is_a_shift_or_a_mirrored_shift():
    layer = layers.RandomCropFlip(1, seed=0)
    x = np.random.default_rng(0).random((64, 6, 6, 2), "float32")
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    seen = set()
    for image, result in zip(padded, np.array(layer(x, training=True)), strict=True):
        matches = [
            (row, column, flip)
            for row in range(3)
            for column in range(3)
            for flip in (1, -1)
            if np.array_equal(image[row : row + 6, column : column + 6][:, ::flip],
                              result)
        ]  # fmt: skip
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 12, "of 18 possible draws, 64 images show most"


@pytest.mark.parametrize("training", [True, False])
def test_our_batch_norm_is_that_of_keras(training):
    ours, theirs = layers.BatchNormalization(), keras.layers.BatchNormalization()
    theirs.momentum = ours.momentum
    x = np.random.default_rng(0).normal(3, 2, (8, 5, 5, 4)).astype("float32")
    for layer in ours, theirs:
        layer.build(x.shape)
        layer.set_weights([np.full(4, v, "float32") for v in (2.0, 1.0, 0.5, 3.0)])
    np.testing.assert_allclose(
        ours(x, training=training), theirs(x, training=training), rtol=1e-4, atol=1e-5
    )
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_frozen_batch_norm_of_ours_keeps_its_statistics():
    layer = layers.BatchNormalization()
    layer.build((8, 5, 5, 4))
    layer.trainable = False
    x = np.ones((8, 5, 5, 4), "float32")
    np.testing.assert_allclose(layer(x, training=True), x / np.sqrt(1.001), rtol=1e-4)
    assert all(set(np.unique(w)) <= {0.0, 1.0} for w in layer.get_weights())


def test_predict_gives_the_numbers_of_keras():
    encoder, x = models.conv_encoder(filters=(4, 8)), images(11)
    np.testing.assert_allclose(
        models.predict(encoder, x, batch_size=4), encoder.predict(x, verbose=0), 1e-4
    )


def test_the_loss_is_the_mean_squared_error_of_scaled_images():
    encoder = models.conv_encoder()
    model = objectives.Autoencoder(encoder, models.conv_decoder())
    model.compile("sgd")
    x = images(16)
    restored = model.predict(x, verbose=0)
    by_hand = np.mean((x / 255 - restored) ** 2)
    assert model.evaluate(x, verbose=0) == pytest.approx(by_hand, rel=1e-4)
    assert objectives.reconstruction_error(model, x) == pytest.approx(by_hand, rel=1e-4)


def test_encoder_and_decoder_must_fit_together():
    encoder, decoder = models.conv_encoder(), models.conv_decoder(channels=1)
    with pytest.raises(ValueError, match=r"\(32, 32, 1\).*\(32, 32, 3\)"):
        objectives.Autoencoder(encoder, decoder)


def test_pretraining_lowers_the_error_and_repeats_bit_for_bit(monkeypatch, tmp_path):
    x = np.repeat(images(1), 64, axis=0)

    def run(cache):
        monkeypatch.setenv("PRETRAIN_CACHE", str(tmp_path / cache))
        keras.utils.set_random_seed(5)
        encoder = models.conv_encoder(filters=(4, 8))
        decoder = models.conv_decoder((8, 8, 8), (4,))
        model = objectives.Autoencoder(encoder, decoder)
        before = objectives.reconstruction_error(model, x)
        objectives.pretrain(model, x, epochs=3, batch_size=16, learning_rate=1e-2)
        assert objectives.reconstruction_error(model, x) < before
        return model.get_weights()

    once, twice = run("a"), run("b")
    from_cache = run("b")
    for first, second, third in zip(once, twice, from_cache, strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, third)
