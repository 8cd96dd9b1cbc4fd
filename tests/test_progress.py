"""The progress line says what is left, and leaves the same text for the same run."""

import keras
import numpy as np
import pytest

from pretrain import progress


class Handle:
    """Stands for the place in a notebook that shows a text."""

    def __init__(self):
        self.texts = []

    def update(self, shown):
        self.texts.append(str(shown.data))


@pytest.fixture
def handles(monkeypatch):
    found = []

    def display(shown, display_id):
        found.append(Handle())
        found[-1].update(shown)
        return found[-1]

    monkeypatch.setattr(progress, "display", display)
    return found


def train(callback):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    x = np.ones((8, 2))
    model.fit(
        x,
        x[:, :1],
        batch_size=2,
        epochs=3,
        verbose=0,
        callbacks=[callback],
        shuffle=False,
    )


def test_two_runs_with_one_seed_leave_the_same_text(handles):
    for _ in range(2):
        train(progress.Progress("Training"))
    first, second = (handle.texts for handle in handles)
    assert first[0] == "Training …"
    assert first[-1] == second[-1]
    assert first[-1].startswith("Training: 12 steps, loss 0.")


def test_the_line_tells_the_share_done_and_the_time_left(handles, monkeypatch):
    clock = iter(range(0, 10_000, 2))  # each look at the clock is two seconds later
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    train(progress.Progress("Training"))
    texts = handles[0].texts[1:-1]
    assert len(texts) == 12
    assert texts[0].startswith("Training: 8%, loss ") and texts[0].endswith(
        ", 22 s left"
    )
    assert texts[-1].startswith("Training: 100%") and texts[-1].endswith(", 0 s left")
