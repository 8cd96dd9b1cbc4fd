import os

import keras
import numpy as np
import pytest

from pretrain import cache, layers, models, objectives


def model(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])


def trainer(network, value, runs):
    def train():
        runs.append(value)
        network.set_weights([np.full_like(w, value) for w in network.get_weights()])
        return {"loss": [value]}

    return train


def test_trained_once_and_then_loaded():
    runs = []
    first = model()
    history = cache.train_once(first, trainer(first, 7.0, runs), method="m", seed=0)
    second = model(1)
    again = cache.train_once(second, trainer(second, 8.0, runs), method="m", seed=0)
    assert runs == [7.0]
    assert history == again == {"loss": [7.0]}
    np.testing.assert_array_equal(first.get_weights()[0], second.get_weights()[0])


def test_every_part_of_the_key_counts():
    key = {"method": "m", "images": "abc", "epochs": 3, "seed": 0}
    known = cache.key_hash(**key)
    assert known == cache.key_hash(**dict(reversed(key.items())))
    for change in ({"images": "abd"}, {"epochs": 4}, {"seed": 1}, {"method": "n"}):
        assert cache.key_hash(**{**key, **change}) != known


@pytest.mark.parametrize("library", ["keras", "engine"])
def test_other_versions_of_what_computes_have_keys_of_their_own(monkeypatch, library):
    known = cache.key_hash(method="m")
    if library == "keras":
        monkeypatch.setattr(cache.keras, "version", lambda: "9.9")
    else:
        monkeypatch.setattr(cache.metadata, "version", lambda name: "9.9")
    assert cache.key_hash(method="m") != known


def test_the_code_that_trains_counts(monkeypatch):
    hashed, key = [], {}
    monkeypatch.setattr(cache, "code_hash", lambda *things: hashed.extend(things))
    monkeypatch.setattr(cache, "train_once", lambda *_, **found: key.update(found))
    model = objectives.conv_autoencoder((32, 32, 1))
    objectives.pretrain(model, np.zeros((2, 32, 32, 1), "uint8"), epochs=1)
    assert "code" in key
    assert set(hashed) == {
        objectives.pretrain,
        objectives.Autoencoder,
        layers.BatchNormalization,
    }


def test_the_code_of_layers_deep_inside_counts(monkeypatch):
    hashed = []
    monkeypatch.setattr(cache, "code_hash", lambda *things: hashed.extend(things))
    monkeypatch.setattr(cache, "train_once", lambda *_, **key: None)
    inner = keras.Sequential([keras.Input((32, 32, 1)), layers.RandomCropFlip()])
    outer = keras.Sequential([keras.Input((32, 32, 1)), inner])
    encoder = keras.Sequential([keras.Input((32, 32, 1)), outer])
    decoder = keras.Sequential([keras.Input((32, 32, 1)), keras.layers.Rescaling(1)])
    model = objectives.Autoencoder(encoder, decoder)
    objectives.pretrain(model, np.zeros((2, 32, 32, 1), "uint8"), epochs=1)
    assert layers.RandomCropFlip in hashed


def test_the_seed_of_an_augmentation_is_in_the_key(monkeypatch):
    found = []
    monkeypatch.setattr(cache, "train_once", lambda *_, **key: found.append(key))
    for seed in (0, 0, 1):
        keras.utils.clear_session()  # layers are numbered from the start
        keras.utils.set_random_seed(0)
        model = objectives.RotationPredictor(
            models.conv_encoder((32, 32, 1)), layers.RandomCropFlip(seed=seed)
        )
        objectives.pretrain(model, np.zeros((2, 32, 32, 1), "uint8"), epochs=1)
    first, same, other = found
    assert first == same
    assert first["weights"] != other["weights"]


def test_a_torn_file_is_named_and_trained_again(capsys):
    runs = []
    network = model()
    cache.train_once(network, trainer(network, 7.0, runs), method="m")
    (weights,) = cache.folder().glob("*.weights.h5")
    weights.write_bytes(weights.read_bytes()[:200])
    cache.train_once(network, trainer(network, 8.0, runs), method="m")
    assert runs == [7.0, 8.0]
    assert f"{weights.name} is damaged" in capsys.readouterr().out
    fresh = model(1)
    cache.train_once(fresh, trainer(fresh, 9.0, runs), method="m")
    assert runs == [7.0, 8.0]
    assert (fresh.get_weights()[0] == 8.0).all()


@pytest.mark.parametrize("content", [None, "torn"])
def test_weights_without_their_history_are_trained_again_from_the_start(content):
    network = model()
    cache.train_once(network, trainer(network, 7.0, []), method="m")
    (history,) = cache.folder().glob("*.json")
    history.unlink()
    if content:
        history.write_text(content)
    fresh = model(1)
    before = fresh.get_weights()
    begun_with = []

    def train():
        begun_with.extend(fresh.get_weights())
        return {"loss": [0.0]}

    cache.train_once(fresh, train, method="m")
    assert all(map(np.array_equal, begun_with, before))
    assert len(begun_with) == len(before)


def test_an_interrupted_training_leaves_nothing_behind():
    network = model()

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.train_once(network, interrupted, method="m")
    assert list(cache.folder().iterdir()) == []


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "result.json"
    target.write_text("old")

    def half(path):
        path.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cache.write_whole(target, half)
    assert os.listdir(tmp_path) == ["result.json"]
    assert target.read_text(encoding="utf-8") == "old"


def test_an_array_is_computed_once(capsys):
    made = []

    def compute():
        made.append(1)
        return np.arange(6.0).reshape(2, 3)

    for _ in range(2):
        array = cache.compute_once(compute, method="features", images="abc")
        np.testing.assert_array_equal(array, np.arange(6.0).reshape(2, 3))
    assert made == [1]
    cache.compute_once(compute, method="features", images="abd")
    assert made == [1, 1]
    for path in cache.folder().glob("features-*.npy"):
        path.write_bytes(b"torn")
    cache.compute_once(compute, method="features", images="abc")
    assert made == [1, 1, 1]
    assert "is damaged" in capsys.readouterr().out
