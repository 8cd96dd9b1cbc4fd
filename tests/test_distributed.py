"""Several devices, processes and engines take the steps that a single device takes."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import keras
import numpy as np
import pytest

from pretrain import distributed

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="its processes choose their engines themselves: once is enough",
)

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1)).astype("uint8")

# A processor can only be split before TensorFlow has computed anything.
ALONE_AND_TOGETHER = """
import sys
from dataclasses import replace
from pathlib import Path
from pretrain import distributed
import tensorflow as tf

parts = distributed.split_processor(2)
alone, together = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(parts)
run = distributed.Run(Path(sys.argv[1]), steps=8, batch_size=8)
for normalisation in distributed.NORMALISATION:
    this = replace(run, normalisation=normalisation)
    for name, strategy in {"alone": alone, "together": together}.items():
        trained = distributed.train(this, strategy)
        distributed.store(run, f"{name}-{normalisation}", *trained)
"""


def new_run(folder):
    np.save(folder / "images.npy", IMAGES)
    return distributed.Run(folder, steps=8, batch_size=8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights and reports of one device and of two, with each kind of batch norm."""
    run = new_run(tmp_path_factory.mktemp("trained"))
    subprocess.run(
        [sys.executable, "-c", ALONE_AND_TOGETHER, run.folder],
        env=os.environ | {"PYTHONPATH": str(distributed.BOOK)},
        check=True,
        capture_output=True,
    )
    names = [path.stem for path in run.folder.glob("*.npz")]
    return {name: distributed.result(run, name) for name in names}


# --------------------------------------------------------------------- nothing started


def test_the_shares_of_a_batch_make_up_the_batch(tmp_path):
    run = new_run(tmp_path)
    assert run.rows(0).tolist() == list(range(8))
    # 8 · 4 = 32 is the first row of the fifth step; behind the last row comes the first
    parts = [run.rows(4, share, 4).tolist() for share in range(4)]
    assert parts == [[32, 33], [34, 35], [36, 37], [38, 39]]
    assert run.rows(5).tolist() == list(range(8))


def test_a_batch_without_equal_shares_is_refused(tmp_path):
    with pytest.raises(ValueError, match="8 images has no 3 equal shares"):
        new_run(tmp_path).rows(0, 0, 3)


def test_the_first_weights_are_always_the_same():
    one, other = (distributed.network((8, 8, 1), "none") for _ in range(2))
    assert distributed.difference(one.get_weights(), other.get_weights()) == 0
    assert np.std(one.get_weights()[0]) > 0.1


def test_difference_is_the_largest_of_any_weight():
    ours = [np.zeros(3), np.array([[1.0, -2.0]])]
    theirs = [np.array([0, 0.5, 0]), np.array([[1.0, 1.0]])]
    assert distributed.difference(ours, theirs) == 3
    with pytest.raises(ValueError):
        distributed.difference(ours, theirs[:1])


# ------------------------------------------------------------------------ other devices


@pytest.mark.parametrize(
    ("normalisation", "low", "high"),
    [("none", 0, 1e-5), ("batch", 1e-4, 1), ("synchronised", 0, 1e-4)],
)
def test_two_devices_equal_one_but_for_batch_norm(normalisation, low, high, trained):
    pair = (trained[f"{name}-{normalisation}"][0] for name in ("alone", "together"))
    assert low <= distributed.difference(*pair) < high


def test_training_makes_the_error_smaller(trained):
    losses = trained["alone-none"][1]["losses"]
    assert len(losses) == 8 and losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("command", ["mirrored", "sharded"])
def test_a_process_with_two_devices_equals_one_device(command, trained, tmp_path):
    weights, report = distributed.call(new_run(tmp_path), command, "--devices", 2)
    reference, alone = trained["alone-none"]
    assert distributed.difference(weights, reference) < 1e-5
    np.testing.assert_allclose(report["losses"], alone["losses"], rtol=1e-4)


def test_checkpoints_of_another_run_are_refused(tmp_path):
    run = new_run(tmp_path)
    distributed.claim_checkpoints(run, tmp_path / "checkpoints")
    distributed.claim_checkpoints(run, tmp_path / "checkpoints")
    other = replace(run, batch_size=16)
    with pytest.raises(ValueError, match=r"'batch_size': 8.*choose another folder"):
        distributed.claim_checkpoints(other, tmp_path / "checkpoints")
    np.save(tmp_path / "images.npy", 255 - IMAGES)
    with pytest.raises(ValueError, match="choose another folder"):
        distributed.claim_checkpoints(run, tmp_path / "checkpoints")


# ---------------------------------------------------------------------- other processes


def test_workers_that_lose_one_end_where_one_device_does(trained, tmp_path):
    run = new_run(tmp_path)
    reference, alone = trained["alone-none"]
    assert distributed.local(run, 2, die_before=5) == 1
    for i in range(2):
        weights, report = distributed.result(run, f"worker{i}")
        assert distributed.difference(weights, reference) < 1e-5
        assert report["first"] == 4, "from the checkpoint, not from the start"
        np.testing.assert_allclose(report["losses"], alone["losses"][4:], rtol=1e-4)


def still_running(processes):
    return [process.pid for process in processes if process.poll() is None]


@pytest.fixture
def started(monkeypatch):
    """Collect the processes that are started."""
    processes, start = [], distributed.start

    def and_remember(*arguments, **options):
        processes.append(start(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(distributed, "start", and_remember)
    return processes


def test_workers_that_fail_are_named_and_leave_nobody_behind(
    started, tmp_path, monkeypatch
):
    monkeypatch.setattr(distributed, "STARTS", 1)
    run = new_run(tmp_path)
    (tmp_path / "images.npy").write_text("no images")
    with pytest.raises(RuntimeError, match=r"(?s)worker0 failed.*Error"):
        distributed.local(run, 2)
    assert len(started) == 2
    assert not still_running(started)


def test_a_run_out_of_time_leaves_nobody_behind(started, tmp_path):
    run = new_run(tmp_path)
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match="took too long"):
        distributed.local(run, 2, limit=0.5)
    with pytest.raises(RuntimeError, match="took too long"):
        distributed.call(run, "mirrored", limit=0.5)
    assert time.monotonic() - begin < 20
    assert len(started) == 3
    assert not still_running(started)


def test_a_worker_left_alone_ends_by_itself(tmp_path):
    # Its partner never comes, and nobody watches: only its own clock is left.
    ports = distributed.free_ports(2)
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}})
    run = new_run(tmp_path)
    process = distributed.start(run, "worker", "--limit", 3, TF_CONFIG=config)
    try:
        assert process.wait(timeout=100) == 1
        assert "Timeout (" in (tmp_path / "worker.log").read_text("utf-8")
    finally:
        distributed.end([process])
