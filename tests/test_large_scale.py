"""The network from ImageNet as methods of the study, on a handful of images."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from pretrain import cache, imagenet, large_scale, methods, study

QUICK = study.STUDIES["label_efficiency_quick"]


@pytest.fixture
def task():
    """A small task of grey images: two labels per class, twenty to validate on."""
    whole = study.task_of(QUICK, study.Size(2, 0, 32, (), ()), seed=1, steps=32)
    return replace(whole, x_val=whole.x_val[:20], y_val=whole.y_val[:20])


def test_grey_images_are_enlarged_and_get_three_equal_channels():
    x = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype("uint8")
    large = imagenet.enlarger((8, 8, 1), 32).predict_on_batch(x)
    assert large.shape == (2, 32, 32, 3)
    assert (large == large[..., :1]).all()
    assert large.min() >= x.min() and large.max() <= x.max()
    np.testing.assert_allclose(
        large[..., 0].reshape(2, 8, 4, 8, 4).mean((2, 4)).mean((1, 2)),
        x[..., 0].mean((1, 2)),
        rtol=0.05,
    )


def test_means_are_those_of_the_layers():
    network = imagenet.efficientnet_lite0(64)
    x = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    found = imagenet.spatial_means(network, large_scale.TAPS).predict_on_batch(x)
    assert found.shape == (2, sum(large_scale.CHANNELS))
    outputs = [network.get_layer(name).output for name in large_scale.TAPS]
    maps = keras.Model(network.input, outputs).predict_on_batch(x)
    assert tuple(m.shape[-1] for m in maps) == large_scale.CHANNELS
    by_hand = np.concatenate([m.mean((1, 2)) for m in maps], axis=1)
    np.testing.assert_allclose(found, by_hand, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("stage", [2, 6])
def test_frozen_is_what_lies_in_front_of_a_stage(stage):
    network = imagenet.efficientnet_lite0(32)
    imagenet.freeze_before(network, stage)
    for layer in network.layers:
        if layer.weights:
            late = tuple(f"stage{n}" for n in range(stage, 8))
            trains = layer.name.startswith((*late, "head"))
            assert layer.trainable == trains, layer.name


def test_features_do_not_change_in_the_mirror_and_are_computed_once(task):
    mirrored = np.ascontiguousarray(task.x_val[:, :, ::-1])
    found = large_scale.tap_features(task, task.x_val, 32)
    other = large_scale.tap_features(task, mirrored, 32)
    again = large_scale.tap_features(task, task.x_val, 32)
    assert len(list(cache.folder().glob("imagenet-*.npy"))) == 2
    for name, channels in zip(large_scale.TAPS, large_scale.CHANNELS, strict=True):
        assert found[name].shape == (20, channels)
        np.testing.assert_allclose(found[name], other[name], rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(found[name], again[name])


def test_settled_norms_are_those_of_the_images_and_no_weight_moves(task):
    kept, settled = (
        large_scale.new_network(task, 32, norms=norms) for norms in ("kept", "settled")
    )
    for before, after in zip(kept.weights, settled.weights, strict=True):
        moves = before.path.split("/")[-1] in ("moving_mean", "moving_variance")
        same = np.array_equal(np.array(before), np.array(after))
        assert same != moves, before.path


def test_a_probe_on_more_taps_has_more_features(task, monkeypatch):
    widths = []

    def represented(task, represent):
        widths.append(represent(task.x_val).shape[1])

    monkeypatch.setattr(large_scale, "probe", represented)
    for layers in (1, 3):
        methods.METHODS["ImageNet, frozen"].fit(task, side=32, layers=layers)
    assert widths == [1280, 192 + 320 + 1280]


def test_fine_tuning_moves_the_late_stages_alone(task, monkeypatch):
    made = []
    pretrained = imagenet.pretrained
    monkeypatch.setattr(
        imagenet, "pretrained", lambda side: made.append(pretrained(side)) or made[-1]
    )
    fit = methods.METHODS["ImageNet, LP-FT"].fit
    fitted = fit(task, side=32, stage=6, learning_rate=1e-3)
    assert fitted.predict(task.x_val).shape == (20,)
    before = pretrained(32)
    for old, new in zip(before.layers, made[0].layers, strict=True):
        for a, b in zip(old.get_weights(), new.get_weights(), strict=True):
            late = old.name.startswith(("stage6", "stage7", "head"))
            moves = late and not old.name.endswith("norm")
            assert np.array_equal(a, b) != moves, old.name


def test_long_fine_tuning_takes_four_times_the_steps(task, monkeypatch):
    steps = []
    monkeypatch.setattr(
        large_scale.transfer,
        "fine_tune",
        lambda *_, **settings: steps.append(settings["steps"]),
    )
    for name in ("ImageNet, LP-FT", "ImageNet, long LP-FT"):
        fit = methods.METHODS[name].fit
        fit(replace(task, steps=160), side=32, stage=6, learning_rate=1e-3)
    assert steps == [10, 40]


def test_four_settings_like_all_others():
    for name in ("ImageNet, frozen", "ImageNet, LP-FT", "ImageNet, long LP-FT"):
        assert len(methods.METHODS[name].grid) == 4
