"""What a reader does by himself: guesses, and exercises with cells that check them."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

import keras
import numpy as np
from scipy.special import softmax

from pretrain import (
    attribution,
    data,
    experiments,
    flops,
    models,
    objectives,
    privacy,
    reliability,
    stats,
    transfer,
)


def compare(guesses: Mapping[str, float | None], measured: Mapping[str, float]) -> None:
    """Set the reader's guesses beside what was measured.

    Args:
        guesses: a number for each name, None where the reader did not guess.
        measured: the outcome for each of these names, possibly for more.

    Raises:
        KeyError: if a guess has a name that nothing was measured for.
    """
    for name, guess in guesses.items():
        outcome = f"measured {measured[name]:.4g}"
        if guess is None:
            print(f"{name}: {outcome} (no guess)")
        else:
            print(f"{name}: you said {guess:g}, {outcome}")


# ---------------------------------------------------------------------------- the check

CHECKERS: dict[str, Callable[..., Iterator[str]]] = {}


class Off(Exception):
    """What is wrong with an answer, where nothing more can be said about it."""


def checker(label: str):
    """Let the decorated function check the exercise that has this label.

    Its parameters are named as in the notebook: first the reader's answers; after the
    `*`, what the chapter has to compare them with. It yields a message for each thing
    that is off. Its docstring tells the reader what is expected.
    """

    def register(function):
        CHECKERS[label] = function
        return function

    return register


def check(label: str, **names: object) -> None:
    """Say whether the answer to an exercise is right, and if not, what is off.

    Args:
        label: of the exercise.
        names: the answers, and what they are compared with. An answer that is still
            `...` is not there yet.

    Raises:
        ValueError: if no exercise has this label, or if it is checked with other names.
    """
    if label not in CHECKERS:
        raise ValueError(
            f"No exercise has the label {label!r}. There are: {', '.join(CHECKERS)}."
        )
    expected = list(inspect.signature(CHECKERS[label]).parameters)
    if set(names) != set(expected):
        raise ValueError(
            f"{label!r} is checked with {', '.join(expected)}; "
            f"given: {', '.join(names) or 'nothing'}."
        )
    what = " ".join(inspect.getdoc(CHECKERS[label]).split())
    blank = [f"`{name}`" for name in expected if names[name] is ...]
    if blank:
        print(f"… {label}: nothing there yet in {', '.join(blank)}. Expected: {what}")
        return
    messages = []
    try:
        # One by one: what was found before something stopped the check is kept.
        for message in CHECKERS[label](**names):
            messages.append(message)
    except Off as off:
        messages.append(str(off))
    except Exception as error:  # of any kind, since an answer can be anything
        messages.append(
            f"the check stopped ({type(error).__name__}: {error}). Expected: {what}"
        )
    for message in messages:
        print(f"✗ {label}: {message}")
    if not messages:
        print(f"✓ {label}: right.")


# -------------------------------------------------------- what several checkers ask for


def kind(value: object) -> str:
    """Say what a value is, in words."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return f"of type {type(value).__name__}"


def as_array(value: object) -> np.ndarray:
    """Turn any value into an array, of objects where it holds no numbers."""
    try:
        return np.asarray(value)
    except ValueError:  # lists of different lengths
        return np.asarray(None)


def array(name: str, value: object, *shape: int) -> np.ndarray:
    """Return an answer that is an array of finite numbers with this shape."""
    found = as_array(value)
    if found.dtype.kind not in "biuf":
        raise Off(f"`{name}` should be an array of numbers, and is {kind(value)}.")
    if found.shape != shape:
        hint = " This is the transpose." if found.shape == shape[::-1] else ""
        raise Off(f"`{name}` should have shape {shape}, and has {found.shape}.{hint}")
    if not np.isfinite(found).all():
        raise Off(f"`{name}` holds numbers that are not finite (nan or inf).")
    return found


def number(name: str, value: object) -> float:
    """Return an answer that is a finite number."""
    found = as_array(value)
    if found.dtype.kind not in "iuf" or found.size != 1:
        raise Off(f"`{name}` should be a number, and is {kind(value)}.")
    return float(array(name, found.squeeze()).item())


def share(name: str, value: object) -> float:
    """Return an answer that is a share, from 0 to 1."""
    found = number(name, value)
    if not 0 <= found <= 1:
        raise Off(
            f"`{name}` is {found:.4g}: give a share between 0 and 1, neither percent "
            "nor a count."
        )
    return found


def entries(name: str, value: object, keys: Sequence) -> list:
    """Return the entries of an answer that is a dict with these keys."""
    if not isinstance(value, Mapping):
        raise Off(f"`{name}` should be a dict, and is {kind(value)}.")
    missing = [repr(key) for key in keys if key not in value]
    if missing:
        raise Off(f"`{name}` has no entry for {', '.join(missing)}.")
    return [value[key] for key in keys]


def function(name: str, value: object, of: str = "") -> None:
    """Insist that an answer is a function; `of` says of what, where that is asked."""
    if not callable(value):
        raise Off(f"`{name}` should be a function{of}, and is {kind(value)}.")


def network(name: str, value: object, wanted: type = keras.Model) -> keras.Model:
    """Return an answer that is a Keras model, or a special kind of one."""
    if not isinstance(value, wanted):
        raise Off(
            f"`{name}` should be a Keras {wanted.__name__}, and is {kind(value)}."
        )
    return value


def close(a: object, b: object, tolerance: float = 1e-3) -> bool:
    """Tell whether two answers agree, up to a fraction of the largest number."""
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    if a.shape != b.shape:
        return False
    # A tiny number besides, since what should be zero is seldom exactly zero.
    return bool(np.abs(a - b).max() <= tolerance * np.abs(b).max() + 1e-9)


def diagnose(
    name: str,
    value: object,
    right: object,
    *mistakes: tuple[object, str],
    otherwise: str,
    tolerance: float = 1e-3,
) -> Iterator[str]:
    """Yield what is off about an answer: the mistake that leads to it, if one does.

    Args:
        name, value: of the answer, a number or an array.
        right: what it should be.
        mistakes: what a mistake leads to, and what to say of it.
        otherwise: what to say of any other value. The name is put in front of both.
        tolerance: see `close`.
    """
    shape = np.shape(right)
    found = array(name, value, *shape) if shape else number(name, value)
    if not close(found, right, tolerance):
        fitting = (say for wrong, say in mistakes if close(found, wrong, tolerance))
        yield f"`{name}` {next(fitting, otherwise)}"


def same_weights(a: keras.layers.Layer, b: keras.layers.Layer) -> bool:
    """Tell whether two layers or networks of one kind hold equal weights."""
    pairs = zip(a.get_weights(), b.get_weights(), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def untouched(encoder: keras.Model, pretrained: Sequence[np.ndarray]) -> Iterator[str]:
    """Yield a message if the pretrained encoder, which others use, was trained on."""
    pairs = zip(encoder.get_weights(), pretrained, strict=True)
    if not all(np.array_equal(a, b) for a, b in pairs):
        yield (
            "the book's own encoder has moved. Train `copy_of(encoder)` instead; "
            "`encoder.set_weights(pretrained)` mends it."
        )


# ------------------------------------------------------ 01: the task, and what it costs


@checker("own-clock")
def own_clock(seconds_per_label, hours, days, *, y_train):
    """Three numbers: your `seconds_per_label`, the `hours` that labels for all of
    `y_train` take at that pace, and the `days` of eight hours.
    """
    seconds = number("seconds_per_label", seconds_per_label)
    if seconds <= 0:
        raise Off("`seconds_per_label` should be more than 0.")
    work = len(y_train) * seconds / 3600
    yield from diagnose(
        "hours",
        hours,
        work,
        (work * 60, "is in minutes: an hour has 3600 seconds."),
        (work * 3600, "is in seconds: an hour has 3600 of them."),
        (seconds / 3600, "is the time for one label only."),
        otherwise="should be the time for all labels of `y_train`, in hours.",
        tolerance=0.02,  # rounded answers are right
    )
    yield from diagnose(
        "days",
        days,
        work / 8,
        (work / 24, "has days of 24 hours: who works so long?"),
        otherwise="should be the hours, divided by the eight of a working day.",
        tolerance=0.02,
    )


@checker("same-answer")
def same_answer(always, die, *, y_train, y_val):
    """Two shares of `y_val` that are named right, from 0 to 1: `always` by the most
    frequent class of `y_train`, `die` by a fair die.
    """
    always, die = share("always", always), share("die", die)
    counts = np.bincount(y_train)
    shares = np.bincount(y_val, minlength=len(counts)) / len(y_val)
    # Classes can be equally frequent, and then each of them is the right answer.
    if not any(close(always, right) for right in shares[counts == counts.max()]):
        if any(close(always, wrong) for wrong in shares):
            yield "`always` gives a class that is not the most frequent in `y_train`."
        elif close(always, counts.max() / len(y_train)):
            yield "`always` is a share of `y_train`: what does it get on `y_val`?"
        else:
            yield "`always` should be the share of `y_val` that has this one class."
    chance = 1 / len(counts)
    if abs(die - chance) > 5 * np.sqrt(chance * (1 - chance) / len(y_val)):
        yield f"`die` should be near {chance:.2f}: throw it for each image of `y_val`."


@checker("how-sure")
def how_sure(percent_right, *, confidence, said, y_val):
    """`percent_right`, a number from 0 to 100: of the validation images on which the
    network is at least 90 % sure, how many are right.
    """
    sure, right = confidence.max(axis=1) >= 0.9, said == y_val
    if not sure.any():
        raise Off("the network is nowhere 90 % sure: train it again, for longer.")
    yield from diagnose(
        "percent_right",
        percent_right,
        100 * right[sure].mean(),
        (right[sure].mean(), "is a share: times 100, it is percent."),
        (100 * right.mean(), "counts all images: keep those where it is sure."),
        (100 * sure.mean(), "says how often it is sure: how often is it right then?"),
        (100 * (right & sure).mean(), "is a part of all images, not of the sure ones."),
        otherwise="should be the mean of `said == y_val` over the images whose largest "
        "confidence is at least 0.9, times 100.",
    )


@checker("nearest-image")
def nearest_image(predicted, *, x_train, y_train, x_val):
    """`predicted`, a label for each image of `x_val`: that of the nearest among the
    images of `data.label_subset(y_train, 25, seed=0)`.
    """
    predicted = array("predicted", predicted, len(x_val))
    if predicted.max() > y_train.max():
        raise Off("`predicted` holds places, not labels: look them up in `y_train`.")
    rows = data.label_subset(y_train, 25, seed=0)
    sample = slice(None, None, max(1, len(x_val) // 200))
    known, asked = (x.astype("float64") for x in (x_train[rows], x_val[sample]))
    known, asked = (x.reshape(len(x), -1) for x in (known, asked))
    distance = (known**2).sum(axis=1) - 2 * asked @ known.T
    nearest, farthest = (
        np.mean(y_train[rows][place] == predicted[sample])
        for place in (distance.argmin(axis=1), distance.argmax(axis=1))
    )
    if farthest > 0.98:
        yield "`predicted` comes from the farthest image: take the smallest distance."
    elif nearest < 0.98:
        yield (
            f"`predicted` agrees with the nearest image for {nearest:.0%} of a sample. "
            "Are the pixels floats? Squares of bytes do not fit into a byte."
        )


# -------------------------------------------------------------------- 02: core concepts


@checker("own-kernel")
def own_kernel(blur, blurred, *, grey):
    """`blur`, a kernel of 3 by 3 that takes the mean, and `blurred`, what it makes of
    `grey` wherever it fits.
    """
    blur = array("blur", blur, 3, 3)
    yield from diagnose(
        "blur",
        blur,
        np.full((3, 3), 1 / 9),
        (np.ones((3, 3)), "adds up: a mean divides by nine."),
        otherwise=f"should weigh all nine pixels alike; its sum is {blur.sum():.3g}.",
    )
    means = np.lib.stride_tricks.sliding_window_view(grey, (3, 3)).mean(axis=(2, 3))
    if np.ndim(blurred) == 2 and len(blurred) != len(means):
        raise Off(
            f"`blurred` has {len(blurred)} rows, but the kernel fits only at "
            f"{len(means)} places."
        )
    yield from diagnose(
        "blurred",
        blurred,
        means,
        (9 * means, "holds sums: divide by the nine pixels."),
        (means.T, "is the transpose."),
        otherwise="should be the mean of the nine pixels at each place.",
    )


@checker("count-field")
def count_field(field):
    """`field`, a function: from the strides of 3 by 3 convolutions, first to last, to
    the number of rows that one feature of the last map sees.
    """
    function("field", field)
    for strides in ([2, 2, 2], [1, 2, 1, 2]):
        up_to = np.cumprod([1, *strides])
        yield from diagnose(
            f"field({strides})",
            field(strides),
            1 + 2 * sum(up_to[:-1]),
            (1 + 2 * sum(up_to[1:]), "counts a layer's own stride, too."),
            (
                1 + 2 * len(strides),
                "leaves out the strides, which stretch what follows.",
            ),
            (2 * sum(up_to[:-1]), "forgets the one pixel that it starts from."),
            otherwise="should start at 1 and add 2 × the strides before, per layer.",
        )


@checker("pooled-shift")
def pooled_shift(drift, *, encoder, wide):
    """`drift`, eight numbers: how far the mean of `relu3` over its places changes, as a
    fraction of its size, when `wide` is shifted by 1 to 8 pixels.
    """
    if np.shape(drift) == (9,):
        raise Off("`drift` has nine numbers: leave out the shift by 0.")
    mean = models.pooled_features(encoder, "relu3", 1)
    still = models.predict(mean, wide)

    def changes(axis):
        for shift in range(1, 9):
            moved = models.predict(mean, np.roll(wide, shift, axis))
            yield np.linalg.norm(moved - still)

    size, right, down = np.linalg.norm(still), [*changes(2)], [*changes(1)]
    yield from diagnose(
        "drift",
        drift,
        np.divide(right, size),
        (right, "is not divided by the size of the features."),
        (
            np.divide(down, size),
            "is for shifts down; those of the table go to the right.",
        ),
        otherwise="should be the size of the change, divided by that of the features.",
    )


@checker("other-neighbours")
def other_neighbours(near, far, *, x_val):
    """`near` and `far`, correlations of pixels with their right neighbour: in
    `x_val[:500]`, and in the same images rearranged.
    """
    if np.shape(near) == (2, 2):
        raise Off("`np.corrcoef` returns a table: its entry [0, 1] is the correlation.")

    def correlation(a, b):
        return np.corrcoef(a.ravel().astype("float32"), b.ravel())[0, 1]

    x = x_val[:500]
    mixed = experiments.permuted(x)
    chance = correlation(mixed[:, :, :-1], mixed[:, :, 1:])
    yield from diagnose(
        "near",
        near,
        correlation(x[:, :, :-1], x[:, :, 1:]),
        (correlation(x[:, :-1], x[:, 1:]), "compares with the pixel below."),
        (correlation(x, np.roll(x, -1, 2)), "joins the last column to the first."),
        otherwise="should compare all columns but the last with all but the first.",
    )
    if abs(number("far", far) - chance) > 0.05:
        yield f"`far` should be near {chance:.2f}. Are the two swapped?"


# -------------------------------------------------------------------- 03a: autoencoders


@checker("03a-decoder")
def best_decoder(w_e, w_d, error, *, rows, pca_error):
    """`w_e`, a random encoder with a code of 8; `w_d`, the best decoder for it on
    `rows`; `error`, their mean squared error per pixel.
    """
    pixels = rows.shape[1]
    w_e, w_d = array("w_e", w_e, pixels, 8), array("w_d", w_d, 8, pixels)
    left = rows @ w_e @ w_d - rows
    slope = np.linalg.norm((rows @ w_e).T @ left)
    if close(w_d, np.linalg.pinv(w_e)):
        yield "`w_d` inverts the encoder, without a look at `rows`: others do better."
    elif slope > 1e-6 * np.linalg.norm(rows @ w_e) * np.linalg.norm(rows):
        yield "`w_d` is not the best: the gradient with respect to it is not zero."
    mean = np.mean(left**2)
    yield from diagnose(
        "error",
        error,
        mean,
        (mean * pixels, "adds up the pixels of an image: divide by their number."),
        (mean * len(rows), "is divided by the number of pixels, but not of images."),
        (mean * left.size, "is the sum over everything: take the mean."),
        (np.sqrt(mean), "is a root: leave it squared, like PCA's."),
        otherwise="should be the mean of the squared differences to `rows`.",
    )
    if mean < 1.01 * pca_error:
        yield "`w_e` does as well as PCA: it should be random, not the best."


@checker("03a-basis")
def any_basis(m, turned_e, turned_d, *, kernel_e, kernel_d):
    """`m`, an invertible matrix of 8 by 8; `turned_e`, the encoder's kernel with the
    code turned by `m`; `turned_d`, the decoder's kernel, turned back.
    """
    m = array("m", m, 8, 8)
    if np.linalg.matrix_rank(m) < 8 or close(m, np.eye(8)):
        raise Off("`m` should have an inverse, and turn something: draw another one.")
    back = np.linalg.inv(m)
    yield from diagnose(
        "turned_e",
        turned_e,
        kernel_e @ m,
        (kernel_e @ back, "is turned by the inverse, which is for the decoder."),
        (kernel_e @ m.T, "is turned by the transpose of `m`."),
        otherwise="should be `kernel_e @ m`.",
    )
    yield from diagnose(
        "turned_d",
        turned_d,
        back @ kernel_d,
        (m @ kernel_d, "is turned by `m` once more: it needs the inverse."),
        (m.T @ kernel_d, "is turned by the transpose: it needs the inverse."),
        otherwise="should undo `m`: `turned_e @ turned_d` is `kernel_e @ kernel_d`.",
    )


@checker("03a-saddle")
def saddle(v, mixed, *, rows):
    """`v`, the components 1 to 7 and 9 of `rows` as columns; `mixed`, the same with a
    little of component 8 in the last column, still of length 1.
    """
    shape = rows.shape[1], 8
    v, mixed = array("v", v, *shape), array("mixed", mixed, *shape)
    if not close(v.T @ v, np.eye(8)):
        raise Off("the columns of `v` should be orthogonal, and of length 1.")
    zero_mean = rows - rows.mean(axis=0)
    values = np.linalg.eigvalsh(np.cov(zero_mean.T, bias=True))[::-1]

    def lost(w):
        return np.sum((zero_mean @ w @ w.T - zero_mean) ** 2) / len(rows)

    yield from diagnose(
        "v",
        lost(v),
        values[7] + values[9:].sum(),
        (values[8:].sum(), "holds the components 1 to 8: the minimum, no saddle."),
        (values[:-8].sum(), "holds the smallest: `eigh` sorts from small to large."),
        otherwise="should hold the components 1 to 7 and 9, of `rows` less their mean.",
        tolerance=1e-8,
    )
    size = np.linalg.norm(mixed[:, 7])
    if not close(mixed[:, :7], v[:, :7]):
        yield "`mixed` should differ from `v` in the last column only."
    elif not close(size, 1):
        yield f"the last column of `mixed` has length {size:.3f}, not 1."
    elif lost(mixed) >= lost(v) * (1 - 1e-9):
        yield "with `mixed` the loss does not fall: is it component 8 that you added?"


# ------------------------------------------------------ 03b: convolutional autoencoders


@checker("03b-sizes")
def chain_of_layers(layer_sizes):
    """`layer_sizes`, five numbers: the width of the image after each layer."""
    if np.shape(layer_sizes) == (6,):
        raise Off("`layer_sizes` has six numbers: leave out the 32 of the input.")
    yield from diagnose(
        "layer_sizes",
        layer_sizes,
        [30, 28, 26, 52, 104],
        ([32, 32, 32, 64, 128], "pads the convolutions: without, each loses 2 pixels."),
        ([30, 28, 26, 53, 107], 'lets the last two stick out: "same" doubles exactly.'),
        ([15, 7, 3, 6, 12], "halves in the convolutions: their stride is 1."),
        otherwise="should lose 2 pixels three times, then double twice.",
    )


@checker("03b-matrix")
def convolution_as_matrix(w, A, nonzero, different, *, convolve):
    """`w`, your kernel of 3 by 3; `A`, the matrix of 4 by 25; `nonzero`, how many of
    its entries are not zero; `different`, how many different numbers are among these.
    """
    w = array("w", w, 3, 3)
    if len(np.unique(w)) < 9 or not w.all():
        raise Off(
            "`w` needs nine different numbers, none of them 0, to tell them apart."
        )

    def matrix(kernel):
        units = np.eye(25).reshape(25, 5, 5)
        return np.stack([convolve(u, kernel, 2).ravel() for u in units], axis=1)

    if np.shape(A) == (9, 25):
        raise Off("`A` has nine rows, one for each place of stride 1: the stride is 2.")
    yield from diagnose(
        "A",
        A,
        matrix(w),
        (matrix(w[::-1, ::-1]), "flips the kernel, as `convolve` does not."),
        (matrix(w.T), "has rows and columns of the kernel swapped."),
        otherwise="should hold in column i what `convolve` makes of unit vector i.",
    )
    yield from diagnose(
        "nonzero",
        nonzero,
        36,
        (64, "counts the zeros."),
        (9, "is that of one row."),
        otherwise="should count the entries of `A` that are not zero.",
    )
    yield from diagnose(
        "different",
        different,
        9,
        (10, "counts the zero, too."),
        otherwise="should count each number once.",
    )


@checker("03b-linear-code")
def linear_code(linear, linear_error, *, errors, x_val):
    """`linear`, a trained `objectives.Autoencoder` whose code of 256 numbers has no
    ReLU; `linear_error`, its reconstruction error on `x_val`.
    """
    network("linear", linear, objectives.Autoencoder)
    code = models.predict(linear.encoder, x_val[:100])
    if code[0].size != 256:
        yield f"the code has {code[0].size} numbers, not 256."
    if code.min() >= 0:
        yield "no number of the code is negative: the last ReLU is still there."
    error = objectives.reconstruction_error(linear, x_val)
    yield from diagnose(
        "linear_error",
        linear_error,
        error,
        (np.sqrt(error), "is a root: leave it squared."),
        (errors["convolutional", 256], "is that of the network with ReLU."),
        otherwise="should be `objectives.reconstruction_error` on `x_val`.",
    )
    if error > 2 * errors["convolutional", 256]:
        yield "the error is more than twice that with ReLU: was it trained for as long?"


# ----------------------------------------------------- 03c: pretraining and fine-tuning


@checker("pull-back")
def pull_back(start, strength, gradient, *, A, gradient_A_stage2):
    """`start`, a matrix of the shape of `A` that is not `A`; `strength`, the number λ;
    `gradient`, that of the whole loss with respect to `A`.
    """
    pull = 2 * number("strength", strength) * (A - array("start", start, *A.shape))
    if close(pull, 0 * pull):
        raise Off("the spring does not pull: take another `start` than `A`, and λ > 0.")
    old = gradient_A_stage2
    yield from diagnose(
        "gradient",
        gradient,
        old + pull,
        (old + pull / 2, "lacks the 2 that comes from the square."),
        (old - pull, "pushes away from `start`: a sign is wrong."),
        (pull, "is the new part alone: add that of stage 2."),
        (old, "is that of stage 2 alone."),
        otherwise="should be that of stage 2, plus that of the spring.",
    )


@checker("steps-and-momentum")
def steps_and_momentum(steps, reached):
    """`steps` and `reached`, two dicts with the keys 0.99 and 0.9: after how many steps
    95 % of the way is done, and the share of it that the layer has done by then.
    """
    keys = (0.99, 0.9)
    answers = entries("steps", steps, keys), entries("reached", reached, keys)
    for m, count, done in zip(keys, *answers, strict=True):
        exact = np.log(0.05) / np.log(m)
        yield from diagnose(
            f"steps[{m}]",
            count,
            np.ceil(exact),
            (exact, "is no whole number: round it up."),
            (
                np.floor(exact),
                f"is one too few: that makes {1 - m ** (exact // 1):.2%}.",
            ),
            (np.log(0.95) / np.log(m), "solves m^t = 0.95, but 0.05 is what is left."),
            otherwise="should be the first number of steps t with 1 − m^t ≥ 0.95.",
            tolerance=1e-6,
        )
        yield from diagnose(
            f"reached[{m}]",
            done,
            1 - m ** number(f"steps[{m}]", count),
            (100 - 100 * m**count, "is in percent: a share is asked."),
            otherwise="should be what the layer reaches after those steps.",
            tolerance=2e-3,
        )


@checker("thaw-from-the-top")
def thaw_from_the_top(thawed, thawed_accuracy, *, encoder, x_val, y_val):
    """`thawed` and `thawed_accuracy`, two dicts with the keys 0, 1, 2, 3: for each k
    the fine-tuned classifier, and its share of `x_val` that is right.
    """
    answers = (
        entries("thawed", thawed, range(4)),
        entries("thawed_accuracy", thawed_accuracy, range(4)),
    )
    for k, (classifier, score) in enumerate(zip(*answers, strict=True)):
        base = network(f"thawed[{k}]", classifier).get_layer("conv_encoder")
        for i in 1, 2, 3:
            conv, norm = f"conv{i}", f"norm{i}"
            still = same_weights(base.get_layer(conv), encoder.get_layer(conv))
            if still != (i <= k):
                yield f"for k = {k}, {conv} {'stood still' if still else 'moved'}."
            if not same_weights(base.get_layer(norm), encoder.get_layer(norm)):
                yield f"for k = {k}, {norm} moved: freeze the normalisation."
        yield from diagnose(
            f"thawed_accuracy[{k}]",
            share(f"thawed_accuracy[{k}]", score),
            transfer.accuracy(classifier, x_val, y_val),
            otherwise=f"is not that of `thawed[{k}]` on `x_val`.",
        )


# -------------------------------------------------------------- 04a: the article's code


@checker("other-kernels")
def other_kernels(kernel_pairs, cheapest, *, conv_parameters):
    """`kernel_pairs`, a list of all pairs of sizes of the two kernels that end at 32 by
    32; `cheapest`, the one of them with the fewest parameters.
    """
    known = {(4, 4)}  # the chapter's own, with it or without
    found = {(int(a), int(b)) for a, b in kernel_pairs} - known
    right = {(k, 8 - k) for k in range(1, 8)} - known
    if found and all(a + b == 6 for a, b in found):
        yield "the pairs sum to 6, but a kernel of size k adds k − 1 pixels."
    elif found - right:
        a, b = min(found - right)
        yield f"the pair ({a}, {b}) does not end at 32: 26 + {a - 1} + {b - 1}."
    elif right - found:
        yield f"there are {len(right - found)} pairs more: the order counts."

    def cost(pair):
        return conv_parameters(32, 32, pair[0]) + conv_parameters(32, 3, pair[1])

    yield from diagnose(
        "cheapest",
        cheapest,
        min(right, key=cost),
        (max(right, key=cost), "is the dearest pair: which layer has more filters?"),
        otherwise="has more parameters than another pair.",
    )


@checker("copy-by-hand")
def copy_by_hand(copier, *, x_check):
    """`copier`, a mended autoencoder with weights set by hand: the first three channels
    of its code are the image, without its rim of three pixels.
    """
    network("copier", copier)
    code = x_check[:8]
    for layer in copier.encoder:
        code = layer(code)
    code = keras.ops.convert_to_numpy(code)[..., :3]

    def crop(down, right):
        return x_check[:8, 3 + down : 29 + down, 3 + right : 29 + right]

    places = [(i, j) for i in range(-3, 4) for j in range(-3, 4) if i or j]
    summed = np.repeat(crop(0, 0).sum(axis=3, keepdims=True), 3, axis=3)
    yield from diagnose(
        "code",
        code,
        crop(0, 0),
        (0 * code, "is zero."),
        (crop(0, 0)[..., ::-1], "has the channels in another order."),
        (summed, "holds the sum of all channels: each filter needs one 1 only."),
        *((crop(*p), f"is shifted by {p}: put the 1 in the middle.") for p in places),
        otherwise="is not the image: are all other weights 0, and the biases?",
    )


@checker("without-the-matrix")
def without_the_matrix(pooled, pooled_rate, pooled_scores, *, rates, seeds):
    """`pooled`, a function from a seed to the new classifier; `pooled_rate`, the rate
    that you chose for it; `pooled_scores`, a list of its accuracy for each of `seeds`.
    """
    function("pooled", pooled, " of the seed")
    yield from diagnose(
        "pooled(0).count_params()",
        network("pooled(0)", pooled(0)).count_params(),
        43_370,
        (2_808_170, "is what it was: the heavy matrix is still there."),
        (38_186, "lacks a dense layer: keep the one of 128."),
        otherwise="is not that of the same layers with an average in the middle.",
        tolerance=0,
    )
    if number("pooled_rate", pooled_rate) not in rates:
        yield f"`pooled_rate` is none of {rates}, which the rivals chose from."
    if np.shape(pooled_scores) != (len(seeds),):
        yield f"`pooled_scores` should be a list, one value for each of {seeds}."
    for score in np.ravel(pooled_scores):
        share("pooled_scores", score)


# -------------------------------------------------------------- 04b: build and pretrain


@checker("tighter-code")
def tighter_code(tight, saved, *, by_hand):
    """`tight`, an encoder whose code has 256 numbers; `saved`, how many parameters it
    has fewer than `by_hand`.
    """
    height, width, channels = network("tight", tight).output_shape[1:]
    if tight.input_shape != by_hand.input_shape:
        raise Off("`tight` should take images of 32 by 32 by 3, as `by_hand` does.")
    if height * width * channels != 256:
        yield f"the code has {height * width * channels} numbers, not 256."
    for name in "conv1", "conv2":
        if tight.get_layer(name).filters != by_hand.get_layer(name).filters:
            yield f"{name} has other filters: only the last layer makes the code."
    fewer = by_hand.count_params() - tight.count_params()
    norm = 4 * (by_hand.output_shape[-1] - channels)
    yield from diagnose(
        "saved",
        saved,
        fewer,
        (-fewer, "has the wrong sign."),
        (fewer - norm, "leaves out the normalisation, four numbers a channel."),
        (tight.count_params(), "is what is left, not what is saved."),
        otherwise="should be the difference of the two `count_params()`.",
        tolerance=0,
    )


@checker("what-a-code-sees")
def what_a_code_sees(width, seen):
    """`width`, how many rows one place of the code can see; `seen`, 32 by 32 values,
    true where a changed pixel changes the code at row 2, column 2.
    """
    yield from diagnose(
        "width",
        width,
        15,
        (7, "is what it sees of the first map: go on, to the pixels."),
        (31, "goes one layer too far: there are three."),
        otherwise="starts at 1, and each layer makes 2r + 1 of r.",
    )
    seen = array("seen", seen, 32, 32).astype(bool)
    inside = np.zeros_like(seen)
    inside[16:31, 16:31] = True  # padded on the right only: a place i begins at 2i
    if not seen.any():
        yield "`seen` is false everywhere: is the changed image a different one?"
    elif seen.all():
        yield "`seen` is true everywhere: a change by rounding, 1e-6, is none."
    elif (seen & ~inside).any():
        yield "`seen` has pixels out of reach: is it the place at row 2, column 2?"
    elif seen.sum() < inside.sum() / 2:
        yield "`seen` lacks most of what can be seen: did you change every pixel?"


@checker("best-neighbours")
def best_neighbours(whole, averaged, *, same_class):
    """`whole` and `averaged`, two dicts with keys from `("trained", "relu1")` to
    `("random", "relu3")`: how often the neighbour has the same class, by whole maps and
    by maps averaged over their places.
    """
    stages = ("relu1", "relu2", "relu3")
    keys = [(name, stage) for name in ("trained", "random") for stage in stages]
    by_maps, by_means = (
        [share(name, value) for value in entries(name, answer, keys)]
        for name, answer in {"whole": whole, "averaged": averaged}.items()
    )
    for name in "trained", "random":
        known = same_class[f"{name} code"]
        yield from diagnose(
            f"whole[{name!r}, 'relu3']",
            whole[name, "relu3"],
            known,
            otherwise=f"asks what the chapter asked, which found {known:.3f}.",
            tolerance=0.01,
        )
    if close(by_maps, by_means):
        yield "`averaged` equals `whole`: take the mean over axes 1 and 2."


# ------------------------------------------------------------------------ 04c: transfer


@checker("shared-encoder")
def shared_encoder(
    victim, error_before, error_after, *, autoencoder, pretrained, x_val
):
    """`victim`, an autoencoder whose encoder was fine-tuned in a classifier;
    `error_before` and `error_after`, its reconstruction error on `x_val`.
    """
    network("victim", victim, objectives.Autoencoder)
    yield from untouched(autoencoder.encoder, pretrained)
    if same_weights(victim.encoder, autoencoder.encoder):
        yield "the encoder of `victim` did not move: put the head on `victim.encoder`."
    if not same_weights(victim.decoder, autoencoder.decoder):
        yield "the decoder of `victim` is another one: take that of `autoencoder`."
    before = objectives.reconstruction_error(autoencoder, x_val)
    after = objectives.reconstruction_error(victim, x_val)
    for name, error, right, other in (
        ("error_before", error_before, before, after),
        ("error_after", error_after, after, before),
    ):
        yield from diagnose(
            name,
            error,
            right,
            (other, "is the other one: measure before training, and after."),
            otherwise="should be `objectives.reconstruction_error` on `x_val`.",
        )


@checker("moving-statistics")
def moving_statistics(free, free_scores, *, best, few, encoder, x_val, y_val):
    """`free` and `free_scores`, two dicts with the keys "fine-tuned" and "LP-FT": the
    classifier that trained with free normalisation, and its share of `x_val`.
    """
    arms = ("fine-tuned", "LP-FT")
    answers = entries("free", free, arms), entries("free_scores", free_scores, arms)
    for arm, classifier, score in zip(arms, *answers, strict=True):
        base = network(f"free[{arm!r}]", classifier).get_layer("conv_encoder")
        for name in "norm1", "norm2", "norm3":
            if same_weights(base.get_layer(name), encoder.get_layer(name)):
                yield f"{arm}: {name} did not move. Make it trainable before you fit."
        if classifier.count_params() != best[few][arm].classifier.count_params():
            yield f"{arm}: this is another head than the one that it chose."
        yield from diagnose(
            f"free_scores[{arm!r}]",
            share(f"free_scores[{arm!r}]", score),
            transfer.accuracy(classifier, x_val, y_val),
            (best[few][arm].validation, "is that of the frozen normalisation."),
            otherwise="is not that of this classifier on `x_val`.",
        )


@checker("shallower-start")
def shallower_start(shallow_scores, *, rates, encoder, pretrained):
    """`shallow_scores`, a dict whose keys are pairs of a start ("pretrained", "from
    scratch") and a head ("linear", "pooled"): for each a list, the accuracy on `x_val`
    at each of `rates`.
    """
    starts, heads = ("pretrained", "from scratch"), ("linear", "pooled")
    keys = [(start, head) for start in starts for head in heads]
    answers = entries("shallow_scores", shallow_scores, keys)
    for key, scores in zip(keys, answers, strict=True):
        if np.shape(scores) != (len(rates),):
            yield f"{key}: one value for each of {rates}, the same for all."
        for score in np.ravel(scores):
            share(f"shallow_scores[{key}]", score)
    # A truncated model shares its weights with the encoder that it was cut from.
    yield from untouched(encoder, pretrained)


# ------------------------------------------------------------------------- 04d: results


@checker("part-of-study")
def part_of_study(rows, lead):
    """`rows`, what `study.run` returned for pixels and PCA with two draws each; `lead`,
    by how many points PCA is ahead of pixels in the mean (negative if behind).
    """
    found = {"pixels": [], "PCA": []}
    for row in rows:
        if row["method"] not in found:
            raise Off(
                f"`rows` has {row['method']!r}, too: only pixels and PCA are asked."
            )
        found[row["method"]].append(float(row["test_accuracy"]))
    for method, values in found.items():
        if len(values) != 2:
            raise Off(f"`rows` has {len(values)} for {method}: two draws are asked.")
    ahead = np.mean(found["PCA"]) - np.mean(found["pixels"])
    yield from diagnose(
        "lead",
        lead,
        100 * ahead,
        (-100 * ahead, "has the wrong sign: PCA minus pixels."),
        (ahead, "is a share: one point is 0.01."),
        otherwise="should be the mean of PCA minus that of pixels, in points.",
        tolerance=0.01,
    )


@checker("how-many-seeds")
def how_many_seeds(widths, seeds_needed, *, scores):
    """`widths`, a dict with the keys 2, 3, 5: the width of the interval with so many
    seeds; `seeds_needed`, how many would show a difference of half a point.
    """
    ours, theirs = scores["autoencoder, fine-tuned"][25], scores["from scratch"][25]
    differences = [ours[seed] - theirs[seed] for seed in sorted(ours)]
    for n, width in zip((2, 3, 5), entries("widths", widths, (2, 3, 5)), strict=True):
        interval = stats.mean_interval(differences[:n])
        full = interval.high - interval.low
        yield from diagnose(
            f"widths[{n}]",
            width,
            full,
            (full / 2, "is half of the interval: measure from end to end."),
            otherwise=f"should come from the first {n} differences, seed by seed.",
            tolerance=0.01,
        )
    spread = np.std(differences, ddof=1)
    yield from diagnose(
        "seeds_needed",
        seeds_needed,
        (2 * spread / 0.5) ** 2,
        (2 * spread / 0.5, "is √n: square it."),
        ((4 * spread / 0.5) ** 2, "makes the whole width 0.5: half of it will do."),
        otherwise="solves 2 × spread / √n = 0.5, half the width of the interval.",
        tolerance=0.3,  # Student's factor is about 2; whoever rounds up is right
    )


@checker("own-method")
def own_method(cells, accuracies):
    """`cells`, a function from images to the mean of each channel in 4 by 4 cells;
    `accuracies`, a dict with the keys "mean colours" and "pixels".
    """
    function("cells", cells, " of images")
    x = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype("uint8")
    blocks = x.reshape(5, 4, 8, 4, 8, 3).astype("float64")
    means = blocks.mean(axis=(2, 4)).reshape(5, -1)
    strided = x.reshape(5, 8, 4, 8, 4, 3).mean(axis=(1, 3)).reshape(5, -1)
    found = np.asarray(cells(x))
    if found.shape == (5, 16):
        raise Off("`cells` mixes the channels: 16 numbers for each of them are asked.")
    yield from diagnose(
        "cells(x)",
        found * (255 if found.max() <= 1 else 1),  # both scales do for a probe
        means,
        (strided, "takes every fourth pixel: a cell is 8 neighbouring ones wide."),
        (64 * means, "holds sums: take means."),
        otherwise="should hold the means of blocks of 8 by 8 pixels.",
    )
    for value in entries("accuracies", accuracies, ("mean colours", "pixels")):
        share("accuracies", value)


# --------------------------------------------------------------------- 05a: more data


@checker("equal-passes")
def equal_passes(steps_needed, hours):
    """`steps_needed`, a number of steps; `hours`, what they take at 25 ms each."""
    yield from diagnose(
        "steps_needed",
        steps_needed,
        90_000,
        (5_760_000, "counts images: 64 of them make a step."),
        (45_000 / 64, "is one pass: 128 are asked."),
        otherwise="should be 128 × 45,000 images, 64 at a step.",
    )
    seconds = 0.025 * number("steps_needed", steps_needed)
    yield from diagnose(
        "hours",
        hours,
        seconds / 3600,
        (seconds, "is in seconds."),
        (seconds / 60, "is in minutes."),
        (1000 * seconds / 3600, "takes 25 for seconds: it is milliseconds."),
        otherwise="should be the steps × 0.025 seconds, in hours.",
    )


@checker("no-floor")
def no_floor(slope, far, *, mean):
    """`slope`, the exponent b > 0 of the line; `far`, its error for ten million."""
    x, y = np.log(list(mean)), np.log(list(mean.values()))
    fall, start = np.polyfit(x, y, 1)
    yield from diagnose(
        "slope",
        slope,
        -fall,
        (fall, "has the wrong sign: b is positive where errors fall."),
        (
            -np.polyfit(list(mean), list(mean.values()), 1)[0],
            "comes without logarithms: take them of both.",
        ),
        otherwise="should be minus the slope of np.polyfit(log n, log error, 1).",
    )
    yield from diagnose(
        "far",
        far,
        np.exp(start + fall * np.log(1e7)),
        (start + fall * np.log(1e7), "is still a logarithm: np.exp undoes it."),
        otherwise="should be exp(log a − b · log 10⁷).",
    )


@checker("own-pieces")
def own_pieces(pieces):
    """`pieces`, a function: photo (height, width, 3), n, side → (n, side, side, 3)."""
    function("pieces", pieces)
    photo = np.arange(12 * 17 * 3).reshape(12, 17, 3)
    found = array("pieces(photo, 400, 8)", pieces(photo, 400, 8), 400, 8, 8, 3)
    corners = [divmod(int(c) // 3, 17) for c in found[:, 0, 0, 0]]
    for piece, (r, c) in zip(found, corners, strict=True):
        if not np.array_equal(piece, photo[r : r + 8, c : c + 8]):
            yield "a piece is no square of neighbouring pixels of the photo."
            return
    # 400 draws of 5 rows and of 10 columns: to miss one has no real chance.
    if len(set(corners)) == 1:
        yield "all pieces come from the same place."
    elif {r for r, _ in corners} != set(range(5)):
        yield "some rows are never begun at: 0 to height − side, both included."
    elif {c for _, c in corners} != set(range(10)):
        yield "some columns are never begun at: 0 to width − side, both included."


# ----------------------------------------------------------------- 05b: bigger models


@checker("layer-cost")
def layer_cost(operations):
    """`operations`, a whole number: those of the convolution for one image."""
    right = 2 * 25 * 16 * 32 * 16 * 16
    yield from diagnose(
        "operations",
        operations,
        right,
        (right / 2, "counts products alone: each comes with an addition."),
        (4 * right, "counts the places of the input: with stride 2 a quarter is left."),
        (right / 16, "leaves out the 16 channels that each filter reads."),
        (right / 32, "is that of one filter: there are 32."),
        otherwise="should be 2 × window × channels × filters × places of the output.",
        tolerance=1e-9,
    )


@checker("twice-as-wide")
def twice_as_wide(ratios, *, networks):
    """`ratios`, a dict with the keys 8 and 16: the operations of that width, divided
    by those of half the width.
    """
    work = {w: flops.forward(networks[f"width {w}"]) for w in (4, 8, 16)}
    size = {w: networks[f"width {w}"].count_params() for w in work}
    for w, found in zip((8, 16), entries("ratios", ratios, (8, 16)), strict=True):
        yield from diagnose(
            f"ratios[{w}]",
            found,
            work[w] / work[w // 2],
            (work[w // 2] / work[w], "is upside down: the wider by the narrower."),
            (size[w] / size[w // 2], "compares parameters, not operations."),
            otherwise="should be flops.forward of this width by that of half of it.",
        )


@checker("attention-share")
def attention_share(part, fine_part):
    """`part` and `fine_part`, from 0 to 1: of all operations, those that grow with
    the square of the number of patches, for patches of 4 by 4 and of 2 by 2.
    """
    for name, found, patch in (("part", part, 4), ("fine_part", fine_part, 2)):
        n = (32 // patch) ** 2
        model = models.vision_transformer((32, 32, 3), 32, blocks=4, patch=patch)
        right = 4 * 4 * n**2 * 32 / flops.forward(model)
        yield from diagnose(
            name,
            found,
            right,
            (100 * right, "is in percent: a share from 0 to 1 is asked."),
            (right / 4, "counts one block: there are four."),
            (right / 2, "counts scores or sums: attention needs both."),
            otherwise=f"should be 4 blocks × 4 n² · 32, by all of them; n is {n}.",
        )


@checker("shuffled-patches")
def shuffled_patches(shuffled_after, shuffled_before, *, networks):
    """`shuffled_after` and `shuffled_before`, arrays of shape (64, 32): what comes out
    behind `places`, shuffled afterwards, and what comes out for shuffled patches.
    """
    after = array("shuffled_after", shuffled_after, 64, 32)
    before = array("shuffled_before", shuffled_before, 64, 32)
    if np.std(after, axis=0).max() < 1e-6:
        yield "all patches gave the same: feed a random map."
    elif not close(np.sort(after, axis=0), np.sort(before, axis=0), 1e-2):
        yield (
            "the two hold different numbers. Is `rest` cut off behind `places`? "
            "And is it the same map, shuffled, that goes in the second time?"
        )
    elif not close(after, before, 1e-2):
        yield "the same numbers in another order: shuffle both by one `order`."


# ------------------------------------------------------------- 05c: better optimizers


@checker("first-step")
def first_step(first_steps):
    """`first_steps`, three numbers: Adam's first step at a rate of 0.1 for gradients
    of 0.001, 1 and 1,000.
    """
    yield from diagnose(
        "first_steps",
        first_steps,
        [-0.1, -0.1, -0.1],
        ([0.1, 0.1, 0.1], "goes up: a step is the negative of what `g` points at."),
        (
            [-1e-4, -0.1, -100],
            "is what plain descent does: call `adam`, not `sgd`.",
        ),
        otherwise="should come from `adam(g, {}, 0.1)`, with a new state each time.",
        tolerance=2e-3,
    )


@checker("momentum-factor")
def momentum_factor(factor):
    """`factor`, a number: the 100th step of momentum, by that of plain descent."""
    yield from diagnose(
        "factor",
        factor,
        10,
        (-10, "has a wrong sign: both steps point downhill."),
        (1, "compares first steps, which are equal: keep one state for all 100."),
        (0.9, "is the share of the velocity that is kept, not where it leads."),
        otherwise="should be the sum of 1 + 0.9 + 0.9² + …",
    )


@checker("lion-by-hand")
def lion_by_hand(lion):
    """`lion`, a function of gradient, state (a dict) and rate that returns a step."""
    function("lion", lion)
    gradients = np.random.default_rng(0).normal(size=(30, 20))
    found = steps_of(lion, gradients)
    yield from diagnose(
        "lion(g, state, 0.1)",
        found,
        steps_of(_lion(0.9), gradients),
        (steps_of(_lion(0.0), gradients), "takes the sign of `g` alone."),
        (steps_of(_lion(0.891), gradients), "updates `m` before it is used."),
        (steps_of(_lion(0.99), gradients), "takes the sign of the new `m`."),
        (-steps_of(_lion(0.9), gradients), "goes uphill: a step is −rate · sign."),
        otherwise="should be −rate · sign(0.9 m + 0.1 g), `m` being that from before.",
    )


def _lion(keep: float) -> Callable:
    """Return Lion's rule with another share of the old mean in its step."""

    def rule(g, state, rate):
        m = state.get("m", 0)
        state["m"] = 0.99 * m + 0.01 * g
        return -rate * np.sign(keep * m + (1 - keep) * g)

    return rule


def steps_of(rule: Callable, gradients: np.ndarray) -> np.ndarray:
    """Return the steps of a rule for one gradient after the other, at a rate of 0.1."""
    state: dict = {}
    return np.array([rule(g, state, 0.1) for g in gradients])


@checker("few-tries")
def few_tries(after_two, *, means):
    """`after_two`, a dict: for each optimizer the percentage to be expected in
    fine-tuning from the better of two rates.
    """
    names = list(means["fine-tuning"])
    for name, found in zip(names, entries("after_two", after_two, names), strict=True):
        values = [interval.mean for interval in means["fine-tuning"][name].values()]
        pairs = list(combinations(values, 2))
        yield from diagnose(
            f"after_two[{name!r}]",
            found,
            np.mean([max(pair) for pair in pairs]),
            (np.mean(values), "is what one try gives: keep the better of two."),
            (max(values), "is the best of all nine."),
            (np.mean([min(pair) for pair in pairs]), "keeps the worse of the two."),
            otherwise="should be the mean of the larger value over all pairs of rates.",
        )


# ------------------------------------------------------------------------- 05d: compute


@checker("to-the-ridge")
def to_the_ridge(batch_needed, *, ridge):
    """`batch_needed`, a number: the batch at which a dense layer of 4,096 by 4,096
    does as many operations for each byte as `ridge` says.
    """
    found = number("batch_needed", batch_needed)
    yield from diagnose(
        "batch_needed",
        found,
        2 * ridge * 4096 / (4096 - 4 * ridge),
        (ridge / 2, "counts numbers, not bytes: a number has four."),
        (4 * ridge, "counts one operation for a product: the sum is a second."),
        (2 * ridge, "leaves out the bytes of inputs and outputs."),
        otherwise="should solve 2 b s² = ridge · 4 (2 b s + s²) for b, with s = 4096.",
    )


@checker("uneven-shares")
def uneven_shares(combine):
    """`combine`, a function of a list of gradients and a list of numbers of images
    that returns an array: the gradient of the mean over all images.
    """
    function("combine", combine)
    counts = [32, 8, 4]
    gradients = np.random.default_rng(0).normal(size=(3, 5, 2))
    summed = np.tensordot(counts, gradients, 1)
    yield from diagnose(
        "combine(gradients, counts)",
        combine(list(gradients), counts),
        summed / 44,
        (gradients.mean(axis=0), "is the plain mean: 4 images count like 32."),
        (summed, "is a sum over the images: divide by how many there are."),
        (summed / 3, "divides by the number of devices, not of images."),
        (gradients.sum(axis=0), "adds up means: weight each by its images."),
        otherwise="should be Σ countᵢ · gradientᵢ by Σ countᵢ.",
    )


@checker("one-server")
def one_server(slower):
    """`slower`, a number: the time through one server by that of a ring, for 16
    machines, without delays.
    """
    yield from diagnose(
        "slower",
        slower,
        16**2 / 15,
        (16**2 / 30, "goes through the server once: in, and then out again."),
        (15 / 16**2, "is upside down: the ring by the server."),
        (16, "takes the ring to send the whole gradient twice: it sends less."),
        otherwise="should be 2 · 16 gradients by the ring's 2 · 15 / 16.",
    )


@checker("speak-less")
def speak_less(accumulated, *, step_resnet, exchange, size_resnet):
    """`accumulated`, a whole number: batches between two exchanges, so that at least
    90 % of the time is computing.
    """
    found = number("accumulated", accumulated)
    waiting = exchange(64, size_resnet, "25 Gbit/s")
    needed = 9 * waiting / step_resnet
    yield from diagnose(
        "accumulated",
        found,
        np.ceil(needed),
        (needed, "is no whole number of batches: round it up."),
        (np.floor(needed), "is one too few: round up."),
        (np.ceil(waiting / step_resnet), "gives 50 %: computing equals waiting."),
        (np.ceil(10 * waiting / step_resnet), "is more than needed: 9 : 1 is 90 %."),
        otherwise="should be the least k with k · step ≥ 9 · exchange.",
        tolerance=1e-6,
    )


# ---------------------------------------------------------------------- 05e: privacy


@checker("cap-of-three")
def cap_of_three(found_at_most):
    """`found_at_most`, a share: of the members, at most, for ε = 3, δ = 10⁻⁵ and a
    false positive rate of 0.001.
    """
    yield from diagnose(
        "found_at_most",
        share("found_at_most", found_at_most),
        np.exp(3) * 0.001 + 1e-5,
        (np.exp(3) * 0.01 + 1e-5, "is for one percent: a tenth of it is 0.001."),
        (3 * 0.001 + 1e-5, "multiplies by ε: the promise multiplies by e to the ε."),
        (np.exp(3) * 0.001, "leaves out δ."),
        otherwise="should be exp(ε) · 0.001 + δ.",
        tolerance=1e-5,
    )


@checker("clip-by-hand")
def clip_by_hand(clip_rows):
    """`clip_rows`, a function of an array with a gradient in each row and a number: the
    sum of the rows, each no longer than that number.
    """
    function("clip_rows", clip_rows)
    rows = np.array([[3.0, 4.0], [0.3, 0.4], [-5.0, 12.0]])
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    total = rows.sum(axis=0)
    right = (rows * np.minimum(1, 1 / norms)).sum(axis=0)
    yield from diagnose(
        "clip_rows(gradients, 1.0)",
        clip_rows(rows.copy(), 1.0),
        right,
        (total / np.linalg.norm(total), "clips the sum: one image can still rule it."),
        ((rows / norms).sum(axis=0), "makes short rows longer, too."),
        (rows.clip(-1, 1).sum(axis=0), "clips each number: a row can still be long."),
        (right / 3, "is the mean: add the rows up."),
        otherwise="should be the sum of the rows, each times min(1, clip / norm).",
    )


@checker("twelve-numbers")
def twelve_numbers(linked_by_16, *, shots, victims):
    """`linked_by_16`, a share: of the shots that are identified among the victims, both
    pixelated by 16.
    """
    small = [privacy.pixelate(x, 16).astype("float32") for x in (shots, victims)]
    yield from diagnose(
        "linked_by_16",
        share("linked_by_16", linked_by_16),
        privacy.identified(*small).mean(),
        (
            privacy.identified(small[0], victims.astype("float32")).mean(),
            "compares with the gallery as it is: pixelate it, too.",
        ),
        (
            privacy.identified(privacy.pixelate(victims, 16), small[1]).mean(),
            "looks for the victims themselves: the probes are the `shots`.",
        ),
        otherwise="should be privacy.identified of both, pixelated by 16, averaged.",
    )


@checker("accountant-by-hand")
def accountant_by_hand(by_hand):
    """`by_hand`, a function of noise, steps and δ: the ε of so many Gaussian steps on
    all images, the least over α from 2 to 256.
    """
    function("by_hand", by_hand)
    order = np.arange(2, 257)

    def least(spent, delta=1e-5):
        return np.min(spent + np.log(1 / delta) / (order - 1))

    yield from diagnose(
        "by_hand(9.0, 40, 1e-5)",
        by_hand(9.0, 40, 1e-5),
        least(40 * order / (2 * 9.0**2)),
        (least(order / (2 * 9.0**2)), "counts one step: the divergence adds up."),
        (least(40 * order / (2 * 9.0)), "divides by the noise: square it."),
        (
            40 * 2 / (2 * 9.0**2) + np.log(1e5),
            "is that of α = 2: take the least over all of them.",
        ),
        otherwise="should be min over α of T α / (2σ²) + log(1/δ) / (α − 1).",
    )


# ---------------------------------------------------------------- 05f: interpretability


@checker("too-sure")
def too_sure(gap, *, logits, y_eval):
    """`gap`, a number of points: the mean confidence of the network from scratch with
    seed 0 on clean images, minus its share of right answers.
    """

    def of(name):
        p = softmax(logits[name, 0]["clean"], axis=1)
        return 100 * float(p.max(axis=1).mean() - np.mean(p.argmax(axis=1) == y_eval))

    right = of("from scratch")
    yield from diagnose(
        "gap",
        gap,
        right,
        (-right, "has the wrong sign: confidence minus share right."),
        (right / 100, "is a share: in points it is a hundred times that."),
        (of("fine-tuned"), "is that of the fine-tuned network."),
        otherwise="should be 100 × (mean confidence − share right).",
    )


@checker("two-baselines")
def two_baselines(black, agreement, *, network, x, said, found):
    """`black`, maps of the shape of `found["integrated gradients"]`, from a black
    baseline; `agreement`, the mean of their rank correlation with those from grey.
    """
    ours = found["integrated gradients"]
    maps = array("black", black, *ours.shape)
    shares = attribution.integrated_gradients(network, x, said, 0.0)
    yield from diagnose(
        "black",
        maps,
        shares.sum(axis=-1),
        (ours, "starts from grey, as the chapter does: black is 0."),
        (
            np.abs(shares).sum(axis=-1),
            "has lost its signs: sum the shares as they are.",
        ),
        (
            attribution.integrated_gradients(network, x, said, 255.0).sum(axis=-1),
            "starts from white: black is 0.",
        ),
        otherwise="should be the shares from a baseline of 0, summed over channels.",
        tolerance=0.01,
    )
    yield from diagnose(
        "agreement",
        agreement,
        attribution.rank_correlation(maps, ours).mean(),
        (
            attribution.rank_correlation(maps, found["saliency"]).mean(),
            'compares with the saliency: take `found["integrated gradients"]`.',
        ),
        otherwise="should be the mean of attribution.rank_correlation over images.",
    )


@checker("count-the-pairs")
def count_the_pairs(counted):
    """`counted`, a function: scores from inside, scores from outside → AUROC."""
    function("counted", counted)
    inside, outside = np.array([1.0, 2, 2, 5]), np.array([2.0, 3, 9])
    higher = np.mean(outside[None] > inside[:, None])
    equal = np.mean(outside[None] == inside[:, None])
    yield from diagnose(
        "counted(inside, outside)",
        counted(inside, outside),
        higher + equal / 2,
        (higher, "leaves out the ties: each counts half."),
        (higher + equal, "counts ties as if they were right: each counts half."),
        (1 - higher - equal / 2, "is the wrong way round: outside should be higher."),
        (12 * (higher + equal / 2), "is a number of pairs: divide by all of them."),
        otherwise="should be the share of pairs in which outside is higher.",
    )


@checker("heat-of-damage")
def heat_of_damage(heat, *, logits, y_eval):
    """`heat`, a dict: for each strength of noise, 0 to 5, the temperature that suits
    the network from scratch with seed 0.
    """
    found = logits["from scratch", 0]
    keys = range(6)
    for strength, t in zip(keys, entries("heat", heat, keys), strict=True):
        damaged = found["noise", strength] if strength else found["clean"]
        right = reliability.fit_temperature(damaged, y_eval)
        yield from diagnose(
            f"heat[{strength}]",
            t,
            right,
            (1 / right, "is upside down: logits are *divided* by it."),
            otherwise="should be fitted to the logits at this strength, and `y_eval`.",
            tolerance=0.01,
        )


# ------------------------------------------------------- 06: questions, and the zoo


@checker("largest-batch")
def largest_batch(largest, *, resnet):
    """`largest`, a whole number: images in a batch, so that a training step of `resnet`
    holds at most 16 · 10⁹ bytes.
    """
    fixed = flops.training_memory(resnet, 0)
    each = flops.training_memory(resnet, 1) - fixed
    yield from diagnose(
        "largest",
        largest,
        (16e9 - fixed) // each,
        ((16e9 - fixed) / each, "is no whole number of images: round it down."),
        ((16e9 - fixed) // each + 1, "is one too many: round down."),
        (16e9 // each, "forgets the weights, with gradients and means of Adam."),
        (16e9 // (fixed + each), "counts the weights anew for each image."),
        otherwise="should be the largest n with training_memory(resnet, n) ≤ 16e9.",
        tolerance=1e-6,
    )


@checker("copies-in-the-mirror")
def copies_in_the_mirror(leaked):
    """`leaked`, a function: training images, test images → how many of the test images
    are among the training images, as they are or mirrored left to right.
    """
    function("leaked", leaked)
    train = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3)).astype("uint8")
    other = 255 - train[:2]
    right_way, mirrored = train[:3], train[3:5, :, ::-1]
    test = np.concatenate([right_way, mirrored, mirrored, other, train[5:6, ::-1]])
    yield from diagnose(
        "leaked(train, test)",
        leaked(train, test),
        7,
        (3, "finds no mirrored copies."),
        (4, "counts images that stand on their head, or finds no mirrored ones."),
        (8, "also counts an image that stands on its head."),
        (5, "counts an image once that is twice in `test`."),
        (7 / len(test), "is a share: return how many."),
        otherwise="should count each image of `test` with a copy in `train`.",
    )


@checker("one-number-for-collapse")
def one_number_for_collapse(dimensions):
    """`dimensions`, a function: points, (n, d) → (Σλ)² / Σλ², with the eigenvalues λ of
    their covariance.
    """
    function("dimensions", dimensions)
    z = np.random.default_rng(0).normal(size=(200, 5)) * [3, 2, 1, 1, 0.1] + 4
    variances = np.linalg.eigvalsh(np.cov(z.T))

    def of(values):
        return values.sum() ** 2 / np.square(values).sum()

    yield from diagnose(
        "dimensions(z)",
        dimensions(z),
        of(variances),
        (of(np.linalg.eigvalsh(z.T @ z)), "forgets to subtract the mean."),
        (of(np.sqrt(variances)), "takes deviations: λ are variances."),
        (of(np.diag(np.cov(z.T))), "takes the axes, not the eigenvalues."),
        (1 / of(variances), "is upside down."),
        otherwise="should be (Σλ)² / Σλ², with the eigenvalues of np.cov(z.T).",
    )


def patients(input_shape: models.Shape, x: np.ndarray) -> dict[str, keras.Model]:
    """Return three encoders for the exercise: one healthy, two with a failure.

    Args:
        input_shape: of one image.
        x: images in 0 … 255, (n, height, width, channels), for batch norm to settle on.
    """
    made = {}
    for seed, letter in enumerate("ABC"):
        keras.utils.set_random_seed(seed)
        made[letter] = models.conv_encoder(input_shape, (16, 32, 64))
        if letter != "C":
            transfer.settle_normalisation(made[letter], x)
    # Nearly all inputs of the last ReLU are moved below zero.
    shift = made["A"].get_layer("norm3").beta
    shift.assign(np.where(np.arange(64) % 8, -50.0, 0.0))
    return made


@checker("three-patients")
def three_patients(diagnosis, *, patients):
    """`diagnosis`, a dict: for "A", "B" and "C" either "healthy", "dead" or
    "unsettled".
    """
    truth = {"A": "dead", "B": "healthy", "C": "unsettled"}
    tests = {
        "dead": "how many of the last units never fire?",
        "healthy": "what did each of the two tests say?",
        "unsettled": "do features change in training mode?",
    }
    said = entries("diagnosis", diagnosis, list(patients))
    for letter, answer in zip(patients, said, strict=True):
        if answer not in tests:
            yield f"`diagnosis[{letter!r}]` should be one of {', '.join(tests)}."
        elif answer != truth[letter]:
            yield f"`{letter}` is not {answer}: {tests[truth[letter]]}"


# ------------------------------------------------------- 07a: denoising and masking


@checker("price-of-a-quarter")
def price_of_a_quarter(tokens, scores):
    """Two numbers: the `tokens` that the encoder gets of an image, and the fraction of
    the `scores` of attention that are computed.
    """
    yield from diagnose(
        "tokens",
        tokens,
        49,
        (196, "counts all patches: a quarter of them is shown."),
        (147, "counts the hidden patches: a quarter is shown."),
        (3.5, "counts along one side only: patches lie in rows and columns."),
        (7, "counts along one side only: patches lie in rows and columns."),
        otherwise="should be a quarter of the patches of 16 by 16 in 224 by 224.",
    )
    yield from diagnose(
        "scores",
        scores,
        1 / 16,
        (1 / 4, "is that of the tokens: scores belong to *pairs* of tokens."),
        (9 / 16, "is that of the hidden patches: a quarter is shown."),
        (49**2, "is their number: give the fraction of those for the whole image."),
        (16, "is upside down: fewer scores are computed, not more."),
        otherwise="should be the square of the share of tokens.",
    )


@checker("back-to-their-places")
def back_to_their_places(put_back):
    """`put_back`, a function: codes of visible patches (shown, size), mask token
    (size,), order of all patches (patches,) → (patches, size).
    """
    function("put_back", put_back)
    order, mask = np.array([3, 0, 4, 2, 1, 5]), np.array([-1.0, -2.0])
    code = np.array([[10.0, 11], [20, 21], [30, 31]])
    in_order = np.concatenate([code, np.tile(mask, (3, 1))])
    sorted_codes = np.tile(mask, (6, 1))
    sorted_codes[np.sort(order[:3])] = code
    given = [part.copy() for part in (code, mask, order)]
    found = put_back(*given)
    yield from diagnose(
        "put_back(code, mask, order)",
        found,
        in_order[np.argsort(order)],
        (in_order, "leaves all codes in front: row i belongs to patch i."),
        (in_order[order], "shuffles once more: undo the order, with its argsort."),
        (sorted_codes, "has codes at the visible patches, but not each at its own."),
        otherwise="should have code i in row order[i], and `mask` in all others.",
    )
    if not np.array_equal(given[0], code) or not np.array_equal(given[1], mask):
        yield "`put_back` changes the arrays that it is given: work on a copy."


@checker("hidden-only")
def hidden_only(hidden_loss):
    """`hidden_loss`, a function: target, restored (n, height, width, channels), hidden
    (n, height, width, 1), the weight of visible pixels → weighted mean squared error.
    """
    function("hidden_loss", hidden_loss)
    rng = np.random.default_rng(0)
    target, restored = rng.random((2, 3, 4, 4, 3))
    hidden = (rng.random((3, 4, 4, 1)) < 0.4).astype("float64")
    square = np.square(target - restored)
    for visible in (0.0, 0.5):
        weight = hidden + visible * (1 - hidden)
        total = np.sum(weight * square)
        swapped = 1 - hidden + visible * hidden
        right = total / weight.sum() / 3
        yield from diagnose(
            f"hidden_loss(target, restored, hidden, {visible})",
            hidden_loss(target, restored, hidden, visible),
            right,
            (3 * right, "counts each weight once: all channels share it."),
            (np.mean(weight * square), "divides by all pixels, not by the weights."),
            (total, "is a sum: divide by the sum of the weights."),
            (np.mean(square), "is that of the whole image."),
            (
                np.sum(swapped * square) / swapped.sum() / 3,
                "has the weights the wrong way round: `hidden` is 1 where hidden.",
            ),
            otherwise="should be the weighted mean of the squared errors.",
        )


@checker("one-large-hole")
def one_large_hole(hole):
    """`hole`, a function: rows, columns, height, width, generator → an array (rows,
    columns) of 0 and 1, with one block of 1 at a random place.
    """
    function("hole", hole)
    rng = np.random.default_rng(0)
    places = set()
    for _ in range(300):
        found = array("hole(5, 4, 2, 3, rng)", hole(5, 4, 2, 3, rng), 5, 4)
        rows, columns = (np.flatnonzero(found.any(axis=a)) for a in (1, 0))
        if found.sum() != 6 or not np.isin(found, (0, 1)).all():
            raise Off(f"`hole` should hide 2 · 3 patches, and hides {found.sum():g}.")
        if (np.ptp(rows), np.ptp(columns)) == (2, 1):
            raise Off("`hole` swaps height and width: rows come first.")
        if (np.ptp(rows), np.ptp(columns)) != (1, 2):
            raise Off("`hole` should hide one block, not scattered patches.")
        places.add((int(rows[0]), int(columns[0])))
    if len(places) == 1:
        yield "`hole` always hides the same block: draw its place from `rng`."
    elif not {3, 0} <= {row for row, _ in places}:
        yield "`hole` never reaches the last row, or the first: how many rows fit?"
    elif not {1, 0} <= {column for _, column in places}:
        yield "`hole` never reaches the last column, or the first."


# --------------------------------------------------------- 07b: contrastive learning


@checker("loss-of-guessing")
def loss_of_guessing(guessing, batch_for_8):
    """`guessing`, the loss of a collapsed network in a batch of 256 images, and
    `batch_for_8`, the smallest batch with a loss of at least 8.
    """
    yield from diagnose(
        "guessing",
        guessing,
        np.log(511),
        (np.log(512), "counts the view itself: it is left out."),
        (np.log(256), "counts the images: there are two views of each."),
        (np.log(255), "counts the images: there are two views of each."),
        (np.log2(511), "is in bits: take the natural logarithm."),
        otherwise="should be the logarithm of the number of other views.",
        tolerance=1e-4,
    )
    smallest = np.ceil((np.exp(8) + 1) / 2)
    yield from diagnose(
        "batch_for_8",
        batch_for_8,
        smallest,
        (smallest - 1, "is rounded down: its loss is just below 8."),
        (np.ceil(np.exp(8)), "is the number of views, not of images."),
        (np.ceil(np.exp(8) + 1), "is the number of views, not of images."),
        otherwise="should be the smallest n with ln(2 n − 1) at least 8.",
        tolerance=1e-6,
    )


@checker("turns-confused")
def turns_confused(confused, *, said):
    """`confused`, (4, 4): the share of images with k turns that were taken for l."""
    counts = np.array([np.bincount(s, minlength=4) for s in said])
    right = counts / counts.sum(axis=1, keepdims=True)
    yield from diagnose(
        "confused",
        confused,
        right,
        (right.T, "is transposed: a row belongs to how far images were turned."),
        (counts, "counts: divide each row by its sum."),
        (100 * right, "is in percent: give shares."),
        (counts / counts.sum(), "adds up to 1 as a whole: each row should."),
        otherwise="should hold the share of the answers 0 to 3, one row for each turn.",
    )


@checker("stable-push")
def stable_push(push):
    """`push`, a function: cosines, temperature → the share of the push on each."""
    function("push", push)
    cosines = np.array([-0.5, 0.2, 0.8])

    def softmax(logits):
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()

    yield from diagnose(
        "push(cosines, 0.5)",
        push(cosines, 0.5),
        softmax(cosines / 0.5),
        (softmax(cosines * 0.5), "multiplies by the temperature: divide."),
        (softmax(cosines), "leaves the temperature out."),
        (softmax(-cosines / 0.5), "pushes the farthest most: mind the sign."),
        (100 * softmax(cosines / 0.5), "is in percent: the shares should add up to 1."),
        otherwise="should be the softmax of the cosines over the temperature.",
    )
    with np.errstate(all="ignore"):
        sharp = as_array(push(np.array([0.9, 0.1, 0.899]), 1e-3))
    if not np.isfinite(sharp).all():
        yield (
            "`push(cosines, 0.001)` overflows: subtract the largest logit from all "
            "before you take exponentials."
        )


@checker("lacking-variance")
def lacking_variance(lacking):
    """`lacking`, a function: vectors (n, d) → what their deviations lack to 1, on
    average.
    """
    function("lacking", lacking)
    z = np.random.default_rng(0).normal(size=(8, 4)) * [3, 0.1, 0.5, 1.5]
    short = 1 - z.std(axis=0, ddof=1)
    yield from diagnose(
        "lacking(z)",
        lacking(z),
        np.maximum(0, short).mean(),
        (short.mean(), "lets one number make up for another: stop at 0 for each."),
        (max(0, short.mean()), "stops at 0 after the mean: do it for each number."),
        (np.maximum(0, 1 - z.var(axis=0, ddof=1)).mean(), "takes variances."),
        (np.maximum(0, 1 - z.std(axis=0)).mean(), "divides by n: use ddof=1."),
        (
            np.maximum(0, 1 - z.std(axis=1, ddof=1)).mean(),
            "looks along the rows: each deviation is taken over the images.",
        ),
        (np.maximum(0, short).sum(), "is the sum: take the mean over the numbers."),
        otherwise="should be the mean over the d numbers of max(0, 1 − deviation).",
    )


# ------------------------------------------------------------- 07c: large scale


@checker("price-of-a-block")
def price_of_a_block(weights):
    """`weights`, a function: channels, expansion, kernel → the number of kernel weights
    of an inverted bottleneck, without norms.
    """
    function("weights", weights)
    for c, e, k in (40, 6, 5), (8, 3, 3):
        wide = c * e
        yield from diagnose(
            f"weights({c}, {e}, {k})",
            weights(c, e, k),
            2 * c * wide + k**2 * wide,
            (2 * c * wide + (k * wide) ** 2, "has a full convolution in the middle."),
            (2 * c * wide + k * wide, "has kernels of k numbers: they are k by k."),
            (c * wide + k**2 * wide, "forgets that it is narrowed again."),
            (
                2 * c * wide + k**2 * c,
                "filters the narrow channels, not the wide ones.",
            ),
            (2 * c * wide + k**2, "has one filter for all channels: each has its own."),
            otherwise="should count widening, filtering and narrowing.",
            tolerance=1e-6,
        )


@checker("vote-of-neighbours")
def vote_of_neighbours(vote):
    """`vote`, a function: indices of the nearest images, (queries, k), nearest first,
    and labels → the class with most votes, of those tied the one whose image is
    nearest.
    """
    function("vote", vote)
    y = np.array([7, 7, 2, 2, 5])
    found = np.array([[2, 0, 1, 4, 4], [0, 3, 2, 1, 4], [4, 3, 1, 2, 0]])
    yield from diagnose(
        "vote(found, y)",
        vote(found, y),
        np.array([7, 7, 2]),
        (np.array([2, 7, 5]), "asks the nearest image only."),
        (np.array([5, 2, 2]), "gives the smallest class of those tied."),
        (np.array([4, 0, 0]), "counts indices: look up their labels in `y`."),
        otherwise="should be the class with most votes; of those tied, the one whose "
        "image comes first in the row.",
    )


@checker("shared-by-many")
def shared_by_many(users, *, cost):
    """`users`, a whole number: how often the arithmetic of ImageNet must be shared to
    be no more than the autoencoder's.
    """
    times = cost["ImageNet"] / cost["autoencoder"]
    yield from diagnose(
        "users",
        users,
        float(np.ceil(times)),
        (float(np.floor(times)), "is rounded down: each share is then too large."),
        (times, "is not a whole number: round it up."),
        (1 / times, "is upside down."),
        otherwise="should be ImageNet's operations by the autoencoder's, rounded up.",
        tolerance=1e-9,
    )


@checker("norm-compromise")
def norm_compromise(blend):
    """`blend`, a function: mean, variance, our mean, our variance, share → mean and
    variance of the mixture in which `share` is ours.
    """
    function("blend", blend)
    m, v, ours, our_v = (np.array(a) for a in ([1.0, 2], [4.0, 1], [3.0, 2], [1.0, 9]))
    share = 0.25
    found = blend(m, v, ours, our_v, share)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Off("`blend` should return two things: mean and variance.")

    def mixed(a, b):
        return (1 - share) * a + share * b

    between = share * (1 - share) * (m - ours) ** 2
    yield from diagnose(
        "blend(…)[0]",
        found[0],
        mixed(m, ours),
        (mixed(ours, m), "gives the share to ImageNet: it is ours."),
        otherwise="should be the weighted mean of the means.",
    )
    yield from diagnose(
        "blend(…)[1]",
        found[1],
        mixed(v, our_v) + between,
        (mixed(v, our_v), "forgets that the means lie apart."),
        (mixed(v**0.5, our_v**0.5) ** 2, "mixes deviations, not variances."),
        (mixed(v, our_v) + (m - ours) ** 2, "adds the distance in full."),
        otherwise="should be E[h²] − E[h]² of the mixture.",
    )
