"""Two sizes of every experiment: `quick` for a first look, `full` for the book."""

import os
from dataclasses import dataclass
from typing import TypeVar

import keras

T = TypeVar("T")


@dataclass(frozen=True)
class Profile:
    """The sizes that the chapters share.

    `unlabelled` is the largest number of images to pretrain on, `steps` the number
    of gradient steps of one fine-tuning run.
    """

    name: str
    dataset: str
    unlabelled: int
    pretrain_epochs: int
    steps: int

    def pick(self, quick: T, full: T) -> T:
        """Return the value that belongs to this profile."""
        return quick if self.name == "quick" else full


PROFILES = {
    "quick": Profile(
        name="quick",
        dataset="fashion",
        unlabelled=4_000,
        pretrain_epochs=2,
        steps=60,
    ),
    "full": Profile(
        name="full",
        dataset="cifar10",
        unlabelled=45_000,
        pretrain_epochs=20,
        steps=500,
    ),
}


def has_gpu() -> bool:
    """Tell whether the active Keras backend sees an accelerator."""
    return any(
        not name.lower().startswith("cpu") for name in keras.distribution.list_devices()
    )


def compile_options() -> dict[str, object]:
    """Return the arguments of `model.compile` that are fastest on this machine.

    XLA, which Keras picks by default, costs seconds of compiling, and on a CPU makes
    TensorFlow's convolutions from hardly faster to several times slower: it depends on
    the machine (05d measures it).
    """
    slow_xla = keras.backend.backend() == "tensorflow" and not has_gpu()
    return {"jit_compile": False if slow_xla else "auto"}


def active() -> Profile:
    """Return the profile to run, and print one line that says which and why.

    The environment variable `PROFILE` decides; without it, a machine with a GPU gets
    `full` and one without gets `quick`.

    Raises:
        ValueError: if `PROFILE` names no profile.
    """
    name = os.environ.get("PROFILE")
    if name is None:
        name = "full" if has_gpu() else "quick"
        why = "a GPU is here" if name == "full" else "no GPU is here"
    else:
        why = "the environment variable PROFILE asks for it"
    if name not in PROFILES:
        raise ValueError(
            f"PROFILE is {name!r}, but must be one of {', '.join(PROFILES)}: "
            "set it to one of these, or unset it to let the book choose."
        )
    profile = PROFILES[name]
    print(f"Profile {name} (data set {profile.dataset}): {why}.")
    return profile
