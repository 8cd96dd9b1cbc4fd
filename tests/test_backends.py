"""The same weights and images give the same training step in every engine."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BOOK = Path(__file__).parent.parent / "book"

STEP = """
import sys
import pretrain
import keras, numpy as np
from pretrain import models, objectives

rng = np.random.default_rng(0)
if sys.argv[2] == "autoencoder":
    encoder = models.conv_encoder(filters=(4, 8))
    model = objectives.Autoencoder(encoder, models.conv_decoder((8, 8, 8), (4,)))
else:
    encoder = models.patch_encoder((32, 32, 3), 8, 1, patch=8, heads=2)
    decoder = models.patch_decoder((4, 4, 8), 8, 1, patch=8, heads=2)
    model = objectives.MaskedAutoencoder(encoder, decoder)
    # Engines draw differently: here they get the same order.
    order = rng.permuted(np.tile(np.arange(16), (16, 1)), axis=1).astype("int32")
    model.draw = lambda batch: keras.ops.convert_to_tensor(order)
model.set_weights([rng.normal(0, 0.2, w.shape) ** 2 for w in model.get_weights()])
model.compile(keras.optimizers.SGD(1.0))
images = rng.integers(0, 256, (16, 32, 32, 3)).astype("uint8")
model.fit(images, batch_size=16, epochs=1, shuffle=False, verbose=0)
np.savez(sys.argv[1], *model.get_weights())
"""


def weights_after_a_step(backend, objective, path):
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(BOOK)}
    subprocess.run(
        [sys.executable, "-c", STEP, path, objective],
        env=environment,
        check=True,
        capture_output=True,
    )
    with np.load(path) as stored:
        return [stored[name] for name in stored.files]


@pytest.mark.parametrize("objective", ["autoencoder", "masked autoencoder"])
def test_tensorflow_and_jax_take_the_same_step(objective, tmp_path):
    pytest.importorskip("jax")
    ours, theirs = (
        weights_after_a_step(backend, objective, tmp_path / f"{backend}.npz")
        for backend in ("tensorflow", "jax")
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
