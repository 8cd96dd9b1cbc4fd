import keras
import numpy as np
import pytest

from pretrain import feed, layers, models, transfer


@pytest.fixture(scope="module")
def task():
    """Bright against dark images, with noise: learnable in a few steps."""
    rng = np.random.default_rng(0)
    y = np.arange(64) % 2
    x = 60 + 130 * y[:, None, None, None] + rng.normal(0, 20, (64, 32, 32, 3))
    return x.clip(0, 255).astype("uint8"), y.astype("int32")


def small_classifier(augment=None):
    keras.utils.set_random_seed(0)
    encoder = models.conv_encoder(filters=(4, 8))
    head = models.linear_head(encoder.output_shape[1:], 2)
    return encoder, head, models.classifier(encoder, head, augment)


def tune(classifier, task, **kwargs):
    settings = {"steps": 12, "learning_rate": 1e-2, "batch_size": 16, **kwargs}
    return transfer.fine_tune(classifier, *task, **settings)


def test_a_frozen_encoder_does_not_move_and_the_head_does(task):
    encoder, head, classifier = small_classifier()
    encoder.trainable = False
    before, head_before = encoder.get_weights(), head.get_weights()
    tune(classifier, task)
    for old, new in zip(before, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(head_before[0], head.get_weights()[0])


def test_fine_tuning_moves_every_layer_and_learns(task):
    encoder, _, classifier = small_classifier(layers.RandomCropFlip(2))
    before = encoder.get_weights()
    tune(classifier, task, steps=40)
    for old, new in zip(before, encoder.get_weights(), strict=True):
        assert not np.array_equal(old, new)
    assert transfer.accuracy(classifier, *task) > 0.9


def test_frozen_normalisation_keeps_its_statistics_while_kernels_move(task):
    encoder, _, classifier = small_classifier()
    transfer.freeze_normalisation(encoder)
    norm, conv = encoder.get_layer("norm1"), encoder.get_layer("conv1")
    before, kernel = norm.get_weights(), conv.get_weights()[0]
    tune(classifier, task)
    for old, new in zip(before, norm.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(kernel, conv.get_weights()[0])


def test_settled_normalisation_knows_the_images_and_no_weight_moves(task):
    encoder, _, _ = small_classifier()
    before = encoder.get_weights()
    transfer.settle_normalisation(encoder, task[0])
    for old, now in zip(before, encoder.weights, strict=True):
        same = np.array_equal(old, keras.ops.convert_to_numpy(now))
        assert same == (not now.name.startswith("moving")), now.path

    # What comes out of a settled norm has a mean of 0 and a variance of 1.
    norm = encoder.get_layer("norm2")
    normalised = models.predict(keras.Model(encoder.input, norm.output), task[0])
    np.testing.assert_allclose(normalised.mean((0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(normalised.var((0, 1, 2)), 1, atol=0.02)
    assert norm.momentum > 0  # training goes on as before


def test_the_same_seed_gives_the_same_network(task):
    def run():
        *_, classifier = small_classifier()
        tune(classifier, task, seed=3)
        return classifier.get_weights()

    for first, second in zip(run(), run(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_layerwise_rates(task):
    encoder = models.conv_encoder()
    rates = transfer.layerwise_rates(encoder, 0.5)
    assert rates["conv3"] == rates["norm3"] == 0.5
    assert rates["conv1"] == 0.125
    assert set(rates) == {f"{kind}{i}" for kind in ("conv", "norm") for i in (1, 2, 3)}


def test_the_schedule_has_the_values_of_keras():
    ours = transfer.WarmupCosine(0.01, 100, warmup=5)
    theirs = keras.optimizers.schedules.CosineDecay(
        0.0, 95, warmup_target=0.01, warmup_steps=5
    )
    for step in (0, 1, 4, 5, 6, 50, 99, 100, 120):
        assert float(ours(step)) == pytest.approx(float(theirs(step)), abs=1e-8)


def test_a_rate_of_zero_stops_a_layer_and_smaller_rates_slow_it(task):
    def movement(rates):
        encoder, _, classifier = small_classifier()
        before = encoder.get_layer("conv1").get_weights()[0]
        tune(classifier, task, rates=rates, weight_decay=0.0)
        return np.abs(encoder.get_layer("conv1").get_weights()[0] - before).mean()

    assert movement({"conv1": 0.0}) == 0
    assert 0 < movement({"conv1": 0.1}) < movement({"conv1": 1.0}) / 3


def test_images_and_labels_must_be_paired(task):
    *_, classifier = small_classifier()
    with pytest.raises(ValueError, match="64 images, but 3 labels"):
        transfer.fine_tune(
            classifier, task[0], task[1][:3], steps=1, learning_rate=1e-3
        )


def taken(**settings):
    x = np.arange(10)
    return [np.asarray(rows) for rows, _ in feed.batches(x, x, **settings)]


def test_batches_use_images_equally_often_and_differ_from_pass_to_pass():
    batches = taken(batch_size=4, steps=10, seed=0)
    assert [len(rows) for rows in batches] == [4] * 10
    order = np.concatenate(batches).reshape(4, 10)
    assert (np.sort(order) == np.arange(10)).all()
    assert not (order[0] == order[1]).all()
    np.testing.assert_array_equal(batches, taken(batch_size=4, steps=10, seed=0))
    assert not np.array_equal(batches, taken(batch_size=4, steps=10, seed=1))


def test_without_a_number_of_steps_a_pass_leaves_no_image_out():
    batches = taken(batch_size=4)
    assert [len(rows) for rows in batches] == [4, 4, 2]
    assert set(np.concatenate(batches)) == set(range(10))


def clusters(n, dimensions, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    centres = np.random.default_rng(99).normal(0, 1, (3, dimensions))
    return (centres[y] + rng.normal(0, 1.0, (n, dimensions))).astype("float32"), y


def test_a_probe_separates_clusters_and_chooses_on_validation_data():
    train, val = clusters(300, 12, 0), clusters(200, 12, 1)
    probe = transfer.linear_probe(*train, *val)
    assert probe.accuracy(*val) > 0.85
    best = max(
        transfer.STRENGTHS,
        key=lambda c: transfer.linear_probe(*train, *val, strengths=[c]).accuracy(*val),
    )
    assert probe.strength == best


def test_a_probe_without_an_image_of_some_class_is_refused():
    f, y = np.ones((4, 3), "float32"), np.array([0, 2, 2, 0])
    with pytest.raises(ValueError, match=r"y_train lacks \[1, 3\]"):
        transfer.linear_probe(f, y, f, np.array([0, 1, 2, 3]))


def test_with_few_rows_the_short_cut_gives_the_same_probe():
    train, val = clusters(30, 200, 0), clusters(200, 200, 1)
    fast = transfer.linear_probe(*train, *val, strengths=[0.01])
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train[0])
    slow = LogisticRegression(C=0.01, max_iter=1000, tol=1e-6)
    slow.fit(scaler.transform(train[0]), train[1])
    logits = val[0] @ fast.kernel + fast.bias
    expected = slow.decision_function(scaler.transform(val[0]))
    centred = expected - expected.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(
        logits - logits.mean(axis=1, keepdims=True), centred, atol=0.02
    )


def test_a_probe_becomes_the_head(task):
    encoder, head, classifier = small_classifier()
    rows = transfer.features(encoder, task[0])
    assert rows.shape == (64, 8 * 8 * 8)
    rng = np.random.default_rng(0)
    probe = transfer.Probe(
        rng.normal(size=(rows.shape[1], 2)).astype("float32"),
        np.zeros(2, "float32"),
        1.0,
    )
    transfer.probe_to_head(probe, head)
    assert transfer.accuracy(classifier, *task) == pytest.approx(
        probe.accuracy(rows, task[1])
    )


@pytest.mark.parametrize("features", [5, 200])  # fewer and more than rows
def test_a_probe_tells_two_classes_apart(features):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    f = rng.normal(size=(60, features)).astype("float32")
    f += 1.5 * y[:, None]
    probe = transfer.linear_probe(f[:40], y[:40], f[40:], y[40:])
    assert probe.kernel.shape == (features, 2)
    assert probe.accuracy(f[40:], y[40:]) > 0.9
