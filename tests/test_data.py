import io
import shutil
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

from pretrain import data


def picture(shade, size=(32, 32), mode="RGB"):
    """Return a PNG in grey or in colour, as bytes; `shade` makes it different."""
    grey = (np.arange(size[0] * size[1]).reshape(size[1], size[0]) + shade) % 256
    pixels = grey if mode == "L" else np.stack([grey, grey // 2, 255 - grey], axis=-1)
    image = Image.fromarray(pixels.astype("uint8"))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_folder(path, parts=("train", "test"), per_class=5, **kwargs):
    """Write an image folder with classes cat and dog; every image is different."""
    shade = 0
    for part in parts:
        for name in ("cat", "dog"):
            folder = path / part / name
            folder.mkdir(parents=True)
            for i in range(per_class):
                (folder / f"{i}.png").write_bytes(picture(shade, **kwargs))
                shade += 1
    return path


def zip_of(folder, start=""):
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.write(path, start / path.relative_to(folder))
    return archive


@pytest.fixture(scope="module")
def fashion():
    return data.load("fashion")


def test_the_embedded_images(fashion):
    assert fashion.x_train.shape == (12_000, 32, 32, 1)
    assert fashion.x_test.shape == (2_000, 32, 32, 1)
    assert fashion.x_train.dtype == np.uint8
    assert (np.bincount(fashion.y_train) == 1_200).all()
    assert (np.bincount(fashion.y_test) == 200).all()
    border = np.ones((32, 32), bool)
    border[2:-2, 2:-2] = False
    assert (fashion.x_train[:, border] == 0).all()
    assert data.EMBEDDED.stat().st_size <= 8e6


def test_a_damaged_embedded_file_is_named(tmp_path, monkeypatch):
    damaged = tmp_path / "fashion.npz"
    damaged.write_bytes(data.EMBEDDED.read_bytes()[:-1])
    monkeypatch.setattr(data, "EMBEDDED", damaged)
    with pytest.raises(ValueError, match=r"fashion\.npz.*damaged"):
        data.load("fashion")


def test_the_three_parts_share_no_image(fashion):
    x_train, _, x_val, _ = data.split(fashion)
    train, val, test = (
        set(data.image_hashes(x)) for x in (x_train, x_val, fashion.x_test)
    )
    assert not train & val
    assert not train & test
    assert not val & test


def test_split_is_stratified_and_repeats(fashion):
    x_train, y_train, x_val, y_val = data.split(fashion, validation=0.1, seed=3)
    assert (np.bincount(y_val) == 120).all()
    assert len(x_train) == len(y_train) == 10_800
    np.testing.assert_array_equal(x_val, data.split(fashion, 0.1, seed=3)[2])
    assert not np.array_equal(x_val, data.split(fashion, 0.1, seed=4)[2])
    with pytest.raises(ValueError, match="fraction"):
        data.split(fashion, validation=1.5)


def test_copies_of_an_image_stay_out_of_the_other_parts(tmp_path):
    folder = write_folder(tmp_path / "pets", per_class=10)
    for i in range(10):  # every training cat has a twin, one is also a test image
        content = (folder / f"train/cat/{i}.png").read_bytes()
        (folder / f"train/cat/copy{i}.png").write_bytes(content)
    (folder / "test/cat/leak.png").write_bytes(content)
    dataset = data.load(str(folder))
    assert len(dataset.x_train) == 28, "both copies of the leaked image are left out"
    x_train, _, x_val, _ = data.split(dataset, validation=0.3)
    assert not set(data.image_hashes(x_train)) & set(data.image_hashes(x_val))


def test_label_subsets_are_stratified_and_nested():
    y = np.random.default_rng(0).integers(0, 5, 1_000)
    few, more = (data.label_subset(y, n, seed=7) for n in (10, 25))
    assert set(few) < set(more)
    assert (np.bincount(y[more]) == 25).all()
    assert set(few) != set(data.label_subset(y, 10, seed=8))
    for impossible in (0, 1_000):
        with pytest.raises(ValueError, match="smallest class"):
            data.label_subset(y, impossible, seed=0)


@pytest.mark.parametrize("pack", [lambda folder: folder, zip_of], ids=["folder", "zip"])
def test_an_image_folder(tmp_path, pack):
    path = pack(write_folder(tmp_path / "pets"))
    dataset = data.load(str(path))
    assert dataset.name == "pets"
    assert dataset.class_names == ("cat", "dog")
    assert dataset.x_train.shape == (10, 32, 32, 3)
    assert dataset.x_test.shape == (10, 32, 32, 3)
    assert str(tmp_path) not in dataset.source
    again = data.load(str(path))  # now from the cache
    np.testing.assert_array_equal(dataset.x_train, again.x_train)
    assert dataset.sha256 == again.sha256


def test_folders_around_all_others_do_not_matter(tmp_path):
    folder = write_folder(tmp_path / "pets")
    plain = data.load(str(folder))
    for path in (zip_of(folder, start="my/pets"), tmp_path):
        dataset = data.load(str(path))
        assert dataset.class_names == ("cat", "dog")
        np.testing.assert_array_equal(dataset.x_train, plain.x_train)
        np.testing.assert_array_equal(dataset.x_test, plain.x_test)
        folder.with_suffix(".zip").unlink(missing_ok=True)


@pytest.mark.parametrize("parts", [("train", "val"), ("train",)])
def test_an_unknown_layout_is_refused(tmp_path, parts):
    folder = write_folder(tmp_path / "pets", parts=parts)
    with pytest.raises(ValueError, match=r"train/cat/0\.png outside of class folders"):
        data.load(str(folder))


def test_an_image_outside_of_class_folders_is_named(tmp_path):
    folder = write_folder(tmp_path / "pets")
    (folder / "train/cat/more").mkdir()
    (folder / "train/cat/more/lost.png").write_bytes(picture(3))
    with pytest.raises(ValueError, match=r"cat/more/lost\.png outside of class"):
        data.load(str(folder))


def test_the_images_of_a_folder_are_mixed_once_with_their_labels(tmp_path):
    folder = write_folder(tmp_path / "pets", per_class=12)
    dataset = data.load(str(folder))
    assert set(dataset.y_train[:8]) == {0, 1}
    np.testing.assert_array_equal(dataset.y_train, data.load(str(folder)).y_train)
    cats = {data.image_hashes(dataset.x_train[[i]])[0] for i in range(24)
            if dataset.y_train[i] == 0}  # fmt: skip
    shutil.rmtree(folder / "train/dog")
    shutil.rmtree(folder / "test/dog")
    assert cats == set(data.image_hashes(data.load(str(folder)).x_train))


def test_a_changed_folder_is_read_anew(tmp_path):
    folder = write_folder(tmp_path / "pets")
    before = data.load(str(folder))
    (folder / "train/cat/new.png").write_bytes(picture(200))
    after = data.load(str(folder))
    assert len(after.x_train) == len(before.x_train) + 1
    assert after.sha256 != before.sha256


def test_pretrain_cifar10_names_a_copy(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "copy")
    monkeypatch.setenv("PRETRAIN_CIFAR10", str(folder))
    dataset = data.load("cifar10")
    assert dataset.name == "cifar10"
    assert "copy" in dataset.source
    monkeypatch.setenv("PRETRAIN_CIFAR10", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="nowhere is not there"):
        data.load("cifar10")


def test_a_folder_without_a_split_is_split_the_same_way_each_time(tmp_path):
    folder = write_folder(tmp_path / "pets", parts=("",), per_class=10)
    dataset = data.load(str(folder))
    assert (np.bincount(dataset.y_test) == 2).all()
    assert (np.bincount(dataset.y_train) == 8).all()
    np.testing.assert_array_equal(dataset.x_test, data.load(str(folder)).x_test)


def test_a_class_of_one_image_cannot_be_split(tmp_path):
    folder = write_folder(tmp_path / "pets", parts=("",), per_class=1)
    with pytest.raises(ValueError, match=r"'cat' has a single image"):
        data.load(str(folder))


def test_any_size_becomes_32_by_32(tmp_path):
    dataset = data.load(str(write_folder(tmp_path / "wide", size=(80, 45))))
    assert dataset.input_shape == (32, 32, 3)


def test_grey_images_have_one_channel_unless_some_have_colour(tmp_path):
    grey = write_folder(tmp_path / "grey", mode="L")
    assert data.load(str(grey)).input_shape == (32, 32, 1)
    (grey / "train/cat/colour.png").write_bytes(picture(99))
    assert data.load(str(grey)).input_shape == (32, 32, 3)


def test_an_unreadable_image_is_named(tmp_path):
    folder = write_folder(tmp_path / "pets")
    (folder / "train/dog/torn.png").write_bytes(picture(9)[:60])
    with pytest.raises(ValueError, match=r"train/dog/torn\.png is no readable image"):
        data.load(str(folder))


def test_an_empty_class_is_named(tmp_path):
    folder = write_folder(tmp_path / "pets")
    (folder / "train" / "eel").mkdir()
    with pytest.raises(ValueError, match="train/eel/ holds no"):
        data.load(str(folder))
    (tmp_path / "void").mkdir()
    with pytest.raises(ValueError, match="no class folders"):
        data.load(str(tmp_path / "void"))


def test_a_zip_that_points_outside_is_refused(tmp_path):
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("train/cat/../../../../outside.png", picture(0))
    with pytest.raises(ValueError, match="outside the archive"):
        data.load(str(archive))


def test_a_truncated_zip_is_named(tmp_path):
    archive = zip_of(write_folder(tmp_path / "pets"))
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"pets\.zip is no readable zip"):
        data.load(str(archive))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="'fashion', 'fashion-full', 'cifar10'"):
        data.load("imagenet")


def arrays_as_keras_gives_them(seed=0):
    rng = np.random.default_rng(seed)
    part = [
        (
            rng.integers(0, 256, (n, 32, 32, 3)).astype("uint8"),
            rng.integers(0, 10, (n, 1)).astype("uint8"),
        )
        for n in (20, 10)
    ]
    return tuple(part)


def test_without_a_network_both_ways_out_are_named(tmp_path, monkeypatch):
    def download():
        raise Exception("URL fetch failure")

    monkeypatch.delenv("PRETRAIN_CIFAR10", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", download)
    with pytest.raises(ConnectionError, match=r"PROFILE=quick.*PRETRAIN_CIFAR10"):
        data.load("cifar10")


def test_a_damaged_download_is_named_and_fetched_again(tmp_path, monkeypatch, capsys):
    stored = tmp_path / "datasets" / "cifar-10-batches-py-target"
    stored.mkdir(parents=True)
    (stored / "data_batch_1").write_bytes(b"torn")

    def download():
        if stored.exists():
            raise EOFError("Ran out of input")
        return arrays_as_keras_gives_them()

    monkeypatch.delenv("PRETRAIN_CIFAR10", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", download)
    assert data.load("cifar10").x_train.shape == (20, 32, 32, 3)
    assert "cifar-10-batches-py-target" in capsys.readouterr().out


def test_a_lost_connection_costs_no_file_that_is_there(tmp_path, monkeypatch):
    stored = tmp_path / "datasets" / "fashion-mnist" / "train-images-idx3-ubyte.gz"
    stored.parent.mkdir(parents=True)
    stored.write_bytes(b"whole")

    def download():
        raise Exception("URL fetch failure on the second file")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", download)
    with pytest.raises(ConnectionError, match="could not be downloaded"):
        data.load("fashion-full")
    assert stored.read_bytes() == b"whole"


def test_a_download_with_wrong_contents_is_refused(tmp_path, monkeypatch):
    (tmp_path / "datasets" / "fashion-mnist").mkdir(parents=True)
    (tmp_path / "datasets" / "fashion-mnist" / "train.gz").write_bytes(b"?")

    def download():
        folder = tmp_path / "datasets" / "fashion-mnist"
        folder.mkdir(exist_ok=True)
        (folder / "train.gz").write_bytes(b"?")
        return arrays_as_keras_gives_them()

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", download)
    with pytest.raises(ValueError, match="damaged twice"):
        data.load("fashion-full")
