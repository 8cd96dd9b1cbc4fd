"""What a study promises: fair, repeatable, resumable, and blind to the test split."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import keras
import numpy as np
import pytest

from pretrain import cache, claims, data, methods, study

BOOK = Path(__file__).parent.parent / "book"
QUICK = study.STUDIES["label_efficiency_quick"]
SMALL = dataclasses.replace(
    QUICK, sizes=(study.Size(2, 3, 2, (0, 1, 2), ("tuned", "plain")),)
)


@pytest.fixture
def fakes(monkeypatch):
    """Two methods that learn nothing and remember what they were shown."""
    seen = []
    monkeypatch.setattr(methods, "METHODS", methods.METHODS.copy())
    monkeypatch.setattr(study, "METHODS", methods.METHODS)

    @methods.method("tuned", ({"rate": 1}, {"rate": 2}, {"rate": 3}))
    def tuned(task, rate):
        def predict(x):
            seen.append(("tuned", task.steps, task.seed, len(x)))
            return np.full(len(x), rate)

        return methods.Fitted(predict)

    @methods.method("plain")
    def plain(task):
        def predict(x):
            seen.append(("plain", task.steps, task.seed, len(x)))
            return np.zeros(len(x), int)

        return methods.Fitted(predict, {"strength": 0.5})

    with joblib.parallel_config(backend="threading"):
        yield seen


def test_runs_are_grouped_by_a_setting_in_order():
    runs = [
        {"rate": r, "subset": d, "net": net, "val_accuracy": r + d}
        for r in (20.0, 5.0)
        for d in (1, 0)
        for net in ("a", "b")
    ]
    runs += [{"rate": 5.0, "subset": 2, "net": "a"}]
    found = study.by_setting(runs, "rate", net="a")
    assert list(found) == [5.0, 20.0]
    assert found == {5.0: {0: 5.0, 1: 6.0}, 20.0: {0: 20.0, 1: 21.0}}
    assert study.by_setting(runs, "rate", net="a", other=None) == found
    assert study.by_setting(runs, "rate", net="c") == {}


def rows_without_times(rows):
    return [
        {name: value for name, value in row.items() if not name.endswith("_seconds")}
        for row in rows
    ]


def test_every_trial_is_there_once_with_its_setting(fakes, tmp_path):
    rows = study.run(SMALL, folder=tmp_path)
    assert [(r["method"], r["seed"]) for r in rows] == [
        (name, str(seed)) for name in ("plain", "tuned") for seed in range(3)
    ]
    assert {r["labels_per_class"] for r in rows} == {"2"}
    assert {r["dataset"] for r in rows} == {"fashion"}
    assert json.loads(rows[0]["found"]) == {"strength": 0.5}
    for row in rows:
        table = np.array(json.loads(row["confusion"]))
        assert np.trace(table) / table.sum() == float(row["test_accuracy"])
    tuning = study.Store(SMALL, tmp_path).rows(study.TUNED)
    best = max(tuning, key=lambda r: float(r["val_accuracy"]))["setting"]
    assert {r["setting"] for r in rows if r["method"] == "tuned"} == {best}


def test_the_test_split_is_seen_once_a_trial_and_never_for_a_choice(fakes, tmp_path):
    study.run(SMALL, folder=tmp_path)
    test_images = len(data.load("fashion").x_test)
    shown = [(name, steps, seed) for name, steps, seed, n in fakes if n == test_images]
    assert sorted(shown) == [
        (name, 3, seed) for name in ("plain", "tuned") for seed in range(3)
    ]


def test_a_task_holds_no_test_image():
    task = study.task_of(QUICK, QUICK.sizes[0], 0, 8)
    test = set(data.image_hashes(data.load("fashion").x_test))
    held = [v for v in vars(task).values() if isinstance(v, np.ndarray) and v.ndim == 4]
    assert len(held) == 3
    for images in held:
        assert not test.intersection(data.image_hashes(images))
    labelled, validation = (set(data.image_hashes(x)) for x in (task.x, task.x_val))
    assert not labelled & validation
    assert not validation & set(data.image_hashes(task.unlabelled))


def test_without_seeds_settings_are_compared_and_the_test_split_stays_closed(
    fakes, tmp_path
):
    size = dataclasses.replace(SMALL.sizes[0], seeds=())
    only_tuning = dataclasses.replace(SMALL, sizes=(size,))
    assert study.run(only_tuning, folder=tmp_path) == []
    assert len(study.Store(only_tuning, tmp_path).rows(study.TUNED)) == 3
    assert {n for *_, n in fakes} == {len(data.split(data.load("fashion"))[2])}


def test_methods_are_compared_on_the_same_nested_subsets():
    sizes = [study.Size(n, 1, 1, (3,), ()) for n in (2, 5)]
    few, more = (study.task_of(QUICK, size, 3, 1) for size in sizes)
    assert set(data.image_hashes(few.x)) < set(data.image_hashes(more.x))
    everything = study.task_of(QUICK, study.Size(0, 1, 1, (0,), ()), 0, 1)
    assert len(everything.y) == 10 * study.labels_per_class(
        QUICK, study.Size(0, 1, 1, (0,), ())
    )


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, its in study.STUDIES.items()
        if name != QUICK.name and any(size.seeds for size in its.sizes)
    ],
)
def test_the_stored_rows_use_what_did_best_on_validation_images(name):
    store = study.Store(study.STUDIES[name], claims.RESULTS)
    tuning, rows = store.rows(study.TUNED), store.rows(study.ROWS)
    assert rows
    keys = [(r["method"], r["labels_per_class"], r["seed"]) for r in rows]
    assert len(keys) == len(set(keys))
    for row in rows:
        grid = methods.METHODS[row["method"]].grid
        scores = {}
        for t in tuning:
            if all(t[k] == row[k] for k in ("method", "labels_per_class")):
                scores.setdefault(t["setting"], []).append(float(t["val_accuracy"]))
        if len(grid) > 1:
            assert set(scores) == {json.dumps(setting) for setting in grid}
            best = json.loads(max(scores, key=lambda s: np.mean(scores[s])))
            assert best.items() <= json.loads(row["setting"]).items()


@pytest.mark.parametrize("name", sorted({*study.STUDIES} - {QUICK.name}))
def test_the_stored_rows_were_made_by_the_code_that_is_here(name):
    path = study.Store(study.STUDIES[name], claims.RESULTS).path(".json")
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["code"] == {
        method: study.code_of(method) for method in stored["code"]
    }
    grid = json.loads(json.dumps(study.grid_of(study.STUDIES[name])))
    assert stored["grid"] == {part: grid.get(part) for part in stored["grid"]}


def test_the_baseline_is_tuned_as_much_as_the_favourite():
    grids = {name: methods.METHODS[name].grid for name in study.LADDER}
    trained = ("from scratch", "autoencoder, fine-tuned", "autoencoder, LP-FT")
    assert all(grids[name] == methods.TRAINED for name in trained)
    assert grids["random, frozen"] == grids["autoencoder, frozen"] == methods.FROZEN
    tried = {name: len(grid) for name, grid in grids.items() if len(grid) > 1}
    assert set(tried.values()) == {len(methods.STRENGTHS)}


def test_rows_do_not_depend_on_the_order_of_trials(fakes, tmp_path):
    at_once = study.run(SMALL, folder=tmp_path / "once")
    for seed in (2, 0, 1):
        study.run(SMALL, seeds=[seed], methods=["tuned"], folder=tmp_path / "parts")
    in_parts = study.run(SMALL, folder=tmp_path / "parts")
    assert rows_without_times(at_once) == rows_without_times(in_parts)


def test_what_is_there_is_not_run_again(fakes, tmp_path):
    study.run(SMALL, folder=tmp_path)
    calls = len(fakes)
    study.run(SMALL, folder=tmp_path)
    assert len(fakes) == calls


def test_each_commit_and_machine_that_made_rows_is_named_once(
    fakes, tmp_path, monkeypatch
):
    machine = {"hardware": "old"}
    found = claims.provenance
    monkeypatch.setattr(claims, "provenance", lambda *args: found(*args) | machine)
    path = study.Store(SMALL, tmp_path).path(".json")
    for hardware, methods_ in (
        ("old", ["plain"]),
        ("new", ["plain"]),  # nothing is left to do
        ("old", ["tuned"]),
    ):
        machine["hardware"] = hardware
        study.run(SMALL, methods=methods_, folder=tmp_path)
        made = json.loads(path.read_text(encoding="utf-8"))["provenance"]
        assert [entry["hardware"] for entry in made] == ["old"]
    machine["hardware"] = "new"
    more = dataclasses.replace(SMALL.sizes[0], labels=3)
    grown = dataclasses.replace(SMALL, sizes=(*SMALL.sizes, more))
    study.run(grown, folder=tmp_path)
    made = json.loads(path.read_text(encoding="utf-8"))["provenance"]
    assert [entry["hardware"] for entry in made] == ["old", "new"]
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    monkeypatch.setitem(study.STUDIES, SMALL.name, SMALL)
    card = study.card(SMALL.name)
    assert "machine: old, " in card and "machine: new, " in card


def test_a_card_names_few_commits_and_counts_many(fakes, tmp_path, monkeypatch):
    study.run(SMALL, methods=["plain"], folder=tmp_path)
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    monkeypatch.setitem(study.STUDIES, SMALL.name, SMALL)
    path = study.Store(SMALL, tmp_path).path(".json")
    content = json.loads(path.read_text(encoding="utf-8"))
    made = content["provenance"][0]
    for commits, shown in (("aabb", "commit a, b;"), ("abcd", "4 commits, a … d")):
        content["provenance"] = [made | {"commit": c} for c in commits]
        path.write_text(json.dumps(content), encoding="utf-8")
        assert f"code: {shown}" in study.card(SMALL.name)


@pytest.mark.parametrize("part", ["code", "sha256", "grid"])
def test_rows_of_other_code_data_or_grid_are_not_mixed(fakes, tmp_path, part):
    study.run(SMALL, methods=["plain"], folder=tmp_path)
    path = study.Store(SMALL, tmp_path).path(".json")
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = SMALL
    if part == "code":
        before["code"]["plain"] = "something else"
    elif part == "sha256":
        before["provenance"][-1]["sha256"] = "something else"
    else:
        changed = dataclasses.replace(SMALL, pretrain_epochs=7)
    path.write_text(json.dumps(before))
    with pytest.raises(RuntimeError, match=rf"{part}.*must not be mixed.*start anew"):
        study.run(changed, folder=tmp_path)


def test_other_steps_are_refused_but_new_methods_and_sizes_may_join(fakes, tmp_path):
    size = SMALL.sizes[0]
    one = dataclasses.replace(size, methods=("plain",))
    study.run(dataclasses.replace(SMALL, sizes=(one,)), folder=tmp_path)
    longer = dataclasses.replace(size, steps=4)
    with pytest.raises(RuntimeError, match="the grid of 'labels 2'"):
        study.run(dataclasses.replace(SMALL, sizes=(longer,)), folder=tmp_path)
    more = (size, dataclasses.replace(size, labels=3))
    rows = study.run(dataclasses.replace(SMALL, sizes=more), folder=tmp_path)
    assert len(rows) == 2 * 2 * 3
    kept = json.loads(
        study.Store(SMALL, tmp_path).path(".json").read_text(encoding="utf-8")
    )
    assert {"labels 2", "labels 3"} < set(kept["grid"])
    assert set(kept["code"]) == {"plain", "tuned"}


def test_what_the_study_does_not_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no method 'magic'; it has PCA, .*pixels"):
        study.run(QUICK, methods=["magic"], folder=tmp_path)
    with pytest.raises(ValueError, match="no number of labels 7; it has 4"):
        study.run(QUICK, labels=[7], folder=tmp_path)


def test_the_hash_of_code_sees_what_a_function_uses_and_nothing_else(
    tmp_path, monkeypatch
):
    def hash_of(text):
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "pretrain_scratch.py").write_text(text)
        sys.modules.pop("pretrain_scratch", None)
        import linecache

        linecache.clearcache()
        module = __import__("pretrain_scratch")
        monkeypatch.setattr(cache, "__package__", "pretrain_scratch", raising=False)
        return cache.code_hash(module.method)

    base = "N = 3\ndef helper():\n    return N\ndef method():\n    return helper()\n"
    assert hash_of(base) == hash_of(base + "def other():\n    pass\n")
    # Each version of Python has to find this one.
    assert hash_of(base) == "5955626ef42d179f"
    commented = base.replace("def method():", 'def method():\n    "words"\n    # more')
    assert hash_of(commented) == hash_of(base)
    assert hash_of(base) != hash_of(base.replace("N = 3", "N = 4"))
    assert hash_of(base) != hash_of(base.replace("return N", "return -N"))
    for before, after in (("3", "'a'"), ("3", "{'a': 1}"), ("{1: 2}", "{1: 3}")):
        kept = [base.replace("N = 3", f"N = {value}") for value in (before, after)]
        assert hash_of(kept[0]) != hash_of(kept[1])
    # A constant of another module of the package.
    through = "import sys\nme = sys.modules[__name__]\n" + base
    through = through.replace("return N", "return me.N")
    assert hash_of(through) != hash_of(through.replace("N = 3", "N = 4"))
    other = "def other():\n    return {}\n"
    local = base.replace(
        "    return helper()", "    other = helper()\n    return other"
    )
    assert hash_of(local + other.format(1)) == hash_of(local + other.format(2))
    used = base.replace("    return helper()", "    return helper() + other()")
    assert hash_of(used + other.format(1)) != hash_of(used + other.format(2))


# These two train, and compile, some dozens of networks: once, with the default engine.
slow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the engine is not the subject"
)
COMMAND = [sys.executable, "-m", "pretrain.study", QUICK.name, "--folder"]


def environment(tmp_path):
    return {**os.environ, "PYTHONPATH": str(BOOK), "PRETRAIN_CACHE": str(tmp_path)}


@slow
def test_a_killed_study_goes_on_where_it_was(tmp_path):
    command = [*COMMAND, str(tmp_path)]
    process = subprocess.Popen(
        command,
        env=environment(tmp_path),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    table = tmp_path / f"{QUICK.name}.csv"
    deadline = time.monotonic() + 600  # far more than a slow machine needs
    while not table.exists() or len(table.read_text(encoding="utf-8").splitlines()) < 4:
        assert process.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < deadline, "no row came"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = table.read_text(encoding="utf-8").splitlines()[1:]
    assert before
    subprocess.run(command, env=environment(tmp_path), check=True, capture_output=True)
    after = table.read_text(encoding="utf-8").splitlines()[1:]
    assert set(before) <= set(after), "a finished row is kept as it is"
    store = study.Store(QUICK, tmp_path)
    keys = [(r["method"], r["seed"]) for r in store.rows(study.ROWS)]
    assert sorted(keys) == sorted(
        (name, str(seed)) for name in study.LADDER for seed in (0, 1)
    )

    # The same trial, in fresh processes and a folder of its own, gives the same row.
    alone = [*COMMAND, str(tmp_path / "alone"), "--methods", "from scratch"]
    subprocess.run(
        [*alone, "--seeds", "0"],
        env=environment(tmp_path),
        check=True,
        capture_output=True,
    )
    again = study.Store(QUICK, tmp_path / "alone").rows(study.ROWS)
    first = [r for r in store.rows(study.ROWS) if r["method"] == "from scratch"][:1]
    assert rows_without_times(again) == rows_without_times(first)


@slow
def test_trials_run_on_dask_workers(tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        rows = study.run(QUICK, methods=["pixels", "PCA"], folder=tmp_path)
    assert len(rows) == 4
    here = study.run(QUICK, methods=["pixels", "PCA"], folder=tmp_path / "here")
    assert rows_without_times(rows) == rows_without_times(here)


def test_a_card_says_where_the_test_split_stayed_closed():
    card = study.card("freezing_cifar10")
    assert "30 runs on validation images only, seeds [0, 1, 2]" in card


def test_several_draws_may_judge_a_setting(fakes, tmp_path):
    size = dataclasses.replace(SMALL.sizes[0], seeds=(), tuning_seeds=(0, 1))
    study.run(dataclasses.replace(SMALL, sizes=(size,)), folder=tmp_path)
    tuning = study.Store(SMALL, tmp_path).rows(study.TUNED)
    assert [(json.loads(r["setting"])["rate"], r["seed"]) for r in tuning] == [
        (rate, seed) for seed in "01" for rate in (1, 2, 3)
    ]


def test_the_mean_over_several_draws_chooses(tmp_path, monkeypatch):
    size = dataclasses.replace(SMALL.sizes[0], tuning_seeds=(0, 1))
    one = methods.Method(lambda task: None, ({"rate": 1}, {"rate": 2}))
    monkeypatch.setitem(study.METHODS, "tuned", one)
    store = study.Store(SMALL, tmp_path)
    row = dict.fromkeys(study.TUNING, 0) | {"method": "tuned", "labels_per_class": 2}
    # The second draw alone would choose rate 2.
    for rate, scores in ((1, (0.9, 0.5)), (2, (0.4, 0.6))):
        for seed, score in enumerate(scores):
            setting = json.dumps({"rate": rate})
            found = {"seed": seed, "setting": setting, "val_accuracy": score}
            store.append(study.TUNED, study.TUNING, row | found)
    assert study.chosen_setting(SMALL, size, "tuned", store) == {"rate": 1}


def test_chapters_read_what_a_study_stored(fakes, tmp_path, monkeypatch):
    rows = study.run(SMALL, folder=tmp_path)
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    monkeypatch.setattr(study, "STUDIES", {SMALL.name: SMALL})
    found = study.results(SMALL.name)
    assert list(found) == ["plain", "tuned"]
    assert found["plain"][2] == dict.fromkeys(range(3), 10.0)
    size = dataclasses.replace(SMALL.sizes[0], seeds=(0, 1, 2, 3))
    unfinished = dataclasses.replace(SMALL, sizes=(size,))
    monkeypatch.setitem(study.STUDIES, SMALL.name, unfinished)
    assert study.results(SMALL.name) == {"plain": {}, "tuned": {}}
    counts = study.confusion(SMALL.name, "plain", 2)
    assert counts.sum() == 3 * len(data.load("fashion").x_test)
    assert (counts[:, 1:] == 0).all()
    np.testing.assert_array_equal(
        study.confusion(SMALL.name, "plain", 2, seed=1), counts / 3
    )
    pretraining, training = study.seconds(SMALL.name, "plain", 2)
    assert pretraining == 0 and training >= 0
    rates = [run["rate"] for run in study.tried(SMALL.name)]
    assert sorted(rates) == [1, 2, 3]
    assert study.best(SMALL.name, rate=2)["rate"] == 2
    best = max(run["val_accuracy"] for run in study.tried(SMALL.name))
    assert study.best(SMALL.name, layer=None)["val_accuracy"] == best
    card = study.card(SMALL.name)
    assert f"{len(rows)} trials, seeds [0, 1, 2], after 3 tuning runs" in card
    assert data.EMBEDDED_SHA256[:16] in card
