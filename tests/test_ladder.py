from dataclasses import replace

import numpy as np
import pytest

from pretrain import ladder, study
from pretrain.methods import METHODS, Task

NAMES = [name for name in METHODS if METHODS[name].fit.__module__ == ladder.__name__]
rng = np.random.default_rng(0)


def stripes(n):
    """Return images of stripes, upright or lying, at any place: two classes."""
    y = np.arange(n) % 2
    wave = np.sin(np.arange(16) * np.pi / 2 + rng.uniform(0, 6, (n, 1)))
    flat = np.broadcast_to(wave[:, None, :], (n, 16, 16))
    x = np.where(y[:, None, None] == 1, flat, flat.transpose(0, 2, 1))
    x = 128 + 60 * x[..., None] + rng.normal(0, 10, (n, 16, 16, 1))
    return x.clip(0, 255).astype("uint8"), y


@pytest.fixture
def task(monkeypatch, tmp_path):
    monkeypatch.setenv("PRETRAIN_CACHE", str(tmp_path))
    x, y = stripes(64)
    x_val, y_val = stripes(64)
    return Task(
        x,
        y,
        x_val,
        y_val,
        unlabelled=x,
        classes=2,
        steps=4,
        augment="light",
        pretrain_epochs=1,
        width=0.25,
        seed=0,
    )


def test_patches_are_standardised_but_for_flat_ones():
    rows = rng.integers(0, 255, (5, 3, 6, 6))
    rows[0] = 200
    found = ladder.standardised(rows)
    assert found.shape == (5, 108)
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(found[1:].std(axis=1), 1, atol=1e-2)
    np.testing.assert_allclose(found[0], 0, atol=1e-5)


def test_a_patch_activates_the_nearer_centroids_by_how_much_they_are_nearer():
    x, _ = stripes(3)
    dictionary = ladder.learn_patches(x, centroids=7)
    features = dictionary.features(x, cells=2).reshape(3, 2, 2, 7)
    patch = x[1, 10:16, 10:16, 0]  # the last one
    row = (ladder.standardised(patch[None]) - dictionary.mean) @ dictionary.whiten
    distances = np.linalg.norm(row - dictionary.centroids, axis=1)
    expected = np.maximum(distances.mean() - distances, 0)
    one_cell = dictionary.features(x[1:2, 10:16, 10:16], cells=1)
    np.testing.assert_allclose(one_cell[0], expected, atol=1e-4)
    assert features.min() >= 0
    # A cell is the mean over its patches: the first has rows and columns 0 to 5.
    corner = dictionary.features(x[:, :11, :11], cells=1)
    np.testing.assert_allclose(features[:, 0, 0], corner, atol=1e-4)


def test_whitened_patches_are_uncorrelated_and_equally_long():
    x = rng.normal(128, 40, (200, 12, 12, 1)).clip(0, 255).astype("uint8")
    dictionary = ladder.learn_patches(x, centroids=3)
    places = ladder.patches_of(x)
    rows = ladder.standardised(places.reshape(-1, *places.shape[3:]))
    white = (rows - dictionary.mean) @ dictionary.whiten
    covariance = np.cov(white, rowvar=False)
    # Up to 0.1 that is added, and to the mean of a patch, which is always zero.
    expected = (np.eye(36) - 1 / 36) / 1.1
    np.testing.assert_allclose(covariance, expected, atol=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_each_method_learns_from_a_few_labels_and_repeats_itself(name, task):
    chosen = METHODS[name]
    assert len(chosen.grid) == 4, "the tuning budget of all methods"
    said = [chosen.fit(task, **chosen.grid[0]).predict(task.x_val) for _ in range(2)]
    np.testing.assert_array_equal(*said)
    assert said[0].shape == task.y_val.shape


def test_patches_tell_upright_stripes_from_lying_ones(task):
    fitted = ladder.k_means_frozen(task, centroids=20, cells=1)
    assert np.mean(fitted.predict(task.x_val) == task.y_val) > 0.9


def test_pseudo_labels_are_the_surest_answers_equally_many_of_each_class():
    logits = np.array(
        [[9, 0, 0], [5, 4, 0], [0, 3, 0], [7, 6.9, 0], [0, 8, 0], [0, 0, 1]]
    )
    rows, named = ladder.most_sure(logits, share=1)
    assert rows.tolist() == [0, 1, 4, 2, 5]  # two of each, of the last there is one
    assert named.tolist() == [0, 0, 1, 1, 2]
    # What counts is the distance to the other classes, not the height.
    rows, _ = ladder.most_sure(logits + 100 * np.arange(6)[:, None], share=0.5)
    assert rows.tolist() == [0, 4, 5]


def test_labelled_images_stay_and_are_a_quarter_of_all(task):
    task = replace(task, x=task.x[:4], y=task.y[:4])
    logits = np.stack([np.arange(64), 63 - np.arange(64)], axis=1) / 10
    known = ladder.with_pseudo_labels(task, logits, share=0.75)
    assert len(known.x) == len(known.y) == 4 * 4 + 48
    np.testing.assert_array_equal(known.x[:4], task.x)
    np.testing.assert_array_equal(known.y[:16], np.tile(task.y, 4))
    assert known.y[16:].tolist() == [0] * 24 + [1] * 24
    np.testing.assert_array_equal(known.x[16], task.unlabelled[63])


def test_all_methods_of_the_ladder_are_in_the_study():
    for size in study.STUDIES["label_efficiency_cifar10"].sizes[:-1]:
        assert set(NAMES) <= set(size.methods)
