"""One training run on several devices or machines, with the weights of a single one.

    python -m pretrain.distributed mirrored FOLDER --devices 2
    python -m pretrain.distributed local FOLDER --devices 2
    python -m pretrain.distributed worker FOLDER
    KERAS_BACKEND=jax python -m pretrain.distributed sharded FOLDER --devices 2

All train one small autoencoder by data parallelism: each device takes its share of
every batch, and all of them take one common step along the mean of their gradients. The
folder holds `images.npy`; the weights at the end are written beside it, as
`<command>.npz` or, for each worker, `worker0.npz` and so on, with a report in JSON.

`mirrored` and `sharded` use the GPUs of this machine, through TensorFlow and through
JAX; with `--devices`, they split its processor instead. `worker` is one of several
processes, on any number of machines, which the variable `TF_CONFIG` tells of each
other. `local` starts workers on this machine, and starts all again if one is lost.
Across machines the folder must be shared and the network trusted: what workers say to
each other is neither encrypted nor authenticated.
"""

import argparse
import contextlib
import faulthandler
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import keras
import numpy as np
from keras import layers

from pretrain import models
from pretrain.cache import digest, read_json, write_text, write_whole

NORMALISATION = {
    "none": layers.Identity,
    "batch": layers.BatchNormalization,
    "synchronised": partial(layers.BatchNormalization, synchronized=True),
}
SAVE_EVERY = 2  # steps; a long run would count in minutes
STARTS = 3  # of all workers, before `local` gives up
BOOK = Path(__file__).parent.parent


@dataclass(frozen=True)
class Run:
    """What decides the weights at the end, whatever computes them.

    Args:
        folder: holds `images.npy`, (n, height, width, channels), values 0 … 255.
        steps: gradient steps.
        batch_size: images of one step, all devices together.
        normalisation: a key of `NORMALISATION`.
    """

    folder: Path
    steps: int = 12
    batch_size: int = 64
    normalisation: str = "none"

    def images(self) -> np.ndarray:
        return np.load(self.folder / "images.npy", mmap_mode="r")

    def rows(self, step: int, share: int = 0, shares: int = 1) -> np.ndarray:
        """Return which images one of several equal shares of a step's batch holds.

        They follow from the number of the step alone, so that a run that starts again
        in the middle goes on with the images it would have had.

        Raises:
            ValueError: if the batch cannot be split so.
        """
        if self.batch_size % shares:
            raise ValueError(
                f"A batch of {self.batch_size} images has no {shares} equal shares."
            )
        part = self.batch_size // shares
        first = step * self.batch_size + share * part
        return np.arange(first, first + part) % len(self.images())


def network(input_shape: models.Shape, normalisation: str) -> keras.Model:
    """Return a small convolutional autoencoder, with the same weights every time.

    They are drawn by NumPy, since each engine has a random generator of its own.

    Shapes: images in 0 … 255 → images in [0, 1].
    """
    image = keras.Input(input_shape, name="image")
    h = layers.Rescaling(1 / 255)(image)
    for filters in (16, 32):
        h = layers.Conv2D(filters, 3, strides=2, padding="same")(h)
        h = layers.ReLU()(NORMALISATION[normalisation]()(h))
    decoder = models.conv_decoder(h.shape[1:], (16,), input_shape[-1])
    model = keras.Model(image, decoder(h))
    rng = np.random.default_rng(0)
    for layer in [*model.layers, *decoder.layers]:
        if hasattr(layer, "kernel"):
            shape = layer.kernel.shape
            deviation = (2 / np.prod(shape[:3])) ** 0.5
            layer.kernel.assign(rng.normal(0, deviation, shape).astype("float32"))
    return model


def optimizer() -> keras.optimizers.Optimizer:
    """Return momentum; it lets rounding errors be, where Adam would blow them up."""
    return keras.optimizers.SGD(0.05, momentum=0.9)


# ------------------------------------------------------------------------ TensorFlow


def replica_step(model, optimizer, images, shares: int):
    """Take one device's part in a step; return its part of the loss."""
    import tensorflow as tf

    target = tf.cast(images, "float32") / 255
    with tf.GradientTape() as tape:
        error = tf.reduce_mean(tf.square(target - model(images, training=True)))
        loss = error / shares  # for the optimizer adds up what all devices give
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)
    return loss


def train(
    run: Run, strategy, checkpoints: Path | None = None, die_before: int | None = None
) -> tuple[list[np.ndarray], dict]:
    """Train with a `tf.distribute.Strategy`.

    Args:
        run: what to train.
        strategy: knows the devices, and adds up their gradients.
        checkpoints: a folder. Whoever begins goes on from the last checkpoint in it;
            the first of the workers makes new ones. Default: there are none.
        die_before: the step before which this process kills itself, to see what
            becomes of the others.

    Returns:
        The weights; and a report with the step that the run began at, the loss of each
        step since, and its seconds.

    Raises:
        ValueError: if the checkpoints are those of a run with other settings or images.
    """
    import tensorflow as tf

    if checkpoints:
        claim_checkpoints(run, checkpoints)
    shares = strategy.num_replicas_in_sync
    with strategy.scope():
        model = network(run.images().shape[1:], run.normalisation)
        momentum = optimizer()
        momentum.build(model.trainable_variables)
        done = tf.Variable(0, dtype="int64")
    manager = None
    if checkpoints:
        state = tf.train.Checkpoint(model=model, optimizer=momentum, done=done)
        manager = tf.train.CheckpointManager(state, checkpoints, max_to_keep=2)
        manager.restore_or_initialize()
    first = int(done.numpy())

    @tf.function
    def step(batch):
        part = strategy.run(replica_step, (model, momentum, batch, shares))
        return strategy.reduce("SUM", part, axis=None)

    batches = iter(
        strategy.distribute_datasets_from_function(partial(feed, run, first, shares))
    )
    losses, seconds = [], []
    for i in range(first, run.steps):
        if i == die_before:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        start = time.perf_counter()
        losses.append(float(step(next(batches))))
        seconds.append(time.perf_counter() - start)
        done.assign_add(1)
        # The copies of all workers are equal: the first saves for all.
        if manager and task_id(strategy) == 0 and (i + 1) % SAVE_EVERY == 0:
            manager.save()
    report = {"first": first, "losses": losses, "seconds": seconds}
    return model.get_weights(), report


def claim_checkpoints(run: Run, checkpoints: Path) -> None:
    """Write what decides a run beside its checkpoints, or compare with that."""
    kept = ("steps", "batch_size", "normalisation")
    ours: dict[str, object] = {name: getattr(run, name) for name in kept}
    ours["images"] = digest([run.images()])
    path = checkpoints / "settings.json"
    if not path.exists():
        checkpoints.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(ours))
    theirs = read_json(path)
    if theirs != ours:
        raise ValueError(
            f"The checkpoints are those of a run with {theirs}, not {ours}: "
            "choose another folder, or remove them to start anew."
        )


def feed(run: Run, first: int, shares: int, context):
    """Return the batches of one process: in each step, those of its devices in turn."""
    import tensorflow as tf

    images = run.images()
    shape = (run.batch_size // shares, *images.shape[1:])

    def fetch(i):
        return images[run.rows(*divmod(int(i), shares), shares)]

    def batch(i):
        return tf.ensure_shape(tf.numpy_function(fetch, [i], images.dtype), shape)

    numbers = tf.data.Dataset.range(first * shares, run.steps * shares)
    ours = numbers.shard(context.num_input_pipelines, context.input_pipeline_id)
    return ours.map(batch).prefetch(1)


def task_id(strategy) -> int:
    """Return the number of this process among the workers of its cluster."""
    return strategy.cluster_resolver.task_id


def split_processor(devices: int) -> list[str]:
    """Make TensorFlow see the processor as several devices; return their names.

    Raises:
        RuntimeError: if TensorFlow has computed something already, or only listed its
            devices: then it is too late.
    """
    import tensorflow as tf

    parts = [tf.config.LogicalDeviceConfiguration()] * devices
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, parts)
    return [f"CPU:{i}" for i in range(devices)]


def mirrored(run: Run, devices: int | None) -> None:
    """Train in one process, on all GPUs or on parts of the processor."""
    import tensorflow as tf

    names = split_processor(devices) if devices else None
    store(run, "mirrored", *train(run, tf.distribute.MirroredStrategy(names)))


def worker(run: Run, die_before: int | None) -> None:
    """Train as one of the processes named in `TF_CONFIG`."""
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    trained = train(run, strategy, run.folder / "checkpoints", die_before)
    store(run, f"worker{task_id(strategy)}", *trained)
    # Who leaves first takes along what others may still have to hear of the last step.
    # So all meet once more, where it does no harm if somebody is gone.
    with contextlib.suppress(tf.errors.OpError):
        strategy.reduce("SUM", strategy.run(lambda: tf.constant(0)), axis=None)
    # All is written, and TensorFlow takes seconds to close a cluster.
    os._exit(0)


# ------------------------------------------------------------------------------- JAX


def sharded(run: Run, devices: int | None) -> None:
    """Train in one process with JAX, on all GPUs or on parts of the processor."""
    import jax

    if devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    images = run.images()
    model = network(images.shape[1:], run.normalisation)
    model.compile(optimizer(), "mean_squared_error")
    losses, seconds = [], []
    for step in range(run.steps):
        batch = images[run.rows(step)].astype("float32")
        start = time.perf_counter()
        losses.append(float(model.train_on_batch(batch, batch / 255)))
        seconds.append(time.perf_counter() - start)
    report = {"first": 0, "losses": losses, "seconds": seconds}
    store(run, "sharded", model.get_weights(), report)


# ----------------------------------------------------------------- results in a folder


def store(run: Run, name: str, weights: list[np.ndarray], report: dict) -> None:
    """Write weights and report into the folder of the run, each whole or not at all."""

    def save(path):
        with open(path, "wb") as file:  # np.savez would add its ending to a path
            np.savez(file, *weights)

    write_whole(run.folder / f"{name}.npz", save)
    write_text(run.folder / f"{name}.json", json.dumps(report))


def result(run: Run, name: str) -> tuple[list[np.ndarray], dict]:
    """Return weights and report of a command that has ended, by its name."""
    with np.load(run.folder / f"{name}.npz") as stored:
        weights = [stored[key] for key in stored.files]
    return weights, read_json(run.folder / f"{name}.json")


def difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """Return the largest difference between two weights of the same place."""
    pairs = zip(ours, theirs, strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


# ------------------------------------------------------------------------- processes


def start(
    run: Run, command: str, *options: object, name: str = "", **environment: str
) -> subprocess.Popen:
    """Start a command of this module as a process of its own, without a GPU.

    What it prints goes to `<name>.log` in the folder of the run.

    Args:
        name: of the log. Default: that of the command.
        environment: variables to set.
    """
    engine = "jax" if command == "sharded" else "tensorflow"
    own = {"KERAS_BACKEND": engine, "CUDA_VISIBLE_DEVICES": "-1", **environment}
    line = [sys.executable, "-m", "pretrain.distributed", command]
    line += [run.folder.resolve(), "--steps", run.steps, "--batch-size", run.batch_size]
    line += ["--normalisation", run.normalisation, *options]
    with open(run.folder / f"{name or command}.log", "wb") as log:
        return subprocess.Popen(
            [str(part) for part in line],
            cwd=BOOK,
            env=os.environ | own,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def ended_well(processes: Sequence[subprocess.Popen], deadline: float) -> bool:
    """Wait until all processes end well, or one of them badly; tell which it was.

    Args:
        deadline: on the clock of `time.monotonic`; then the answer is no.
    """
    while time.monotonic() < deadline:
        codes = [process.poll() for process in processes]
        if any(codes):
            return False
        if None not in codes:
            return True
        time.sleep(0.02)
    return False


def end(processes: Sequence[subprocess.Popen]) -> None:
    """End processes that still run."""
    for process in processes:
        process.kill()
        process.wait()


def call(
    run: Run, command: str, *options: object, limit: float = 300
) -> tuple[list[np.ndarray], dict]:
    """Run a command in a process of its own; return its weights and its report.

    Raises:
        RuntimeError: if it failed, or took more than `limit` seconds.
    """
    process = start(run, command, *options, "--limit", limit)
    deadline = time.monotonic() + limit
    try:
        well = ended_well([process], deadline)
    finally:
        end([process])
    if not well:
        raise RuntimeError(said(run, command, deadline))
    return result(run, command)


def local(
    run: Run, devices: int | None, die_before: int | None = None, limit: float = 300
) -> int:
    """Start workers on this machine, and all again, from a checkpoint, if one is lost.

    Args:
        devices: number of workers. Default: 2.
        die_before: the step before which the last worker kills itself, once.
        limit: seconds for everything.

    Returns:
        How often all had to be started again.

    Raises:
        RuntimeError: if they were lost too often, or took too long.
    """
    devices = devices or 2
    deadline = time.monotonic() + limit
    for again in range(STARTS):
        cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(devices)]}
        processes = []
        try:
            for i in range(devices):
                task = {"type": "worker", "index": i}
                options = ["--limit", deadline - time.monotonic()]
                if die_before is not None and i == devices - 1 and again == 0:
                    options += ["--die-before", die_before]
                config = json.dumps({"cluster": cluster, "task": task})
                name = f"worker{i}"
                processes.append(
                    start(run, "worker", *options, name=name, TF_CONFIG=config)
                )
            well = ended_well(processes, deadline)
        finally:
            end(processes)
        if well:
            return again
        if time.monotonic() > deadline:
            break
    raise RuntimeError(said(run, "worker0", deadline))


def free_ports(n: int) -> list[int]:
    """Return ports of this machine that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def said(run: Run, name: str, deadline: float) -> str:
    """Return how a process ended badly, and the end of what it printed."""
    how = "took too long" if time.monotonic() > deadline else "failed"
    path = run.folder / f"{name}.log"
    lines = path.read_text("utf-8", errors="replace").splitlines()[-20:]
    return f"{name} {how}. The end of {path}:\n" + "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = {c.__name__: c for c in (mirrored, local, worker, sharded)}
    parser.add_argument("command", choices=commands)
    parser.add_argument("folder", type=Path, help="holds images.npy; shared by all")
    parser.add_argument("--steps", type=int, default=Run.steps)
    parser.add_argument("--batch-size", type=int, default=Run.batch_size)
    parser.add_argument("--normalisation", choices=NORMALISATION, default="none")
    parser.add_argument("--devices", type=int, help="parts of the processor, workers")
    parser.add_argument("--die-before", type=int, metavar="STEP", help="worker, local")
    parser.add_argument("--limit", type=float, default=3600, help="seconds, then exit")
    given = vars(parser.parse_args(arguments))
    command = commands[given.pop("command")]
    run = Run(*(given.pop(field.name) for field in fields(Run)))
    # Who started this process may be gone, and a worker waits for others for ever, deep
    # inside TensorFlow, where no thread of Python can run: this clock is none. `local`
    # keeps the time itself, and ends its workers.
    if command is not local:
        faulthandler.dump_traceback_later(given["limit"], exit=True)
    takes = inspect.signature(command).parameters
    command(run, **{name: given[name] for name in given if name in takes})


if __name__ == "__main__":
    main()
