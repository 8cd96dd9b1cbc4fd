"""Images and labels: the embedded set, the well-known ones, and your own folder.

Every loader returns an `ImageDataset` of 8-bit images of 32 by 32 pixels. Scaling
to [0, 1] happens inside the networks, so that no caller can forget it.
"""

import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import keras
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from sklearn.datasets import load_sample_images

from pretrain import cache

SIZE = 32
SUFFIXES = {".jpg", ".jpeg", ".png"}
EMBEDDED = Path(__file__).parent.parent / "data" / "fashion.npz"
EMBEDDED_SHA256 = "57f450de1055e3d0a8253e168edac7718f4e75c8457ad9ea68ae983c7ba49d47"
# Digest of the decoded arrays, since Keras downloads this set without a checksum.
FASHION_FULL_SHA256 = "ca3ab2a37f845e1b8ae23cab1b51749a3011ba3bf1d9016176d75cbaabac376f"
FASHION_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Labelled images with a name, a source and a checksum.

    Images are uint8 of shape (n, 32, 32, channels), labels int32 of shape (n,).
    `sha256` identifies the bytes that the images were read from. No image of the
    test split occurs in the training split.
    """

    name: str
    source: str
    sha256: str
    class_names: tuple[str, ...]
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image: (height, width, channels)."""
        return self.x_train.shape[1:]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def load(name: str) -> ImageDataset:
    """Load a data set by name, or from a path to an image folder or `.zip` of one.

    Names: `fashion` (12,000 + 2,000 images, part of the book), `fashion-full` and
    `cifar10` (downloaded once by Keras). With `PRETRAIN_CIFAR10=<folder or .zip>`,
    `cifar10` is read from that copy instead.

    Raises:
        ValueError: if the name is unknown, or the data are damaged.
        ConnectionError: if the data must be downloaded and cannot be.
    """
    if name == "fashion":
        dataset = _load_embedded()
    elif name == "fashion-full":
        dataset = _load_fashion_full()
    elif name == "cifar10":
        copy = os.environ.get("PRETRAIN_CIFAR10")
        dataset = _load_folder(Path(copy), name) if copy else _load_cifar10()
    elif Path(name).exists():
        dataset = _load_folder(Path(name), Path(name).stem)
    else:
        raise ValueError(
            f"No data set is called {name!r}. Use 'fashion', 'fashion-full', "
            "'cifar10', or the path of an existing image folder or .zip."
        )
    return _without_test_images_in_training(dataset)


def split(
    dataset: ImageDataset, validation: float = 0.1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Split the training images into training and validation parts.

    The parts are stratified by class. Identical images never end up on both sides:
    copies of a validation image are left out of training.

    Returns:
        `x_train, y_train, x_val, y_val`.
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation is a fraction in (0, 1), got {validation}.")
    x, y = dataset.x_train, dataset.y_train
    order = np.random.default_rng(seed).permutation(len(y))
    chosen = np.zeros(len(y), bool)
    for c in range(dataset.classes):
        of_class = order[y[order] == c]
        chosen[of_class[: round(validation * len(of_class))]] = True
    hashes = np.array(image_hashes(x))
    training = ~np.isin(hashes, hashes[chosen])
    return x[training], y[training], x[chosen], y[chosen]


def label_subset(y: np.ndarray, labels_per_class: int, seed: int) -> np.ndarray:
    """Choose which images of a training set get to keep their label.

    Subsets are stratified and nested: for one seed, the images chosen with 10 labels
    per class are among those chosen with 25.

    Args:
        y: labels, shape (n,).
        labels_per_class: how many of each class.
        seed: fixes the order in which images are taken.

    Returns:
        Sorted indices into `y`, shape (classes * labels_per_class,).
    """
    smallest = np.bincount(y).min()
    if not 1 <= labels_per_class <= smallest:
        raise ValueError(
            f"labels_per_class must lie between 1 and {smallest}, the size of the "
            f"smallest class; got {labels_per_class}."
        )
    order = np.random.default_rng(seed).permutation(len(y))
    chosen = [order[y[order] == c][:labels_per_class] for c in np.unique(y)]
    return np.sort(np.concatenate(chosen))


def photo_crops(n: int, seed: int = 0) -> np.ndarray:
    """Cut random squares from two photographs, of any size and from any place.

    They are those that come with scikit-learn, a temple and a flower. That so little
    can be enough to learn from was found by Asano et al. (2020).

    Args:
        n: number of crops.
        seed: fixes the draws.

    Returns:
        uint8, shape (n, 32, 32, 3).
    """
    photographs = [Image.fromarray(photo) for photo in load_sample_images().images]
    rng = np.random.default_rng(seed)

    def crop():
        photo = photographs[rng.integers(len(photographs))]
        side = SIZE * (min(photo.size) / SIZE) ** rng.uniform()
        left, top = (rng.uniform(0, length - side) for length in photo.size)
        box = (left, top, left + side, top + side)
        return np.asarray(photo.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box))

    return np.stack([crop() for _ in range(n)])


def dead_leaves(n: int, seed: int = 0) -> np.ndarray:
    """Draw images of discs that cover each other, as leaves on the ground do.

    Like a photograph they have edges, occlusion and no preferred size: radii are drawn
    with a density that falls with their third power (Lee et al., 2001). That networks
    can learn from them was found by Baradad et al. (2021).

    Args:
        n: number of images.
        seed: fixes the draws.

    Returns:
        uint8, shape (n, 32, 32, 3).
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((SIZE, SIZE))
    # From the top leaf down: each colours what is still bare. What is bare at the end
    # is one last leaf that covers all.
    images = np.empty((n, SIZE, SIZE, 3), "uint8")
    images[:] = rng.integers(0, 256, (n, 1, 1, 3))
    bare = np.ones((n, SIZE, SIZE), bool)
    smallest, largest = 2, SIZE
    for _ in range(100):
        inverse_square = rng.uniform(largest**-2, smallest**-2, (n, 1, 1))
        y, x = rng.uniform(-SIZE / 2, 1.5 * SIZE, (2, n, 1, 1))
        leaf = bare & ((rows - y) ** 2 + (columns - x) ** 2 < 1 / inverse_square)
        colours = rng.integers(0, 256, (n, 3), "uint8")
        images[leaf] = np.repeat(colours, leaf.sum(axis=(1, 2)), axis=0)
        bare &= ~leaf
    return images


def pink_noise(n: int, seed: int = 0) -> np.ndarray:
    """Draw noise whose amplitudes fall like 1/f, as they do in photographs.

    Light and colours are as smooth as those of photographs (Field, 1987), and there is
    no edge in them. Its use for pretraining is due to Baradad et al. (2021).

    Args:
        n: number of images.
        seed: fixes the draws.

    Returns:
        uint8, shape (n, 32, 32, 3), with a mean of about 128 and a standard deviation
        of about 50.
    """
    rng = np.random.default_rng(seed)
    white = rng.standard_normal((n, SIZE, SIZE, 4), "float32")
    white = 2 * white[..., :1] + white[..., 1:]  # mostly light, less colour
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE))
    frequency[0, 0] = np.inf  # no image is lighter than another
    spectrum = np.fft.rfft2(white, axes=(1, 2)) / frequency[..., None]
    smooth = np.fft.irfft2(spectrum, s=(SIZE, SIZE), axes=(1, 2))
    smooth /= smooth.std(axis=(1, 2, 3), keepdims=True)
    return np.clip(128 + 50 * smooth, 0, 255).astype("uint8")


def white_noise(n: int, seed: int = 0) -> np.ndarray:
    """Draw images in which no pixel says anything about another.

    Returns:
        uint8, shape (n, 32, 32, 3).
    """
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, SIZE, SIZE, 3), "uint8")


def image_hashes(x: np.ndarray) -> list[bytes]:
    """Return one content hash per image."""
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in x]


def _without_test_images_in_training(dataset: ImageDataset) -> ImageDataset:
    test = set(image_hashes(dataset.x_test))
    keep = np.array([h not in test for h in image_hashes(dataset.x_train)])
    if keep.all():
        return dataset
    return replace(
        dataset, x_train=dataset.x_train[keep], y_train=dataset.y_train[keep]
    )


def _pad(x: np.ndarray) -> np.ndarray:
    """Zero-pad 28 by 28 images to 32 by 32 and add the channel axis."""
    return np.pad(x, ((0, 0), (2, 2), (2, 2)))[..., None]


def _load_embedded() -> ImageDataset:
    digest = hashlib.sha256(EMBEDDED.read_bytes()).hexdigest()
    if digest != EMBEDDED_SHA256:
        raise ValueError(
            f"{EMBEDDED.name} has sha256 {digest}, expected {EMBEDDED_SHA256}: the "
            "file is damaged; restore it with `git checkout -- book/data`."
        )
    with np.load(EMBEDDED, allow_pickle=False) as stored:
        return ImageDataset(
            name="fashion",
            source="Fashion-MNIST, 14,000 of its images, embedded in the book",
            sha256=digest,
            class_names=FASHION_CLASSES,
            x_train=_pad(stored["x_train"]),
            y_train=stored["y_train"].astype("int32"),
            x_test=_pad(stored["x_test"]),
            y_test=stored["y_test"].astype("int32"),
        )


def _load_fashion_full() -> ImageDataset:
    folder = _keras_datasets() / "fashion-mnist"
    arrays = _fetch(
        "fashion-full",
        keras.datasets.fashion_mnist.load_data,
        [folder],
        FASHION_FULL_SHA256,
    )
    x_train, y_train, x_test, y_test = arrays
    return ImageDataset(
        name="fashion-full",
        source="Fashion-MNIST, from keras.datasets",
        sha256=FASHION_FULL_SHA256,
        class_names=FASHION_CLASSES,
        x_train=_pad(x_train),
        y_train=y_train.astype("int32"),
        x_test=_pad(x_test),
        y_test=y_test.astype("int32"),
    )


def _load_cifar10() -> ImageDataset:
    folder = _keras_datasets()
    name = "cifar-10-batches-py-target"
    x_train, y_train, x_test, y_test = _fetch(
        "cifar10",
        keras.datasets.cifar10.load_data,
        [folder / name, folder / f"{name}_archive"],
    )
    return ImageDataset(
        name="cifar10",
        source="CIFAR-10, from keras.datasets",
        sha256=cache.digest([x_train, y_train, x_test, y_test]),
        class_names=CIFAR10_CLASSES,
        x_train=x_train,
        y_train=y_train.reshape(-1).astype("int32"),
        x_test=x_test,
        y_test=y_test.reshape(-1).astype("int32"),
    )


def _keras_datasets() -> Path:
    """Return the folder in which Keras keeps what it downloads."""
    home = os.environ.get("KERAS_HOME", Path.home() / ".keras")
    return Path(home) / "datasets"


def _fetch(
    name: str, download: Callable, cached: list[Path], sha256: str | None = None
) -> list[np.ndarray]:
    """Download through Keras; fetch again, once, what turns out to be damaged.

    `cached` are the files and folders in which Keras keeps the download.
    """
    for then in ("Fetching it again.", "Giving up."):
        try:
            (x_train, y_train), (x_test, y_test) = download()
            arrays = [x_train, y_train, x_test, y_test]
            if sha256 in (None, cache.digest(arrays)):
                return arrays
            raise ValueError("the images have the wrong checksum")
        except (MemoryError, PermissionError):
            raise  # the copy is not to blame
        # Keras reports a failed download as a bare Exception, and a damaged file as
        # whatever the reader of its format raises.
        except Exception as error:
            found = [path for path in cached if path.is_file() or _has_files(path)]
            # Without a connection, what is there already is whole as far as it goes.
            if not found or "URL fetch failure" in str(error):
                raise _no_network(name, error) from error
            places = ", ".join(path.name for path in found)
            print(f"The stored copy of {name} ({places}) is damaged: {error}. {then}")
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    raise ValueError(f"{name} arrived damaged twice. Check the connection; try later.")


def _has_files(path: Path) -> bool:
    return path.is_dir() and any(path.iterdir())


def _no_network(name: str, error: Exception) -> ConnectionError:
    return ConnectionError(
        f"{name} could not be downloaded ({error}). Two ways out without a network: "
        "set PROFILE=quick to use the images embedded in the book, or, for cifar10, "
        "set PRETRAIN_CIFAR10 to a folder or .zip with train/<class>/ and "
        "test/<class>/ images."
    )


class _Folder:
    """Image files below a folder, named by paths relative to it."""

    def __init__(self, path: Path):
        self.path = path

    def names(self) -> list[str]:
        files = (p for p in self.path.rglob("*"))
        return [
            p.relative_to(self.path).as_posix() + ("/" if p.is_dir() else "")
            for p in files
        ]

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for name in sorted(n for n in self.names() if not n.endswith("/")):
            digest.update(name.encode() + b"\0" + self.read(name))
        return digest.hexdigest()


class _Zip:
    """The same for a zip file, which is read in place and never unpacked."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path.name} is no readable zip file: {error}.") from None

    def names(self) -> list[str]:
        names = self.archive.namelist()
        for name in names:
            if name.startswith(("/", "\\")) or ".." in Path(name).parts or ":" in name:
                raise ValueError(
                    f"{self.path.name} holds {name!r}, which points outside the "
                    "archive. Make the zip again from the folder itself."
                )
        return names

    def read(self, name: str) -> bytes:
        try:
            return self.archive.read(name)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{self.path.name}: {name} is damaged: {error}.") from None

    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def _load_folder(path: Path, name: str) -> ImageDataset:
    """Read `train/<class>/*` and `test/<class>/*`, or `<class>/*` without a split.

    Folders around these, as in a zip of one folder, do not matter. Without a split, a
    fixed fifth of each class becomes the test split. Images are cropped to their
    central square and resized to 32 by 32. If all images are grey, the data set has one
    channel; if some have colour, all get three.
    """
    if path.suffix == ".zip" and path.is_file():
        files = _Zip(path)
    elif path.is_dir():
        files = _Folder(path)
    else:
        kind = "neither a folder nor a .zip file" if path.exists() else "not there"
        raise ValueError(f"{path} is {kind}.")
    sha256 = files.sha256()
    code = cache.code_hash(_read_images)
    stored = cache.folder() / f"images-{sha256[:16]}-{code}.npz"
    if not stored.exists():
        cache.write_whole(
            stored, lambda target: np.savez(target, **_read_images(files, path.name))
        )
    with np.load(stored, allow_pickle=False) as arrays:
        parts = {part: arrays[part] for part in arrays.files}
    if "x_test" not in parts:
        parts = _hold_out_test(parts)
    # Read class by class; mixed once, so that the first n images hold all classes.
    mixed = np.random.default_rng(0).permutation(len(parts["y_train"]))
    parts |= {name: parts[name][mixed] for name in ("x_train", "y_train")}
    kinds = parts.pop("kinds")
    return ImageDataset(
        name=name,
        source=f"{'/'.join(kinds)} images from {path.name}",
        sha256=sha256,
        class_names=tuple(parts.pop("class_names").tolist()),
        **parts,
    )


def _hold_out_test(parts: dict) -> dict:
    x, y = parts["x_train"], parts["y_train"]
    order = np.random.default_rng(0).permutation(len(y))
    test = np.zeros(len(y), bool)
    for c in np.unique(y):
        of_class = order[y[order] == c]
        if len(of_class) < 2:
            raise ValueError(
                f"Class {str(parts['class_names'][c])!r} has a single image. Without a "
                "folder for tests, each class needs one to learn from and one to test."
            )
        test[of_class[: max(1, len(of_class) // 5)]] = True
    train = {"x_train": x[~test], "y_train": y[~test]}
    return {**parts, **train, "x_test": x[test], "y_test": y[test]}


def _read_images(files: _Folder | _Zip, source: str) -> dict[str, np.ndarray]:
    names = [n for n in files.names() if "__MACOSX" not in n]
    root = _root(names)
    folders: dict[tuple[str, ...], list[str]] = {}  # → the images in them
    for name in sorted(n for n in names if n.startswith(root)):
        folder = tuple(name.removeprefix(root).split("/")[:-1])
        images = folders.setdefault(folder, [])
        if Path(name).suffix.lower() in SUFFIXES:
            images.append(name)
    splits, depth = [""], 1
    if {"train", "test"} <= {folder[0] for folder in folders if folder}:
        splits, depth = ["train", "test"], 2
        folders = {f: found for f, found in folders.items() if f and f[0] in splits}
    class_names = sorted({f[depth - 1] for f in folders if len(f) >= depth})
    wrong = [found[0] for f, found in folders.items() if found and len(f) != depth]
    if wrong or not class_names:
        what = f"has {wrong[0]} outside of" if wrong else "has no"
        raise ValueError(
            f"{source} {what} class folders: expected train/<class>/ and "
            "test/<class>/, or <class>/, with .jpg or .png images inside."
        )
    arrays = {"class_names": np.array(class_names)}
    kinds = set()
    for part in splits:
        images, labels = [], []
        for label, class_name in enumerate(class_names):
            prefix = f"{part}/{class_name}/" if part else f"{class_name}/"
            members = folders.get(tuple(prefix.split("/")[:-1]))
            if not members:
                raise ValueError(
                    f"{source}: class folder {prefix} holds no .jpg or .png image. "
                    "Add images, or remove the folder."
                )
            for name in members:
                images.append(_decode(files.read(name), f"{source}: {name}"))
                labels.append(label)
                kinds.add("JPEG" if name.lower().endswith(("jpg", "jpeg")) else "PNG")
        arrays[f"x_{part or 'train'}"] = np.stack(images)
        arrays[f"y_{part or 'train'}"] = np.array(labels, "int32")
    images = [k for k in arrays if k.startswith("x_")]
    if all((arrays[k] == arrays[k][..., :1]).all() for k in images):
        arrays.update({k: arrays[k][..., :1] for k in images})
    return {**arrays, "kinds": np.array(sorted(kinds))}


def _root(names: list[str]) -> str:
    """Return the folders around all images, of which each keeps one: its class."""
    parents = [n.split("/")[:-1] for n in names if Path(n).suffix.lower() in SUFFIXES]
    root = ""
    while parents and min(map(len, parents)) > 1 and len({p[0] for p in parents}) == 1:
        if parents[0][0] in ("train", "test"):  # a split whose other half is missing
            break
        root += f"{parents[0][0]}/"
        parents = [parent[1:] for parent in parents]
    return root


def _decode(content: bytes, name: str) -> np.ndarray:
    """Return one image as uint8 of shape (32, 32, 3)."""
    try:
        with Image.open(BytesIO(content)) as image:
            rgb = ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise ValueError(
            f"{name} is no readable image ({error}). Replace or remove it."
        ) from None
    if rgb.size != (SIZE, SIZE):
        rgb = ImageOps.fit(rgb, (SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.asarray(rgb)
