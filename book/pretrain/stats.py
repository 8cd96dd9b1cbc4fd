"""Intervals for comparisons in which both sides saw the same labelled images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its interval, all in the unit of the values."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean of a few values with Student's interval.

    With five values from a bell curve, this interval covers the truth in 95 cases of
    100. The bootstrap, which is usual with many values, covers it in 81 where it
    promises 95: five values, drawn again, show too little of their spread.

    Args:
        values: one per seed, at least two. For a paired comparison, the differences.

    Raises:
        ValueError: if there are fewer than two values.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"An interval needs at least two values, got {n}.")
    mean = float(np.mean(values))
    half = t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5
    return Interval(mean, mean - float(half), mean + float(half))


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Interval:
    """Return the mean difference, ours minus theirs, over the seeds.

    Args:
        ours, theirs: seed → accuracy. Both must hold the same seeds.

    Raises:
        ValueError: if a seed is missing on one side.
    """
    return mean_interval(differences(ours, theirs))


def differences(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """Return ours minus theirs, in the order of the seeds; see `paired`."""
    if set(ours) != set(theirs):
        raise ValueError(
            f"Pairs need the same seeds on both sides: {sorted(ours)} against "
            f"{sorted(theirs)}. Finish the study, or leave the odd seeds out."
        )
    return [ours[seed] - theirs[seed] for seed in sorted(ours)]


def intervals(
    by_labels: Mapping[int, Mapping[int, float]], theirs=None
) -> dict[int, Interval]:
    """Return the mean interval at each number of labels, or that of the differences.

    Args:
        by_labels: number of labels → seed → value.
        theirs: the same of a rival, for paired differences; numbers of labels that it
            does not have are left out.
    """
    if theirs is None:
        return {n: mean_interval(list(s.values())) for n, s in by_labels.items()}
    return {n: paired(s, theirs[n]) for n, s in by_labels.items() if n in theirs}


def overall(
    ours: Mapping[int, Mapping[int, float]], theirs: Mapping[int, Mapping[int, float]]
) -> Interval:
    """Return the interval of the difference, averaged over all numbers of labels.

    Args:
        ours, theirs: number of labels → seed → value. Numbers of labels that one side
            does not have are left out, and those that have not the seeds of the
            smallest: with all labels there are fewer, and nothing is drawn.

    Raises:
        ValueError: if no number of labels is common to both, or a seed is missing.
    """
    common = sorted(set(ours) & set(theirs))
    if not common:
        raise ValueError("No number of labels is common to both sides.")
    seeds = set(ours[common[0]])
    common = [n for n in common if set(ours[n]) == seeds]
    gains = [differences(ours[n], theirs[n]) for n in common]
    return mean_interval(np.mean(gains, axis=0))


def labels_needed(accuracy: float, curve: Mapping[int, float]) -> float:
    """Return how many labels a method needs to reach an accuracy.

    The method's curve is interpolated over the logarithm of the number of labels.

    Args:
        accuracy: to be reached.
        curve: number of labels → accuracy of the method.

    Returns:
        A number of labels within the range of `curve`; `inf` if the accuracy lies
        above the curve, 0 if it lies below.
    """
    labels = sorted(curve)
    # A method that falls back at some point has still reached what it had reached.
    reached = np.maximum.accumulate([curve[n] for n in labels])
    if accuracy > reached[-1]:
        return float("inf")
    if accuracy < reached[0]:
        return 0.0
    reached, first = np.unique(reached, return_index=True)
    return float(np.exp(np.interp(accuracy, reached, np.log(labels)[first])))


def labels_saved(
    ours: Mapping[int, Mapping[int, float]],
    theirs: Mapping[int, Mapping[int, float]],
    labels: int,
) -> Interval:
    """Return how many labels a rival would have to add to do as well as we do.

    The interval comes from drawing the seeds again with replacement, the same for both
    sides and for all numbers of labels. With five seeds it is rough, and too short
    rather than too long.

    Args:
        ours, theirs: number of labels → seed → accuracy. Where the rival has not all
            of our seeds, as with all labels, its mean over those that it has counts.
        labels: the number that we have.

    Returns:
        Labels saved: negative where the rival needs fewer, infinite where it never
        gets there within its range.
    """
    seeds = sorted(ours[labels])

    def mean(side, chosen):
        there = chosen if set(seeds) <= set(side) else sorted(side)
        return float(np.mean([side[seed] for seed in there]))

    def saved(chosen):
        curve = {n: mean(side, chosen) for n, side in theirs.items()}
        return labels_needed(mean(ours[labels], chosen), curve) - labels

    drawn = np.random.default_rng(0).choice(seeds, (2_000, len(seeds)))
    # An infinite end stays infinite: no interpolation between order statistics.
    low, high = np.quantile(
        [saved(chosen) for chosen in drawn], [0.025, 0.975], method="nearest"
    )
    return Interval(saved(seeds), float(low), float(high))
