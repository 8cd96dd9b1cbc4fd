import numpy as np
import pytest
from scipy.stats import ttest_1samp

from pretrain import stats


def test_the_interval_is_that_of_the_t_test():
    values = [1.0, 2.5, 2.0, 4.0, 3.5]
    ours = stats.mean_interval(values)
    theirs = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.mean == pytest.approx(2.6)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = [
        interval.low <= 0 <= interval.high
        for interval in (stats.mean_interval(rng.normal(size=5)) for _ in range(2000))
    ]
    assert 0.93 < np.mean(hits) < 0.97


def test_pairing_takes_out_what_both_sides_share():
    shared = np.array([0.1, 0.5, 0.9, 0.3, 0.7])
    theirs = dict(enumerate(shared))
    ours = {seed: value + 0.02 for seed, value in theirs.items()}
    interval = stats.paired(ours, theirs)
    assert interval.low == pytest.approx(0.02) == pytest.approx(interval.high)
    with pytest.raises(ValueError, match=r"\[0, 1, 2, 3, 4\] against \[0, 1, 2, 3\]"):
        stats.paired(ours, {seed: theirs[seed] for seed in range(4)})


def test_one_value_has_no_interval():
    with pytest.raises(ValueError, match="at least two values, got 1"):
        stats.mean_interval([0.5])


def test_labels_needed_are_read_off_a_logarithmic_axis():
    curve = {1: 0.1, 10: 0.2, 100: 0.4}
    assert stats.labels_needed(0.2, curve) == pytest.approx(10)
    assert stats.labels_needed(0.3, curve) == pytest.approx(10**1.5)
    assert stats.labels_needed(0.41, curve) == float("inf")
    assert stats.labels_needed(0.05, curve) == 0
    # Once reached, an accuracy stays reached.
    assert stats.labels_needed(0.2, {1: 0.1, 10: 0.2, 100: 0.15}) == pytest.approx(10)


def test_labels_saved():
    rival = {n: {s: 0.2 * np.log10(n) for s in range(5)} for n in (1, 10, 100)}
    same = stats.labels_saved(rival, rival, 10)
    assert (same.mean, same.low, same.high) == pytest.approx((0, 0, 0))
    ours = {10: dict.fromkeys(range(5), 0.4)}
    assert stats.labels_saved(ours, rival, 10).mean == pytest.approx(90)
    ours = {10: dict.fromkeys(range(5), 0.41)}
    assert stats.labels_saved(ours, rival, 10).high == float("inf")
    ours = {10: dict.fromkeys(range(5), 0.1)}
    assert stats.labels_saved(ours, rival, 10).mean == pytest.approx(10**0.5 - 10)
    # With all labels a rival may have fewer seeds: they do not cost the others theirs.
    noisy = {n: {s: v + 0.01 * s for s, v in side.items()} for n, side in rival.items()}
    fewer = noisy | {1000: {0: 0.6, 1: 0.6}}
    ours = {10: dict.fromkeys(range(5), 0.3)}
    assert stats.labels_saved(ours, fewer, 10) == stats.labels_saved(ours, noisy, 10)
    ours = {10: dict.fromkeys(range(5), 0.6)}
    assert stats.labels_saved(ours, fewer, 10).mean == pytest.approx(990)


def test_overall_averages_sizes_before_seeds():
    ours = {1: {0: 3.0, 1: 5.0}, 4: {0: 7.0, 1: 9.0}, 9: {0: 100.0, 1: 0.0}}
    theirs = {1: {0: 1.0, 1: 2.0}, 4: {0: 3.0, 1: 8.0}}
    expected = stats.mean_interval([(2 + 4) / 2, (3 + 1) / 2])
    assert stats.overall(ours, theirs) == expected
    fewer = {99: {0: 50.0}}
    assert stats.overall(ours | fewer, theirs | fewer) == expected
    with pytest.raises(ValueError, match="same seeds"):
        stats.overall(ours, theirs | {4: {0: 3.0}})
    with pytest.raises(ValueError, match="common to both"):
        stats.overall({1: {0: 1.0}}, {2: {0: 1.0}})
