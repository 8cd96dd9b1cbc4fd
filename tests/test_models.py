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
