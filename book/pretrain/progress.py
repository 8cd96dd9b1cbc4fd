"""A progress line that says how long training will still take, and then leaves."""

import sys
import time

import keras
from IPython.display import Pretty, display


class Progress(keras.callbacks.Callback):
    """Show step, loss and the estimated time left on one line that updates in place.

    In a notebook the line is replaced by a summary without times at the end, so two
    runs with one seed leave the same output.
    """

    def __init__(self, title: str):
        super().__init__()
        self.title = title

    def on_train_begin(self, logs=None):
        self.start = self.shown = time.monotonic()
        self.done = self.epoch = 0
        self.handle = display(Pretty(f"{self.title} …"), display_id=True)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        steps = self.params["steps"]
        self.done = self.epoch * steps + min(batch + 1, steps)
        now = time.monotonic()
        if now - self.shown < 1:
            return
        self.shown = now
        total = steps * self.params["epochs"]
        left = (now - self.start) * (total / self.done - 1)
        loss = "" if logs is None else f", loss {float(logs['loss']):.4f}"
        self._show(f"{self.title}: {self.done / total:.0%}{loss}, {left:.0f} s left")

    def on_epoch_end(self, epoch, logs=None):
        self.last = logs

    def on_train_end(self, logs=None):
        values = ", ".join(f"{k} {v:.4f}" for k, v in self.last.items())
        self._show(f"{self.title}: {self.done} steps, {values}")

    def _show(self, text):
        if self.handle is None:
            print(text, file=sys.stderr)
        else:
            self.handle.update(Pretty(text))
