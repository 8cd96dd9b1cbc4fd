"""Images per second of the book's autoencoder: Keras against PyTorch, in turn.

Usage: python tests/benchmarks/training_speed.py [--torch-python PATH]

The same network (three strided stages, 32-64-128, encoder normalised), optimizer and
batch size are trained on the same random images in one process per framework, which
take turns. PyTorch uses channels-last memory. PATH is a Python that has PyTorch, which
the book itself does not need; the default is this one. Also measured: what the
augmentation adds to a step. Prints a table and asserts nothing.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

IMAGES, BATCH, EPOCHS, TURNS = 8_192, 128, 4, 3
ROOT = Path(__file__).parent.parent.parent


def rates(epoch) -> list[float]:
    """Return images per second of each epoch after one to warm up."""
    epoch()
    seconds = []
    for _ in range(EPOCHS):
        start = time.perf_counter()
        epoch()
        seconds.append(time.perf_counter() - start)
    return [IMAGES / s for s in seconds]


def run_keras(augment: bool = False) -> list[float]:
    """Train the book's autoencoder as its chapters do."""
    sys.path.insert(0, str(ROOT / "book"))
    import keras
    import numpy as np

    from pretrain import feed, layers, models, objectives, profiles

    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)
    encoder = models.conv_encoder()
    if augment:
        image = keras.Input((32, 32, 3))
        encoder = keras.Model(image, encoder(layers.RandomCropFlip()(image)))
    model = objectives.Autoencoder(encoder, models.conv_decoder())
    model.compile("adam", **profiles.compile_options())
    batches = feed.batches(images, batch_size=BATCH)
    return rates(lambda: model.fit(batches, shuffle=False, verbose=0))


def run_torch() -> list[float]:
    """Train the same network in PyTorch."""
    import torch
    from torch import nn

    stages, c = [], 3
    for f in (32, 64, 128):
        stages += [nn.Conv2d(c, f, 3, 2, 1, bias=False), nn.BatchNorm2d(f), nn.ReLU()]
        c = f
    for f in (64, 32):
        stages += [nn.ConvTranspose2d(c, f, 3, 2, 1, 1), nn.ReLU()]
        c = f
    stages += [nn.ConvTranspose2d(c, 3, 3, 2, 1, 1), nn.Sigmoid()]
    model = nn.Sequential(*stages).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    images = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8)
    images = images.to(memory_format=torch.channels_last)

    def epoch():
        order = torch.randperm(IMAGES)
        for i in range(0, IMAGES, BATCH):
            batch = images[order[i : i + BATCH]].float().div_(255)
            batch = batch.contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad(set_to_none=True)
            nn.functional.mse_loss(model(batch), batch).backward()
            optimizer.step()

    return rates(epoch)


RUNS = {
    "keras": run_keras,
    "keras, augmented": lambda: run_keras(augment=True),
    "pytorch": run_torch,
}


def main() -> None:
    """Run every framework `TURNS` times in turn and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--only", choices=RUNS, help="one run, rates on one line")
    arguments = parser.parse_args()
    if arguments.only:
        print(*[f"{r:.0f}" for r in RUNS[arguments.only]()])
        return
    found: dict[str, list[float]] = {name: [] for name in RUNS}
    for _ in range(TURNS):
        for name in RUNS:
            python = arguments.torch_python if name == "pytorch" else sys.executable
            command = [python, __file__, "--only", name]
            output = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name] += [float(r) for r in output.stdout.split()]
    best = statistics.median(found["pytorch"])
    epochs = TURNS * EPOCHS
    print(f"batch {BATCH}, float32, images/s, median (range) of {epochs} epochs")
    for name, values in found.items():
        median = statistics.median(values)
        print(
            f"{name:18} {median:6.0f} ({min(values):.0f} to {max(values):.0f})"
            f"  {median / best:.2f} of PyTorch"
        )


if __name__ == "__main__":
    main()
