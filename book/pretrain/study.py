"""Studies: many trials, each one row, run in parallel and never twice.

A trial is a method, a number of labels per class and a seed. First each method that
has settings to choose is tuned, on validation images, for each number of labels. Then
every trial runs with the chosen setting, and opens the test split once.

    python -m pretrain.study label_efficiency_cifar10

Rows go to `results/<study>.csv` as they come, tuning to `<study>_tuning.csv`, and
where it all came from to `<study>.json`. Stop it at any time: it goes on from there.
To use other machines, see `run`.
"""

import argparse
import csv
import json
import os
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from io import StringIO
from pathlib import Path

import joblib
import keras
import numpy as np
from sklearn.metrics import confusion_matrix
from tqdm import tqdm

from pretrain import cache, claims, data, experiments, ladder, large_scale  # noqa: F401  (register methods)
from pretrain.methods import METHODS, Fitted, Task

TRIALS = (
    "method",
    "dataset",
    "labels_per_class",
    "seed",
    "val_accuracy",
    "test_accuracy",
    "pretrain_seconds",
    "train_seconds",
    "setting",
    "found",
    "confusion",
)
TUNING = (*TRIALS[:4], "setting", "val_accuracy", "train_seconds", "found")
ROWS, TUNED = ".csv", "_tuning.csv"
TUNING_SEED = 0  # of the labels that settings are compared on


@dataclass(frozen=True)
class Size:
    """One number of labels per class, and what the trials with it get.

    `labels` of 0 means all. `tuning_steps` are the gradient steps of a run that only
    compares settings, `steps` those of a trial. Without seeds, settings are compared,
    each with all `tuning_seeds`, and the test split stays closed. `augment` is `strong`
    or `light`, for all networks.
    """

    labels: int
    steps: int
    tuning_steps: int
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    augment: str = "strong"
    tuning_seeds: tuple[int, ...] = (TUNING_SEED,)


@dataclass(frozen=True)
class Study:
    """A grid of trials on one data set.

    `unlabelled` images are pretrained on, `pretrain_epochs` times; `width` scales the
    number of filters of the network that all methods share.
    """

    name: str
    dataset: str
    unlabelled: int
    pretrain_epochs: int
    width: float
    sizes: tuple[Size, ...]


LADDER = (
    "pixels",
    "PCA",
    "random, frozen",
    "from scratch",
    "autoencoder, frozen",
    "autoencoder, fine-tuned",
    "autoencoder, LP-FT",
)
# The rungs above, of the last chapters.
HIGHER = (
    "k-means, frozen",
    "rotation, frozen",
    "rotation, fine-tuned",
    "rotation, self-trained",
    "long rotation, fine-tuned",
    "long rotation, self-trained",
    "contrastive, frozen",
    "contrastive, fine-tuned",
    "ImageNet, frozen",
    "ImageNet, LP-FT",
    "ImageNet, long LP-FT",
)


def label_efficiency(
    name: str, dataset: str, methods: tuple[str, ...] = LADDER
) -> Study:
    """Return the study behind the book's label-efficiency curves."""
    steps = {1: 300, 4: 600, 10: 1_000, 25: 1_500, 100: 2_500, 400: 5_000}
    sizes = [Size(n, s, s // 2, (0, 1, 2, 3, 4), methods) for n, s in steps.items()]
    few = (
        "random, frozen",
        "from scratch",
        "autoencoder, frozen",
        "autoencoder, fine-tuned",
        "ImageNet, frozen",
    )
    few = tuple(name for name in few if name in methods)
    # Twenty passes are too few for strong augmentation to pay. In still shorter runs,
    # what weight decay does in the end cannot be seen.
    sizes.append(Size(0, 30_000, 7_500, (0, 1, 2), few, "light"))
    return Study(name, dataset, 45_000, 10, 1.0, tuple(sizes))


def comparison(name: str, *sizes: Size) -> Study:
    """Return a study on CIFAR-10 with other methods than those above."""
    return Study(name, "cifar10", 45_000, 10, 1.0, sizes)


def without_test(*methods: str, steps: int = 1_250, seeds=(TUNING_SEED,)) -> Size:
    """Return 100 labels per class, to compare settings on validation images."""
    return Size(100, 0, steps, (), methods, tuning_seeds=seeds)


def all_labels(*methods: str, seeds: tuple[int, ...]) -> Size:
    """Return the same with all labels; the methods say how many steps they take."""
    return Size(0, 0, 1, (), methods, tuning_seeds=seeds)


def arrangements() -> Iterator[Size]:
    """Return what convolutional and dense networks are compared on."""
    networks = ("convolutional", "dense")
    permuted = (f"{network}, permuted" for network in networks)
    methods = (*networks, *permuted, "dense, equal arithmetic")
    for labels, steps in {4: 300, 25: 600, 100: 1_000, 400: 2_000, 0: 4_000}.items():
        yield Size(labels, steps, steps // 2, (0, 1, 2, 3, 4), methods)


STUDIES = {
    study.name: study
    for study in (
        label_efficiency("label_efficiency_cifar10", "cifar10", (*LADDER, *HIGHER)),
        label_efficiency("label_efficiency_fashion", "fashion-full"),
        comparison(
            "autoencoder_recipes_cifar10",
            without_test("autoencoder recipe", "autoencoder depth"),
        ),
        comparison("convolution_cifar10", *arrangements()),
        comparison(
            "freezing_cifar10", without_test("first stages frozen", seeds=(0, 1, 2))
        ),
        comparison(
            "optimizers_cifar10",
            without_test(
                "optimizer, pretraining",
                "optimizer, fine-tuning",
                steps=300,
                seeds=(0, 1, 2),
            ),
        ),
        comparison(
            "images_cifar10",
            without_test("more images", steps=300, seeds=(0, 1, 2)),
        ),
        comparison(
            "faq_cifar10",
            without_test(
                "what it was pretrained on", steps=1_000, seeds=(0, 1, 2, 3, 4)
            ),
        ),
        comparison(
            "denoising_cifar10",
            without_test("denoising", "masked transformer", steps=400, seeds=(0, 1, 2)),
        ),
        comparison(
            "sizes_cifar10",
            all_labels("size, learning rate", seeds=(TUNING_SEED,)),
            all_labels("size, labels", seeds=(0, 1, 2)),
            without_test("size, pretraining rate", seeds=(TUNING_SEED,)),
            without_test("size, pretraining", "size, no learning", seeds=(0, 1, 2)),
        ),
        comparison(
            "large_scale_cifar10",
            without_test("ImageNet, one tap", seeds=(0, 1, 2)),
        ),
        Study(
            "label_efficiency_quick",
            "fashion",
            unlabelled=512,
            pretrain_epochs=1,
            width=0.25,
            sizes=(Size(4, 8, 8, (0, 1), LADDER),),
        ),
    )
}


class Store:
    """The files of a study: each write replaces a whole file, or leaves it."""

    def __init__(self, study: Study, folder: Path):
        self.study, self.folder = study, folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, ending: str) -> Path:
        return self.folder / f"{self.study.name}{ending}"

    def rows(self, ending: str) -> list[dict[str, str]]:
        """Return the rows that are there already, each a dict of strings."""
        path = self.path(ending)
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def keys(self, ending: str, *more: str) -> set[tuple[str, ...]]:
        """Return method, labels per class and more columns of each row."""
        columns = ("method", "labels_per_class", *more)
        return {tuple(row[name] for name in columns) for row in self.rows(ending)}

    def append(self, ending: str, columns: Sequence[str], row: Mapping) -> None:
        """Add a row; sorted, so that the file does not depend on who was first."""
        rows = [*self.rows(ending), {name: str(row[name]) for name in columns}]
        rows.sort(key=lambda r: (r["method"], int(r["labels_per_class"]),
                                 int(r["seed"]), r["setting"]))  # fmt: skip
        text = StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        cache.write_text(self.path(ending), text.getvalue())

    def check(self, methods: Iterable[str]) -> None:
        """Compare with what the rows were made of, or write it down.

        Raises:
            RuntimeError: if rows are there that were made otherwise.
        """
        path = self.path(".json")
        sizes = self.study.sizes
        seeds = sorted({s for size in sizes for s in (*size.seeds, *size.tuning_seeds)})
        dataset = splits(self.study.dataset)[0]
        self.made = made = claims.provenance(dataset, self.study.name, seeds)
        now = {
            "grid": grid_of(self.study),
            "code": {name: code_of(name) for name in methods},
            "provenance": [made],
        }
        if path.exists():
            before = cache.read_json(path)
            earlier = before["provenance"]
            differences = [
                part
                for part in ("sha256", "versions")
                if earlier[-1][part] != made[part]
            ]
            # What is new may join what is there: a size, or a method without rows.
            kept = {row["method"] for end in (ROWS, TUNED) for row in self.rows(end)}
            differences += [
                f"the {part} of {name!r}"
                for part in ("grid", "code")
                for name, value in now[part].items()
                if before[part].get(name, value) != value
                and (part == "grid" or name in kept)
            ]
            if differences:
                raise RuntimeError(
                    f"{path.name}: the rows there were made with something else "
                    f"({', '.join(differences)}), and must not be mixed with new ones. "
                    f"Go back to code, data and packages of commit "
                    f"{earlier[-1]['commit']} to go on with them, or move the files of "
                    "the study away to start anew."
                )
            joined = {part: before[part] | now[part] for part in ("grid", "code")}
            now = before | joined
        cache.write_json(path, now)

    def sign(self) -> None:
        """Write down that rows are made by this commit and machine, too."""
        path = self.path(".json")
        content = cache.read_json(path)
        known = [(made["commit"], made["hardware"]) for made in content["provenance"]]
        if (self.made["commit"], self.made["hardware"]) not in known:
            content["provenance"].append(self.made)
            cache.write_json(path, content)


def grid_of(study: Study) -> dict[str, object]:
    """Return what of a study decides its rows, by name."""
    parts = asdict(study)
    sizes = parts.pop("sizes")
    deciding = ("steps", "tuning_steps", "augment")
    each = {f"labels {s['labels']}": [s[k] for k in deciding] for s in sizes}
    return parts | each


def code_of(name: str) -> str:
    """Hash the code that decides the rows of a method."""
    return cache.code_hash(METHODS[name].fit, METHODS[name].grid, tune, test, task_of)


@lru_cache(maxsize=1)
def splits(dataset: str) -> tuple:
    """Return a data set, and its training images split: x, y, x_val, y_val."""
    loaded = data.load(dataset)
    return loaded, *data.split(loaded)


def task_of(study: Study, size: Size, seed: int, steps: int) -> Task:
    """Return what a method may see: the test split is not in it."""
    dataset, x, y, x_val, y_val = splits(study.dataset)
    chosen = data.label_subset(y, size.labels, seed) if size.labels else slice(None)
    return Task(
        x[chosen],
        y[chosen],
        x_val,
        y_val,
        unlabelled=x[: study.unlabelled],
        classes=dataset.classes,
        steps=steps,
        augment=size.augment,
        pretrain_epochs=study.pretrain_epochs,
        width=study.width,
        seed=seed,
    )


def labels_per_class(study: Study, size: Size) -> int:
    """Return the number itself where a size stands for all labels."""
    dataset, _, y, *_ = splits(study.dataset)
    return size.labels or len(y) // dataset.classes


def tune(
    study: Study, size: Size, name: str, setting: Mapping[str, float], seed: int
) -> dict:
    """Train a method with one of its settings, and score it on validation images."""
    task = task_of(study, size, seed, size.tuning_steps)
    start = time.perf_counter()
    fitted = METHODS[name].fit(task, **setting)
    return {
        "method": name,
        "dataset": study.dataset,
        "labels_per_class": labels_per_class(study, size),
        "seed": seed,
        "setting": json.dumps(setting),
        "val_accuracy": round(accuracy(fitted, task.x_val, task.y_val), 4),
        "train_seconds": round(time.perf_counter() - start, 1),
        "found": json.dumps(rounded(fitted.found)),
    }


def test(
    study: Study, size: Size, name: str, setting: Mapping[str, float], seed: int
) -> dict:
    """Run one trial: train with the chosen setting, and open the test split once."""
    dataset = splits(study.dataset)[0]
    task = task_of(study, size, seed, size.steps)
    start = time.perf_counter()
    fitted = METHODS[name].fit(task, **setting)
    seconds = time.perf_counter() - start
    said = fitted.predict(dataset.x_test)
    counts = confusion_matrix(dataset.y_test, said, labels=range(dataset.classes))
    return {
        "method": name,
        "dataset": study.dataset,
        "labels_per_class": labels_per_class(study, size),
        "seed": seed,
        "val_accuracy": round(accuracy(fitted, task.x_val, task.y_val), 4),
        "test_accuracy": round(float(np.mean(said == dataset.y_test)), 4),
        "pretrain_seconds": round(fitted.pretrain_seconds, 1),
        "train_seconds": round(seconds, 1),
        "setting": json.dumps(setting),
        "found": json.dumps(rounded(fitted.found)),
        "confusion": json.dumps(counts.tolist(), separators=(",", ":")),
    }


def rounded(found: Mapping[str, float]) -> dict[str, float]:
    """Return the values with four significant digits."""
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def accuracy(fitted: Fitted, x: np.ndarray, y: np.ndarray) -> float:
    """Return the fraction of images that a fitted classifier names right."""
    return float(np.mean(fitted.predict(x) == y))


def run(
    study: Study,
    *,
    methods: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    folder: Path = claims.RESULTS,
) -> list[dict[str, str]]:
    """Run what is missing of a study, and return all its rows.

    Trials run through joblib, in as many processes as there are cores, each on one
    core, so that the rows do not depend on how many there are. Any backend of joblib
    will do, on several machines too: see the page `setup`.

    Args:
        methods, labels, seeds: leave out all others. `labels` of 0 means all.
        folder: where the files of the study are.

    Raises:
        ValueError: if the study has no such method, number of labels or seed.
        RuntimeError: if rows are there that were made with other code or data.
    """
    sizes = selected(study, methods, labels, seeds)
    names = list(dict.fromkeys(name for size in sizes for name in size.methods))
    store = Store(study, folder)
    store.check(names)

    known = store.keys(TUNED, "setting", "seed")
    candidates = [
        (size.tuning_steps, (study, size, name, setting, seed))
        for size in sizes
        for name in size.methods
        for setting in METHODS[name].grid
        for seed in size.tuning_seeds
        if len(METHODS[name].grid) > 1
        and (
            name,
            str(labels_per_class(study, size)),
            json.dumps(setting),
            str(seed),
        )
        not in known
    ]
    done = store.keys(ROWS, "seed")
    missing = [
        (size, name, seed)
        for size in sizes
        for name in size.methods
        for seed in size.seeds
        if (name, str(labels_per_class(study, size)), str(seed)) not in done
    ]
    if candidates or missing:
        store.sign()
        prepare(study, sizes, names)
    for row in in_parallel(tune, candidates, "tuning"):
        store.append(TUNED, TUNING, row)
    trials = [
        (
            size.steps,
            (study, size, name, chosen_setting(study, size, name, store), seed),
        )
        for size, name, seed in missing
    ]
    for row in in_parallel(test, trials, "trials"):
        store.append(ROWS, TRIALS, row)
    return store.rows(ROWS)


def card(name: str) -> str:
    """Return in a few lines what stands behind the stored rows of a study."""
    path = Store(STUDIES[name], claims.RESULTS).path(".json")
    runs = cache.read_json(path)["provenance"]
    rows, tuning = stored(name, ROWS), stored(name, TUNED)
    hours = sum(float(row["train_seconds"]) for row in rows + tuning) / 3600
    last = runs[-1]
    versions = ", ".join(f"{k} {v}" for k, v in last["versions"].items())
    commits = list(dict.fromkeys((made["commit"] or "unknown")[:9] for made in runs))
    code = f"commit {', '.join(commits)}"
    if len(commits) > 3:
        code = f"{len(commits)} commits, {commits[0]} … {commits[-1]} ({path.name})"
    machines: dict[str, list[str]] = {}
    for made in runs:
        machines.setdefault(made["hardware"], []).append(made["date"])
    seeds = sorted({int(row["seed"]) for row in rows or tuning})
    done = (
        f"{len(rows)} trials, seeds {seeds}, after {len(tuning)} tuning runs"
        if rows
        else f"{len(tuning)} runs on validation images only, seeds {seeds}"
    )
    lines = (
        f"{name}: {done}; {hours:.1f} hours of one core",
        f"data: {last['dataset']}, sha256 {last['sha256'][:16]}…",
        f"code: {code}; {versions}",
        *(
            f"machine: {hardware}, {' to '.join(dict.fromkeys((days[0], days[-1])))}"
            for hardware, days in machines.items()
        ),
    )
    return "\n".join(textwrap.fill(line, 80, subsequent_indent="  ") for line in lines)


def results(name: str) -> dict[str, dict[int, dict[int, float]]]:
    """Return what the book stored: method → labels per class → seed → percent right.

    The percentages are those of the test split. Where seeds are still missing, the
    number of labels is left out.
    """
    found: dict[str, dict[int, dict[int, float]]] = {}
    for row in stored(name, ROWS):
        by_labels = found.setdefault(row["method"], {})
        by_seed = by_labels.setdefault(int(row["labels_per_class"]), {})
        by_seed[int(row["seed"])] = 100 * float(row["test_accuracy"])
    seeds = {size.labels: set(size.seeds) for size in STUDIES[name].sizes}
    return {
        method: {
            labels: by_seed
            for labels, by_seed in sorted(by_labels.items())
            # The number that stands for all labels is not among the sizes.
            if seeds.get(labels, seeds.get(0)) == set(by_seed)
        }
        for method, by_labels in found.items()
    }


def stored(name: str, ending: str, **wanted: object) -> list[dict[str, str]]:
    """Return the rows that the book keeps of a study, those that are as wanted."""
    rows = Store(STUDIES[name], claims.RESULTS).rows(ending)
    return [r for r in rows if all(r[k] == str(v) for k, v in wanted.items())]


def seconds(name: str, method: str, labels_per_class: int) -> tuple[float, float]:
    """Return the mean stored seconds: of pretraining, and of a trial on one core."""
    rows = stored(name, ROWS, method=method, labels_per_class=labels_per_class)
    pretraining, training = (
        float(np.mean([float(row[column]) for row in rows]))
        for column in ("pretrain_seconds", "train_seconds")
    )
    return pretraining, training


def confusion(
    name: str, method: str, labels_per_class: int, **wanted: object
) -> np.ndarray:
    """Return stored counts, summed over the seeds: (true class, answer).

    Args:
        wanted: what else a row must have, such as a `seed`.
    """
    wanted |= {"method": method, "labels_per_class": labels_per_class}
    rows = stored(name, ROWS, **wanted)
    return sum(np.array(json.loads(row["confusion"])) for row in rows)


def tried(name: str) -> list[dict]:
    """Return the stored tuning runs: setting, what was found, and percent right.

    The percentages, `val_accuracy`, are those of the validation images.
    """
    return [
        {
            "method": row["method"],
            "labels_per_class": int(row["labels_per_class"]),
            "subset": int(row["seed"]),
            **json.loads(row["setting"]),
            **json.loads(row["found"]),
            "val_accuracy": 100 * float(row["val_accuracy"]),
        }
        for row in stored(name, TUNED)
    ]


def best(name: str, **wanted: object) -> dict:
    """Return the stored tuning run that did best, among those that are as wanted.

    Args:
        wanted: settings; None where a setting must not be there.
    """
    return max(
        (run for run in tried(name) if matches(run, wanted)),
        key=lambda run: run["val_accuracy"],
    )


def by_setting(
    runs: Iterable[Mapping], setting: str, what: str = "val_accuracy", **wanted: object
) -> dict:
    """Return values of a setting → draws of the labels → what was found.

    Args:
        runs: from `tried`. Those that did not find `what` are left out.
        setting: the values are in order.
        what: the entry of a run to return.
        wanted: what else a run must have; None where a setting must not be there.
    """
    found: dict = {}
    for run in runs:
        if what in run and matches(run, wanted):
            found.setdefault(run[setting], {})[run["subset"]] = run[what]
    return dict(sorted(found.items()))


def matches(run: Mapping, wanted: Mapping) -> bool:
    """Tell whether a run has all these entries; None stands for one that is missing."""
    return all(run.get(part) == value for part, value in wanted.items())


def selected(study: Study, methods, labels, seeds) -> list[Size]:
    """Return the sizes of a study, without what was not asked for."""
    for kind, asked, there in (
        ("method", methods, {m for size in study.sizes for m in size.methods}),
        ("number of labels", labels, {size.labels for size in study.sizes}),
        ("seed", seeds, {s for size in study.sizes for s in size.seeds}),
    ):
        for one in asked or ():
            if one not in there:
                raise ValueError(
                    f"{study.name} has no {kind} {one!r}; it has "
                    f"{', '.join(map(str, sorted(there))) or 'none'}."
                )
    return [
        replace(
            size,
            methods=tuple(m for m in size.methods if m in (methods or size.methods)),
            seeds=tuple(s for s in size.seeds if s in (seeds or size.seeds)),
        )
        for size in study.sizes
        if labels is None or size.labels in labels
    ]


def prepare(study: Study, sizes: Sequence[Size], names: Iterable[str]) -> None:
    """Pretrain, with all cores, what the trials then find in the cache."""
    task = task_of(study, sizes[0], TUNING_SEED, sizes[0].steps)
    for step in {METHODS[name].prepare: None for name in names}:
        if step:
            step(task)


def chosen_setting(study: Study, size: Size, name: str, store: Store) -> dict:
    """Return the setting that did best on validation images; the first, if equal."""
    grid = METHODS[name].grid
    if len(grid) == 1:
        return dict(grid[0])
    scores: dict[str, list[float]] = {}
    for row in store.rows(TUNED):
        of = (row["method"], row["labels_per_class"])
        if of == (name, str(labels_per_class(study, size))):
            scores.setdefault(row["setting"], []).append(float(row["val_accuracy"]))
    return dict(max(grid, key=lambda setting: np.mean(scores[json.dumps(setting)])))


def in_parallel(
    work: Callable[..., dict], jobs: Sequence[tuple[int, tuple]], title: str
) -> Iterator[dict]:
    """Call `work` with the arguments of each job; yield the results as they come.

    The processes that joblib starts here get one thread each, and no GPU. Workers that
    were started elsewhere have to be started so.

    Args:
        jobs: (cost, arguments) of each; the costs make the estimate of the time left.
    """
    # One core for each worker: the rows then do not depend on the number of cores,
    # and small networks gain little from a second one.
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # each would take all of a GPU's memory
    parallel = joblib.Parallel(n_jobs=-1, return_as="generator_unordered")
    calls = (joblib.delayed(_with_cost)(work, *job) for job in jobs)
    total = sum(cost for cost, _ in jobs)
    with tqdm(total=total, desc=title, unit="step", disable=not jobs) as bar:
        for cost, row in parallel(calls):
            bar.update(cost)
            yield row


def _with_cost(work: Callable[..., dict], cost: int, arguments: tuple) -> tuple:
    # Nothing of what this process did before shall decide the row.
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    return cost, work(*arguments)


def main() -> None:
    """Run a study from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pretrain.study", description="Run what is missing of a study."
    )
    parser.add_argument("name", choices=STUDIES)
    parser.add_argument("--methods", nargs="+", metavar="METHOD")
    parser.add_argument("--labels", nargs="+", type=int, help="0 means all")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--folder", type=Path, default=claims.RESULTS)
    asked = vars(parser.parse_args())
    study = STUDIES[asked.pop("name")]
    try:
        rows = run(study, **asked)
    except (ValueError, RuntimeError, OSError) as error:
        parser.exit(2, f"{error}\n")
    print(f"{study.name}: {len(rows)} rows.")


if __name__ == "__main__":
    # Workers must find the functions under the name of the module, not as __main__.
    from pretrain import study as module

    module.main()
