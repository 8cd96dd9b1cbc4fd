"""What the chapters compare beside the ways to use labels."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from pretrain import data, experiments, flops, methods, models, study, transfer

QUICK = study.STUDIES["label_efficiency_quick"]


@pytest.fixture
def task():
    """A small task, of two labels per class."""
    return study.task_of(QUICK, study.Size(2, 0, 10, (), ()), seed=1, steps=10)


def spectrum(kernel):
    """Return the singular values of a kernel, taken as a matrix of its filters."""
    matrix = np.array(kernel).reshape(-1, kernel.shape[-1])
    return np.linalg.svd(matrix, compute_uv=False)


def test_a_permutation_moves_whole_pixels_and_is_the_same_for_all_images():
    x = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype("uint8")
    moved = experiments.permuted(x)
    assert not np.array_equal(moved, x)
    places = [
        [np.flatnonzero((x[i].reshape(-1, 3) == p).all(1)) for p in pixels]
        for i, pixels in enumerate(moved.reshape(3, -1, 3))
    ]
    for same_place in zip(*places, strict=True):
        assert set.intersection(*(set(found) for found in same_place))


@pytest.mark.parametrize("cost", [experiments.parameters, flops.forward])
def test_the_dense_rival_costs_as_much(task, cost):
    def whole(encoder):
        head = models.linear_head(encoder.output_shape[1:], task.classes)
        return cost(models.classifier(encoder, head))

    budget = whole(experiments.small_conv_encoder(task))
    dense = experiments.equal_dense_encoder(task, cost)
    units = dense.output_shape[-1]
    smaller = experiments.dense_encoder(task.x.shape[1:], units - 1)
    assert whole(smaller) < budget <= whole(dense)


@pytest.mark.parametrize("stages", [0, 2, 4])
def test_frozen_stages_are_those_nearest_to_the_image(task, stages, monkeypatch):
    trained = []
    monkeypatch.setattr(
        methods, "train", lambda task, encoder, head, **_: trained.append(encoder)
    )
    experiments.first_stages_frozen(task, "random", stages)
    kernels = [la for la in trained[0].layers if isinstance(la, keras.layers.Conv2D)]
    assert len(kernels) == 10
    for layer in kernels:
        assert layer.trainable == (transfer.stage_of(layer.name) > stages)


@pytest.mark.parametrize("shape", [(3, 3, 8, 16), (64, 16)])
def test_muon_moves_kernels_alike_in_all_directions(shape):
    rng = np.random.default_rng(0)
    u, _, v = np.linalg.svd(rng.normal(size=(np.prod(shape[:-1]), 16)), False)
    gradient = ((u * np.logspace(0, -2, 16)) @ v).reshape(shape).astype("float32")
    found = {}
    for name in ("SGD", "Muon"):
        kernel = keras.Variable(np.zeros(shape, "float32"))
        optimizer = experiments.new_optimizer(name, 0.01)
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [kernel])
        values = spectrum(kernel)
        found[name] = values[0] / values[-1]
    assert found["SGD"] == pytest.approx(100, rel=0.01)
    assert found["Muon"] < 10


def test_keras_still_gives_kernels_of_convolutions_to_adamw():
    """If this fails, `experiments.Muon` and what 05c says of it can go."""
    kernel = keras.Variable(np.zeros((3, 3, 8, 16), "float32"))
    assert keras.optimizers.Muon()._should_use_adamw(kernel)
    assert not experiments.Muon()._should_use_adamw(kernel)


@pytest.mark.parametrize("name", experiments.OPTIMIZERS)
def test_an_optimizer_reports_each_ten_steps(name, task):
    model = experiments.small_conv_encoder(task)
    head = models.pooled_head(model.output_shape[1:], task.classes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    found = experiments.optimize(
        models.classifier(model, head),
        name,
        1e-3,
        task.x,
        task.y,
        steps=20,
        batch_size=4,
        seed=0,
        loss=loss,
    )
    assert list(found) == ["after 10", "after 20"]


def test_losses_after_a_divergence_are_missing(task):
    model = experiments.masked_autoencoder(experiments.small_conv_encoder(task), 1, 0)
    found = experiments.optimize(
        model, "SGD", 1e30, task.unlabelled, steps=30, batch_size=4, seed=0
    )
    assert len(found) < 3


def test_draws_of_unlabelled_images_are_nested():
    x = np.arange(1_000)
    few, many = (experiments.draw(x, n, seed=3) for n in (10, 100))
    assert set(few) <= set(many) <= set(x)
    assert len(set(many)) == 100


def test_crops_of_photographs_repeat_and_differ():
    first, again, other = (data.photo_crops(20, seed) for seed in (0, 0, 1))
    assert first.shape == (20, 32, 32, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert len(set(data.image_hashes(np.concatenate([first, other])))) == 40


@pytest.mark.parametrize("make", [data.dead_leaves, data.pink_noise, data.white_noise])
def test_drawn_images_repeat_and_differ(make):
    first, again, other = (make(50, seed) for seed in (0, 0, 1))
    assert first.shape == (50, 32, 32, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert len(set(data.image_hashes(np.concatenate([first, other])))) == 100


@pytest.mark.parametrize("kind", experiments.KINDS)
def test_as_many_images_of_each_kind(task, kind, monkeypatch):
    blank = np.zeros((6_000, 32, 32, 3), "uint8")
    monkeypatch.setattr(experiments, "fashion_in_colour", lambda: blank)
    for name in ("dead_leaves", "pink_noise", "white_noise"):
        monkeypatch.setattr(data, name, lambda n, seed: blank[:n])
    x = experiments.images_for(replace(task, unlabelled=blank), kind)
    assert x.shape == (5_000, 32, 32, 3)


def slope_of_spectrum(x):
    """Return by which power of the frequency the mean amplitude changes."""
    centred = x.mean(axis=-1) - x.mean()
    power = np.mean(np.abs(np.fft.fft2(centred)) ** 2, axis=0)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32)))
    inner = (f > 0.05) & (f < 0.4)
    return np.polyfit(np.log(f[inner]), np.log(power[inner]) / 2, 1)[0]


def test_pink_noise_falls_like_one_over_f_and_white_noise_does_not_fall():
    pink, white = data.pink_noise(500), data.white_noise(500)
    assert slope_of_spectrum(pink) == pytest.approx(-1, abs=0.1)
    assert slope_of_spectrum(white) == pytest.approx(0, abs=0.05)
    assert np.median(pink.std(axis=(1, 2, 3))) == pytest.approx(50, abs=3)
    channels = np.corrcoef(pink.reshape(-1, 3).T)
    assert channels[0, 1] == pytest.approx(0.8, abs=0.05)


def test_leaves_are_flat_with_sharp_edges_and_of_many_sizes():
    x = data.dead_leaves(200).astype(int)
    steps = np.abs(np.diff(x, axis=2)).max(axis=-1)
    flat = np.mean(steps == 0)
    assert 0.6 < flat < 0.95
    assert np.median(steps[steps > 0]) > 60
    colours = [len(np.unique(image.reshape(-1, 3), axis=0)) for image in x]
    assert min(colours) < 15 and max(colours) > 30


@pytest.mark.parametrize("kind", ["white noise", "nothing"])
def test_every_encoder_is_probed_with_the_statistics_of_the_study(
    task, kind, monkeypatch
):
    make, made = experiments.small_conv_encoder, []
    monkeypatch.setattr(
        experiments,
        "small_conv_encoder",
        lambda task: made.append(make(task)) or made[0],
    )
    monkeypatch.setattr(experiments, "images_for", lambda task, kind: task.unlabelled)
    found = experiments.what_it_was_pretrained_on(task, kind).found
    probed, again = made[0], make(task)
    again.set_weights(probed.get_weights())
    transfer.settle_normalisation(again, task.unlabelled, task.seed)
    for ours, theirs in zip(again.get_weights(), probed.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    moved = any(
        not np.array_equal(a.numpy(), b.numpy())
        for a, b in zip(
            probed.trainable_weights, make(task).trainable_weights, strict=True
        )
    )
    assert moved == (kind != "nothing")
    assert ("own_statistics" in found) == (kind != "nothing")
    assert 0 <= found["tenth"] <= 100


def test_the_error_of_a_masked_autoencoder_is_that_of_masked_images(task):
    class Copy(keras.Model):
        corrupt = staticmethod(lambda x, training: 0 * x + (0 if training else 1))

        def predict_on_batch(self, seen):
            return seen / 255 + 0.5

    x = np.full((6, 4, 4, 1), 255, "uint8")
    assert experiments.masked_error(Copy(), x) == pytest.approx(0.25)


@pytest.mark.parametrize("network", experiments.NETWORKS)
def test_a_budget_buys_as_many_steps_as_it_pays_for(network, task):
    encoder = experiments.new_network(task, network)
    step = flops.training(encoder, experiments.BATCH_SIZE)
    assert experiments.steps_for(100 * step, encoder) == 100
    assert experiments.steps_for(1, encoder) > 0
    decoded = experiments.masked_autoencoder(encoder, 1, 0)
    assert decoded.decoder.output_shape == encoder.input_shape


REGISTERED = [
    name
    for name, entry in methods.METHODS.items()
    if entry.fit.__module__ == experiments.__name__
]


@pytest.mark.parametrize("name", REGISTERED)
def test_every_method_fits_and_answers(name, task, monkeypatch):
    monkeypatch.setattr(experiments, "BUDGETS", (1e9, 1e9, 1e9))
    setting = dict(methods.METHODS[name].grid[-1])
    if "budget" in setting:
        setting["budget"] = 1e9
    if "source" in setting:
        setting |= {"source": "the same", "images": 64}
    fitted = methods.METHODS[name].fit(task, **setting)
    said = fitted.predict(task.x_val[:20])
    assert said.shape == (20,) and set(said) <= set(range(task.classes))
    assert all(np.isfinite(value) for value in fitted.found.values())
