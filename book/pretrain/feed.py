"""How images reach a network in training."""

import numpy as np
import tensorflow as tf


def batches(
    x: np.ndarray,
    y: np.ndarray | None = None,
    *,
    batch_size: int,
    steps: int | None = None,
    seed: int = 0,
) -> tf.data.Dataset:
    """Return shuffled batches of images, with their labels if there are any.

    Keras trains on a `tf.data.Dataset` with every backend. Given the arrays, it would
    make one itself, with automatic tuning switched on: the tuner's thread, asked to
    end after each pass, can sleep until its next turn, which doubled the time of a
    pass on two cores. Here it is off.

    Args:
        x, y: images, (n, height, width, channels), and labels, (n,).
        batch_size: the last batch of a pass may be smaller.
        steps: make exactly so many full batches, in as many passes as it takes, with
            every image used equally often up to one. Default: one pass.
        seed: fixes the order, which differs from pass to pass.
    """
    rows = tf.data.Dataset.range(len(x)).shuffle(len(x), seed=seed)
    if steps is None:
        rows = rows.batch(batch_size)
    else:
        rows = rows.repeat().batch(batch_size, drop_remainder=True).take(steps)
    with tf.device("CPU"):
        arrays = tf.constant(x) if y is None else (tf.constant(x), tf.constant(y))
    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    fetched = rows.map(
        lambda row: tf.nest.map_structure(lambda array: tf.gather(array, row), arrays)
    )
    return fetched.prefetch(2).with_options(options)
