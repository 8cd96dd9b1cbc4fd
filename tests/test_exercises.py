"""The exercises: statement, solution, checker, and the notebook to do them in."""

import ast
import re
from types import SimpleNamespace

import keras
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import build
from pretrain import (
    attribution,
    exercises,
    experiments,
    models,
    objectives,
    reliability,
)

CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
CHAPTERS = build.notebooks()


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def path(request):
    """Where each chapter lies, one after the other."""
    return request.param


def prose(notebook: nbformat.NotebookNode) -> str:
    """Return the text of a chapter, without its code cells."""
    cells = notebook.cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def statements(text: str) -> dict[str, str]:
    """Return the text of each exercise by its label."""
    return {label: body for _, label, body in build.EXERCISE.findall(text)}


def solutions(text: str) -> dict[str, str]:
    """Return the code of each solution by the label of its exercise."""
    return {
        label: "\n".join(CODE.findall(body))
        for label, body in build.SOLUTION.findall(text)
    }


# ------------------------------------------------------- what is stored (nothing runs)


def test_every_exercise_has_a_solution(notebook):
    text = prose(notebook)
    asked = list(statements(text))
    assert 3 <= len(asked) <= 5
    assert asked == list(solutions(text))
    assert set(re.findall("★+", text)) >= {"★", "★★"}


def test_exercises_and_checkers_belong_together():
    texts = [prose(nbformat.read(path, as_version=4)) for path in CHAPTERS]
    asked = [label for text in texts for label in statements(text)]
    assert sorted(asked) == sorted(exercises.CHECKERS)


def test_statement_and_solution_name_the_answers(notebook):
    text = prose(notebook)
    asked, solved = statements(text), solutions(text)
    for label, (answers, _) in build.checked_names().items():
        if label in asked:
            defined = names_defined(solved[label])
            for name in answers:
                assert re.search(rf"`{name}\b", asked[label]), f"{label}: {name}?"
                assert name in defined, f"the solution of {label} defines no {name}"


def names_defined(code: str) -> set[str]:
    """Return the names that code assigns to, and the functions that it defines."""
    nodes = list(ast.walk(ast.parse(code)))
    functions = {n.name for n in nodes if isinstance(n, ast.FunctionDef)}
    names = [n for n in nodes if isinstance(n, ast.Name)]
    return functions | {n.id for n in names if isinstance(n.ctx, ast.Store)}


def test_exercises_begin_with_the_link(path):
    text = prose(nbformat.read(path, as_version=4))
    head = f"## Exercises\n\n{build.exercises_link(path.stem)}\n\n````{{exercise}}"
    assert head in text, "run `make stamp`"


def test_a_stale_link_is_replaced(tmp_path):
    path = tmp_path / "chapter.ipynb"
    text = "Text.\n\n## Exercises\n\n````{exercise} A\n:label: a\n````"
    cells = [nbformat.v4.new_markdown_cell(text)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    build.stamp(path, build.colab_cell())
    stamped = path.read_text(encoding="utf-8")
    assert build.exercises_link("chapter") in prose(nbformat.read(path, as_version=4))
    path.write_text(stamped.replace("colab.research", "elsewhere"), encoding="utf-8")
    assert build.stamp(path, build.colab_cell())
    assert path.read_text(encoding="utf-8") == stamped
    assert not build.stamp(path, build.colab_cell())


def test_learners_notebook_is_up_to_date(path):
    stored = path.parent / "exercises" / path.name
    expected = nbformat.writes(build.learners_notebook(path)) + "\n"
    assert stored.exists() and stored.read_text(encoding="utf-8") == expected, (
        f"book/exercises/{path.name} is not what its chapter says: run `make exercises`"
    )


def test_learners_notebook_holds_no_solution_and_no_output(path):
    chapter = nbformat.read(path, as_version=4)
    written = build.learners_notebook(path)
    shown = "\n".join(cell.source for cell in chapter.cells if cell.cell_type == "code")
    text = "\n".join(cell.source for cell in written.cells)
    for code in solutions(prose(chapter)).values():
        lines = {line.strip() for line in code.splitlines()} - {"", ")", "):"}
        for line in lines:
            assert line in shown or line not in text, line
    assert not any(cell.get("outputs") for cell in written.cells)


def test_learners_notebook_is_plain_markdown(path):
    text = prose(build.learners_notebook(path))
    assert not re.search(r"\{[a-z:]{3,}\}`|```+\{|^:\w+:|\[\]\(", text, re.MULTILINE)
    for target in re.findall(r"\]\((\.\./[^)#]+)\)", text):
        assert (path.parent / "exercises" / target).exists(), target


def test_a_reference_to_nothing_is_an_error():
    with pytest.raises(ValueError, match="'no_such_page'"):
        build.plain("see [](no_such_page)")


@pytest.mark.parametrize("folder", ["book/exercises", "book"])
def test_learners_notebook_finds_the_package(folder):
    code = [
        build.ENTER_BOOK,
        build.ENTER_BOOK,
        "import os.path as p; p.isdir('pretrain')",
    ]
    cells = [nbformat.v4.new_code_cell(source) for source in code]
    notebook = nbformat.v4.new_notebook(cells=cells)
    resources = {"metadata": {"path": build.ROOT / folder}}
    NotebookClient(notebook, resources=resources).execute()
    assert notebook.cells[-1].outputs[0].data["text/plain"] == "True"


# ------------------------------------------------------------- the chapters, executed


def test_every_solution_runs(path):
    """Each chapter once, as a reader has it, with the solutions for answers."""
    notebook = build.learners_notebook(path)
    cells = {cell.id: cell for cell in notebook.cells}
    solved = solutions(prose(nbformat.read(path, as_version=4)))
    for label, code in solved.items():
        cells[f"{label}-answer"].source = code
    resources = {"metadata": {"path": path.parent / "exercises"}}
    client = NotebookClient(notebook, timeout=300, resources=resources)
    try:
        client.execute()
    except CellExecutionError as error:
        pytest.fail(str(error))
    for label in solved:
        said = "".join(o.get("text", "") for o in cells[f"{label}-check"].outputs)
        assert said.startswith(f"✓ {label}: "), said


# -------------------------------------------------------------------------- the check


def test_compare_shows_guess_and_outcome(capsys):
    exercises.compare({"a": 3, "b": None}, {"a": 3.14159, "b": 2})
    said = capsys.readouterr().out
    assert "a: you said 3, measured 3.142" in said
    assert "b: measured 2 (no guess)" in said


def test_an_unknown_exercise_is_an_error():
    with pytest.raises(ValueError, match="No exercise has the label 'own-clocks'"):
        exercises.check("own-clocks", hours=1)


def test_other_names_are_an_error():
    with pytest.raises(ValueError, match="checked with seconds_per_label, hours, days"):
        exercises.check("own-clock", hours=1)


@pytest.mark.parametrize("label", exercises.CHECKERS)
def test_untouched_answers_are_no_mistake(label, capsys):
    answers, compared = build.checked_names()[label]
    exercises.check(label, **dict.fromkeys(answers, ...), **dict.fromkeys(compared))
    said = capsys.readouterr().out
    assert said.startswith(f"… {label}: nothing there yet in `{answers[0]}`")
    assert all(f"`{answer}`" in said for answer in answers)


@pytest.mark.parametrize("answer", ["text", None, [[1], [1, 2]], {}, len, np.nan])
@pytest.mark.parametrize("label", exercises.CHECKERS)
def test_no_answer_stops_the_notebook(label, answer, capsys):
    answers, compared = build.checked_names()[label]
    exercises.check(label, **dict.fromkeys(answers, answer), **dict.fromkeys(compared))
    assert capsys.readouterr().out.startswith(f"✗ {label}: ")


# Images and labels, a network and its parts: small, and random where that will do.
rng = np.random.default_rng(0)
X = rng.integers(0, 256, (300, 4, 4, 1)).astype("uint8")
Y = np.arange(300) % 10
ROWS = rng.normal(size=(60, 12)) * np.linspace(3, 1, 12)
KERNEL_E, KERNEL_D, M = (rng.normal(size=s) for s in ((12, 8), (8, 12), (8, 8)))
A = rng.normal(size=(5, 3))
SHADES = rng.integers(0, 256, (8, 32, 32, 3)).astype("float32")
SCORES = {
    "autoencoder, fine-tuned": {25: dict(enumerate([1.0, 2.0, 4.0, 3.0, 1.5]))},
    "from scratch": {25: dict.fromkeys(range(5), 0.0)},
}


RUN = SimpleNamespace(
    classifier=SimpleNamespace(count_params=lambda: 0), validation=0.2
)


def convolve(x, kernel, stride):
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3))
    return (windows[::stride, ::stride] * kernel).sum(axis=(2, 3))


def columns(*components):
    """Return components of ROWS by their numbers, as columns."""
    _, vectors = np.linalg.eigh(np.cov(ROWS.T))
    return vectors[:, ::-1][:, [n - 1 for n in components]]


def encoder(seed=0, filters=(2, 2, 16)):
    keras.utils.set_random_seed(seed)
    return models.conv_encoder((32, 32, 3), filters)


def autoencoder(seed=0):
    return objectives.Autoencoder(
        encoder(seed), models.conv_decoder((4, 4, 16), (2, 2))
    )


def classifier(seed=0):
    return models.classifier(encoder(seed), models.linear_head((4, 4, 16), 10))


def copier(down, right):
    """Return a model whose code is the image, shifted."""
    model = keras.Model()
    model.encoder = [lambda x: x[:, 3 + down : 29 + down, 3 + right : 29 + right]]
    return model


def with_heavy_matrix(seed):
    return keras.Sequential([
        keras.Input((32, 32, 3)),
        *(keras.layers.Conv2D(filters, 3) for filters in (32, 64, 32)),
        keras.layers.Flatten(),
        keras.layers.Dense(128),
        keras.layers.Dense(10),
    ])  # fmt: skip


def shares():
    keys = [(s, f"relu{i}") for s in ("trained", "random") for i in (1, 2, 3)]
    return dict.fromkeys(keys, 0.3)


def own_method_by_strides(x):
    return x.reshape(len(x), 8, 4, 8, 4, 3).mean(axis=(1, 3)).reshape(len(x), -1) / 255


def with_own_stride(strides):
    return 1 + 2 * sum(np.cumprod(strides))


def lion_with_new_mean(g, state, rate):
    state["m"] = 0.99 * state.get("m", 0) + 0.01 * g
    return -rate * np.sign(0.9 * state["m"] + 0.1 * g)


def pieces_off_the_border(photo, n, side):
    height, width, _ = photo.shape
    rows, columns = rng.integers(0, (height - side, width - side), (n, 2)).T
    places = zip(rows, columns, strict=True)
    return np.stack([photo[r : r + side, c : c + side] for r, c in places])


def by_width():
    shape = SimpleNamespace(x=np.zeros((1, 32, 32, 3)), seed=0)
    names = [f"width {w}" for w in (4, 8, 16)]
    return {name: experiments.new_network(shape, name) for name in names}


ROWS_OF_32 = rng.normal(size=(64, 32))


def heavy_network():
    """Return a network of ten million weights that keeps 40 kB of each image."""
    return keras.Sequential([keras.Input((1_000,)), keras.layers.Dense(10_000)])


def mirrored(x):
    return x[:, :, ::-1]


def upside_down(x):
    return x[:, ::-1]


def with_copies(*changes):
    """Return a function that counts copies that were changed in one of these ways."""

    def leaked(train, test):
        known = {image.tobytes() for change in changes for image in change(train)}
        return sum(image.tobytes() in known for image in test)

    return leaked


# What a network said of four images, turned by 0, 1, 2 and 3 quarters.
TURNS_SAID = [np.array(s) for s in ([0, 0, 2, 0], [1, 1, 1, 3], [2, 0, 0, 2], [3] * 4)]


def turn_shares():
    return np.array([np.bincount(s, minlength=4) / 4 for s in TURNS_SAID])


def spread_over(covariance):
    values = np.linalg.eigvalsh(covariance)
    return values.sum() ** 2 / np.square(values).sum()


RATES = {0.1: 10.0, 0.2: 20.0, 0.5: 30.0}
RATE_MEANS = {
    "fine-tuning": {"SGD": {r: SimpleNamespace(mean=m) for r, m in RATES.items()}}
}
SLOW_NETWORK = dict(step_resnet=2.0, exchange=lambda n, size, link: 1.0, size_resnet=1)


# Four pictures with their names, and other shots of them.
VICTIMS = rng.integers(0, 256, (4, 32, 32, 3)).astype("uint8")
SHOTS = VICTIMS[::-1].copy()


# Two classes: sure to 73.1 % or to 88.1 %, and right in half of the cases.
SURE = {
    ("from scratch", 0): {"clean": np.tile([1.0, 0.0], (4, 1))},
    ("fine-tuned", 0): {"clean": np.tile([2.0, 0.0], (4, 1))},
}
SURE_LABELS = np.array([0, 1, 0, 1])
NOISY_LABELS = rng.integers(0, 3, 200)
NOISY = {
    ("from scratch", 0): {
        what: 4 * np.eye(3)[NOISY_LABELS] + rng.normal(0, 4, (200, 3))
        for what in ("clean", *(("noise", i) for i in range(1, 6)))
    }
}


def with_wrong_heat():
    found = NOISY["from scratch", 0].values()
    heat = [reliability.fit_temperature(a, NOISY_LABELS) for a in found]
    return dict(enumerate([1 / heat[0], *heat[1:]]))


def from_baseline(level):
    """Return answers to two-baselines that were computed from a grey level."""
    network, x, said = classifier(), SHADES[:2], np.array([1, 2])
    maps, grey = (
        attribution.integrated_gradients(network, x, said, b).sum(axis=-1)
        for b in (level, 100.0)
    )
    agreement = attribution.rank_correlation(maps, grey).mean()
    found = {"integrated gradients": grey, "saliency": maps}
    inputs = dict(network=network, x=x, said=said, found=found)
    return dict(black=maps, agreement=agreement, **inputs)


# A typical mistake, with what the check has to say of it. The answers are computed when
# the test runs, since some of them are networks.
def codes_and_masks(code, mask, order):
    """Return the codes, then a mask for each hidden patch."""
    return np.concatenate([code, np.tile(mask, (len(order) - len(code), 1))])


def by_mask(code, mask, order):
    """Put the codes at the visible patches, in the wrong order."""
    full = np.tile(mask, (len(order), 1))
    full[np.sort(order[: len(code)])] = code
    return full


def block(rows, columns, height, width, rng, end=1):
    """Return a mask with one block hidden."""
    hidden = np.zeros((rows, columns))
    top = rng.integers(0, rows - height + end)
    left = rng.integers(0, columns - width + end)
    hidden[top : top + height, left : left + width] = 1
    return hidden


MISTAKES = [
    (
        "own-clock",
        "`hours` should be a number, and is of type str",
        lambda: dict(seconds_per_label=2, hours="2", days=1, y_train=np.zeros(3600)),
    ),
    (
        "own-clock",
        "`hours` is in minutes",
        lambda: dict(seconds_per_label=2, hours=120, days=0.25, y_train=np.zeros(3600)),
    ),
    (
        "own-clock",
        "days of 24 hours",
        lambda: dict(seconds_per_label=2, hours=2, days=2 / 24, y_train=np.zeros(3600)),
    ),
    (
        "same-answer",
        "not the most frequent in `y_train`",
        lambda: dict(
            always=0.75,
            die=0.5,
            y_train=np.array([0, 0, 1]),
            y_val=np.array([0, 1, 1, 1]),
        ),
    ),
    (
        "same-answer",
        "`always` is 25: give a share between 0 and 1",
        lambda: dict(always=25, die=0.5, y_train=Y, y_val=Y),
    ),
    (
        "how-sure",
        "is a share: times 100",
        lambda: dict(
            percent_right=0.5,
            confidence=np.array([[0.95, 0.05], [0.6, 0.4], [0.92, 0.08]]),
            said=np.array([0, 0, 0]),
            y_val=np.array([0, 0, 1]),
        ),
    ),
    (
        "nearest-image",
        "places, not labels",
        lambda: dict(predicted=np.arange(300), x_train=X, y_train=Y, x_val=X),
    ),
    (
        "nearest-image",
        "Squares of bytes",
        lambda: dict(predicted=np.roll(Y, 1), x_train=X, y_train=Y, x_val=X),
    ),
    (
        "own-kernel",
        "`blurred` has 32 rows, but the kernel fits only at 30 places",
        lambda: dict(
            blur=np.full((3, 3), 1 / 9),
            blurred=SHADES[0, :, :, 0],
            grey=SHADES[0, :, :, 0],
        ),
    ),
    ("count-field", "counts a layer's own stride", lambda: dict(field=with_own_stride)),
    (
        "count-field",
        "`field([2, 2, 2])` should be a number, and is of type NoneType",
        lambda: dict(field=lambda strides: None),
    ),
    (
        "pooled-shift",
        "leave out the shift by 0",
        lambda: dict(drift=np.zeros(9), encoder=encoder(), wide=SHADES),
    ),
    (
        "other-neighbours",
        "its entry [0, 1] is the correlation",
        lambda: dict(near=np.eye(2), far=np.eye(2), x_val=X),
    ),
    (
        "03a-decoder",
        "inverts the encoder, without a look at `rows`",
        lambda: dict(
            w_e=KERNEL_E,
            w_d=np.linalg.pinv(KERNEL_E),
            error=1.0,
            rows=ROWS,
            pca_error=0.1,
        ),
    ),
    (
        "03a-decoder",
        "`w_d` should have shape (8, 12), and has (12, 8). This is the transpose.",
        lambda: dict(w_e=KERNEL_E, w_d=KERNEL_D.T, error=1.0, rows=ROWS, pca_error=0.1),
    ),
    (
        "03a-basis",
        "turned by `m` once more",
        lambda: dict(
            m=M,
            turned_e=KERNEL_E @ M,
            turned_d=M @ KERNEL_D,
            kernel_e=KERNEL_E,
            kernel_d=KERNEL_D,
        ),
    ),
    (
        "03a-saddle",
        "the minimum, no saddle",
        lambda: dict(v=columns(*range(1, 9)), mixed=columns(*range(1, 9)), rows=ROWS),
    ),
    (
        "03a-saddle",
        "with `mixed` the loss does not fall",
        lambda: dict(
            v=columns(1, 2, 3, 4, 5, 6, 7, 9),
            mixed=columns(1, 2, 3, 4, 5, 6, 7, 12),
            rows=ROWS,
        ),
    ),
    (
        "03b-sizes",
        '"same" doubles exactly',
        lambda: dict(layer_sizes=[30, 28, 26, 53, 107]),
    ),
    (
        "03b-matrix",
        "flips the kernel",
        lambda: dict(
            w=np.arange(1, 10).reshape(3, 3),
            A=np.stack(
                [
                    convolve(u, np.arange(9, 0, -1).reshape(3, 3), 2).ravel()
                    for u in np.eye(25).reshape(25, 5, 5)
                ],
                axis=1,
            ),
            nonzero=36,
            different=10,
            convolve=convolve,
        ),
    ),
    (
        "03b-linear-code",
        "the last ReLU is still there",
        lambda: dict(
            linear=autoencoder(),
            linear_error=0.1,
            errors={("convolutional", 256): 1},
            x_val=SHADES,
        ),
    ),
    (
        "pull-back",
        "lacks the 2",
        lambda: dict(
            start=A + 1,
            strength=0.5,
            gradient=-0.5 + 0 * A,
            A=A,
            gradient_A_stage2=0 * A,
        ),
    ),
    (
        "steps-and-momentum",
        "`steps[0.99]` is one too few: that makes 95.00%.",
        lambda: dict(steps={0.99: 298, 0.9: 29}, reached={0.99: 0.94997, 0.9: 0.9529}),
    ),
    (
        "thaw-from-the-top",
        "for k = 1, conv1 moved",
        lambda: dict(
            thawed={k: classifier(1) for k in range(4)},
            thawed_accuracy=dict.fromkeys(range(4), 0.1),
            encoder=encoder(0),
            x_val=SHADES,
            y_val=Y[:8],
        ),
    ),
    (
        "other-kernels",
        "the pairs sum to 6",
        lambda: dict(
            kernel_pairs=[(k, 6 - k) for k in range(1, 6)],
            cheapest=(1, 5),
            conv_parameters=lambda c, f, k: (k * k * c + 1) * f,
        ),
    ),
    (
        "other-kernels",
        "is the dearest pair",
        lambda: dict(
            kernel_pairs=[(k, 8 - k) for k in range(1, 8)],
            cheapest=(7, 1),
            conv_parameters=lambda c, f, k: (k * k * c + 1) * f,
        ),
    ),
    (
        "copy-by-hand",
        "is shifted by (-1, 0)",
        lambda: dict(copier=copier(-1, 0), x_check=SHADES),
    ),
    (
        "without-the-matrix",
        "the heavy matrix is still there",
        lambda: dict(
            pooled=with_heavy_matrix,
            pooled_rate=1e-3,
            pooled_scores=[0.1],
            rates=(1e-3,),
            seeds=(0,),
        ),
    ),
    (
        "tighter-code",
        "`tight` should be a Keras Model, and is of type int",
        lambda: dict(tight=256, saved=1, by_hand=None),
    ),
    (
        "tighter-code",
        "conv1 has other filters",
        lambda: dict(tight=encoder(), saved=1, by_hand=models.conv_encoder()),
    ),
    (
        "tighter-code",
        "leaves out the normalisation",
        lambda: dict(
            tight=encoder(filters=(32, 64, 16)),
            saved=112 * 576,
            by_hand=models.conv_encoder(),
        ),
    ),
    (
        "what-a-code-sees",
        "`width` is what it sees of the first map",
        lambda: dict(width=7, seen=np.ones((32, 32))),
    ),
    (
        "what-a-code-sees",
        "true everywhere",
        lambda: dict(width=15, seen=np.ones((32, 32))),
    ),
    (
        "best-neighbours",
        "`whole` should be a dict, and is of type list",
        lambda: dict(whole=[0.3] * 6, averaged=shares(), same_class=None),
    ),
    (
        "best-neighbours",
        "`averaged` equals `whole`",
        lambda: dict(
            whole=shares(),
            averaged=shares(),
            same_class={"trained code": 0.3, "random code": 0.3},
        ),
    ),
    (
        "shared-encoder",
        "the encoder of `victim` did not move",
        lambda: dict(
            victim=autoencoder(),
            error_before=0.1,
            error_after=0.2,
            autoencoder=autoencoder(),
            pretrained=encoder().get_weights(),
            x_val=SHADES,
        ),
    ),
    (
        "moving-statistics",
        "LP-FT: norm3 did not move",
        lambda: dict(
            free={arm: classifier() for arm in ("fine-tuned", "LP-FT")},
            free_scores=dict.fromkeys(("fine-tuned", "LP-FT"), 0.1),
            best={4: dict.fromkeys(("fine-tuned", "LP-FT"), RUN)},
            few=4,
            encoder=encoder(),
            x_val=SHADES,
            y_val=Y[:8],
        ),
    ),
    (
        "shallower-start",
        "the book's own encoder has moved",
        lambda: dict(
            shallow_scores={
                (start, head): [0.1]
                for start in ("pretrained", "from scratch")
                for head in ("linear", "pooled")
            },
            rates=(1e-3,),
            encoder=encoder(1),
            pretrained=encoder(0).get_weights(),
        ),
    ),
    (
        "part-of-study",
        "has the wrong sign",
        lambda: dict(
            rows=[
                {"method": m, "test_accuracy": a}
                for m, a in [("pixels", "0.5"), ("PCA", "0.6")] * 2
            ],
            lead=-10,
        ),
    ),
    (
        "how-many-seeds",
        "`widths[2]` is half of the interval",
        lambda: dict(
            widths={2: 0.5 * 12.706, 3: 1, 5: 1}, seeds_needed=1, scores=SCORES
        ),
    ),
    (
        "own-method",
        "takes every fourth pixel",
        lambda: dict(
            cells=own_method_by_strides,
            accuracies={"mean colours": 0.3, "pixels": 0.4},
        ),
    ),
    (
        "own-method",
        "mixes the channels",
        lambda: dict(
            cells=lambda x: np.zeros((len(x), 16)),
            accuracies={"mean colours": 0.3, "pixels": 0.4},
        ),
    ),
    (
        "equal-passes",
        "64 of them make a step",
        lambda: dict(steps_needed=5_760_000, hours=40.0),
    ),
    (
        "equal-passes",
        "is in minutes",
        lambda: dict(steps_needed=90_000, hours=37.5),
    ),
    (
        "no-floor",
        "has the wrong sign",
        lambda: dict(slope=-0.5, far=1e-3, mean={10: 1.0, 1_000: 0.1}),
    ),
    (
        "no-floor",
        "still a logarithm",
        lambda: dict(slope=0.5, far=-6.9078, mean={10: 1.0, 1_000: 0.1}),
    ),
    ("own-pieces", "never begun at", lambda: dict(pieces=pieces_off_the_border)),
    (
        "own-pieces",
        "the same place",
        lambda: dict(pieces=lambda photo, n, s: np.stack([photo[:s, :s]] * n)),
    ),
    ("layer-cost", "each comes with an addition", lambda: dict(operations=3_276_800)),
    ("layer-cost", "a quarter is left", lambda: dict(operations=26_214_400)),
    (
        "twice-as-wide",
        "compares parameters",
        lambda: dict(ratios={8: 29624 / 7612, 16: 116848 / 29624}, networks=by_width()),
    ),
    (
        "twice-as-wide",
        "is upside down",
        lambda: dict(
            ratios={8: 645120 / 2469888, 16: 2469888 / 9658368},
            networks=by_width(),
        ),
    ),
    (
        "attention-share",
        "is in percent",
        lambda: dict(part=32.323, fine_part=0.66407),
    ),
    (
        "shuffled-patches",
        "shuffle both by one `order`",
        lambda: dict(
            shuffled_after=ROWS_OF_32,
            shuffled_before=ROWS_OF_32[::-1],
            networks={},
        ),
    ),
    ("first-step", "call `adam`", lambda: dict(first_steps=[-1e-4, -0.1, -100.0])),
    ("first-step", "goes up", lambda: dict(first_steps=[0.1, 0.1, 0.1])),
    ("momentum-factor", "compares first steps", lambda: dict(factor=1.0)),
    ("momentum-factor", "where it leads", lambda: dict(factor=0.9)),
    ("lion-by-hand", "before it is used", lambda: dict(lion=lion_with_new_mean)),
    (
        "lion-by-hand",
        "the sign of `g` alone",
        lambda: dict(lion=lambda g, state, rate: -rate * np.sign(g)),
    ),
    (
        "few-tries",
        "keep the better of two",
        lambda: dict(after_two={"SGD": 20.0}, means=RATE_MEANS),
    ),
    (
        "few-tries",
        "`after_two` has no entry for 'SGD'",
        lambda: dict(after_two={}, means=RATE_MEANS),
    ),
    ("to-the-ridge", "counts numbers", lambda: dict(batch_needed=10.0, ridge=20.0)),
    ("to-the-ridge", "leaves out", lambda: dict(batch_needed=40.0, ridge=20.0)),
    (
        "uneven-shares",
        "is the plain mean",
        lambda: dict(combine=lambda gradients, counts: np.mean(gradients, axis=0)),
    ),
    (
        "uneven-shares",
        "divides by the number of devices",
        lambda: dict(combine=lambda g, counts: np.tensordot(counts, g, 1) / len(g)),
    ),
    ("one-server", "once: in, and then out", lambda: dict(slower=8.5333)),
    ("one-server", "upside down", lambda: dict(slower=0.05859)),
    (
        "speak-less",
        "round it up",
        lambda: dict(accumulated=4.5, **SLOW_NETWORK),
    ),
    ("speak-less", "gives 50 %", lambda: dict(accumulated=1, **SLOW_NETWORK)),
    ("cap-of-three", "multiplies by ε", lambda: dict(found_at_most=0.00301)),
    ("cap-of-three", "is for one percent", lambda: dict(found_at_most=0.200865)),
    (
        "clip-by-hand",
        "clips the sum",
        lambda: dict(clip_rows=lambda g, c: c * g.sum(0) / np.linalg.norm(g.sum(0))),
    ),
    (
        "clip-by-hand",
        "makes short rows longer",
        lambda: dict(clip_rows=lambda g, c: sum(c * r / np.linalg.norm(r) for r in g)),
    ),
    (
        "twelve-numbers",
        "pixelate it, too",
        lambda: dict(linked_by_16=0.25, shots=SHOTS, victims=VICTIMS),
    ),
    (
        "twelve-numbers",
        "looks for the victims themselves",
        lambda: dict(linked_by_16=1.0, shots=SHOTS, victims=VICTIMS),
    ),
    (
        "accountant-by-hand",
        "counts one step",
        lambda: dict(by_hand=lambda noise, steps, delta: 0.53935),
    ),
    (
        "accountant-by-hand",
        "is that of α = 2",
        lambda: dict(by_hand=lambda s, T, d: T / s**2 + np.log(1 / d)),
    ),
    (
        "too-sure",
        "has the wrong sign",
        lambda: dict(gap=-23.1059, logits=SURE, y_eval=SURE_LABELS),
    ),
    (
        "too-sure",
        "is that of the fine-tuned network",
        lambda: dict(gap=38.0797, logits=SURE, y_eval=SURE_LABELS),
    ),
    ("two-baselines", "starts from grey", lambda: from_baseline(100.0)),
    ("two-baselines", "starts from white", lambda: from_baseline(255.0)),
    (
        "count-the-pairs",
        "leaves out the ties",
        lambda: dict(counted=lambda a, b: np.mean(b[None] > a[:, None])),
    ),
    (
        "count-the-pairs",
        "divide by all of them",
        lambda: dict(counted=lambda a, b: 12 * reliability.auroc(a, b)),
    ),
    (
        "heat-of-damage",
        "`heat[0]` is upside down",
        lambda: dict(heat=with_wrong_heat(), logits=NOISY, y_eval=NOISY_LABELS),
    ),
    (
        "heat-of-damage",
        "should be fitted to the logits at this strength",
        lambda: dict(
            heat=dict.fromkeys(range(6), 9.0), logits=NOISY, y_eval=NOISY_LABELS
        ),
    ),
    (
        "largest-batch",
        "round down",
        lambda: dict(largest=395_997, resnet=heavy_network()),
    ),
    (
        "largest-batch",
        "forgets the weights",
        lambda: dict(largest=400_000, resnet=heavy_network()),
    ),
    (
        "copies-in-the-mirror",
        "finds no mirrored copies",
        lambda: dict(leaked=with_copies(lambda x: x)),
    ),
    (
        "copies-in-the-mirror",
        "stands on its head",
        lambda: dict(leaked=with_copies(lambda x: x, mirrored, upside_down)),
    ),
    (
        "one-number-for-collapse",
        "forgets to subtract the mean",
        lambda: dict(dimensions=lambda z: spread_over(z.T @ z)),
    ),
    (
        "one-number-for-collapse",
        "takes the axes",
        lambda: dict(dimensions=lambda z: spread_over(np.diag(np.diag(np.cov(z.T))))),
    ),
    (
        "loss-of-guessing",
        "counts the view itself",
        lambda: dict(guessing=np.log(512), batch_for_8=1491),
    ),
    (
        "loss-of-guessing",
        "the number of views, not of images",
        lambda: dict(guessing=np.log(511), batch_for_8=2981),
    ),
    (
        "turns-confused",
        "is transposed",
        lambda: dict(confused=turn_shares().T, said=TURNS_SAID),
    ),
    (
        "turns-confused",
        "divide each row by its sum",
        lambda: dict(confused=4 * turn_shares(), said=TURNS_SAID),
    ),
    (
        "stable-push",
        "overflows",
        lambda: dict(push=lambda c, t: np.exp(c / t) / np.exp(c / t).sum()),
    ),
    (
        "stable-push",
        "multiplies by the temperature",
        lambda: dict(push=lambda c, t: np.exp(c * t) / np.exp(c * t).sum()),
    ),
    (
        "lacking-variance",
        "lets one number make up for another",
        lambda: dict(lacking=lambda z: (1 - z.std(axis=0, ddof=1)).mean()),
    ),
    (
        "lacking-variance",
        "use ddof=1",
        lambda: dict(lacking=lambda z: np.maximum(0, 1 - z.std(axis=0)).mean()),
    ),
    (
        "three-patients",
        "`A` is not healthy: how many of the last units never fire?",
        lambda: dict(
            diagnosis={"A": "healthy", "B": "healthy", "C": "unsettled"},
            patients=dict.fromkeys("ABC"),
        ),
    ),
    (
        "three-patients",
        "has no entry for 'C'",
        lambda: dict(
            diagnosis={"A": "dead", "B": "healthy"}, patients=dict.fromkeys("ABC")
        ),
    ),
    (
        "price-of-a-quarter",
        "scores belong to *pairs*",
        lambda: dict(tokens=49, scores=0.25),
    ),
    (
        "price-of-a-quarter",
        "counts all patches",
        lambda: dict(tokens=196, scores=1 / 16),
    ),
    (
        "back-to-their-places",
        "leaves all codes in front",
        lambda: dict(put_back=lambda *parts: codes_and_masks(*parts)),
    ),
    (
        "back-to-their-places",
        "shuffles once more",
        lambda: dict(put_back=lambda c, m, order: codes_and_masks(c, m, order)[order]),
    ),
    (
        "back-to-their-places",
        "not each at its own",
        lambda: dict(put_back=by_mask),
    ),
    (
        "hidden-only",
        "divides by all pixels",
        lambda: dict(
            hidden_loss=lambda t, r, h, v: np.mean((h + v * (1 - h)) * (t - r) ** 2)
        ),
    ),
    (
        "hidden-only",
        "all channels share it",
        lambda: dict(
            hidden_loss=lambda t, r, h, v: (
                np.sum((h + v * (1 - h)) * (t - r) ** 2) / np.sum(h + v * (1 - h))
            )
        ),
    ),
    (
        "one-large-hole",
        "never reaches the last row",
        lambda: dict(hole=lambda r, c, h, w, rng: block(r, c, h, w, rng, end=0)),
    ),
    (
        "one-large-hole",
        "swaps height and width",
        lambda: dict(hole=lambda r, c, h, w, rng: block(r, c, w, h, rng)),
    ),
    (
        "one-large-hole",
        "always hides the same block",
        lambda: dict(
            hole=lambda r, c, h, w, _: block(r, c, h, w, np.random.default_rng(0))
        ),
    ),
    (
        "price-of-a-block",
        "has a full convolution in the middle",
        lambda: dict(weights=lambda c, e, k: 2 * c * c * e + (k * c * e) ** 2),
    ),
    (
        "price-of-a-block",
        "forgets that it is narrowed again",
        lambda: dict(weights=lambda c, e, k: c * c * e + k**2 * c * e),
    ),
    (
        "vote-of-neighbours",
        "asks the nearest image only",
        lambda: dict(vote=lambda found, y: y[found[:, 0]]),
    ),
    (
        "vote-of-neighbours",
        "gives the smallest class of those tied",
        lambda: dict(
            vote=lambda found, y: [np.bincount(row).argmax() for row in y[found]]
        ),
    ),
    (
        "shared-by-many",
        "is rounded down",
        lambda: dict(users=3, cost={"ImageNet": 7.0, "autoencoder": 2.0}),
    ),
    (
        "shared-by-many",
        "is upside down",
        lambda: dict(users=2 / 7, cost={"ImageNet": 7.0, "autoencoder": 2.0}),
    ),
    (
        "norm-compromise",
        "forgets that the means lie apart",
        lambda: dict(
            blend=lambda m, v, n, w, s: (m + s * (n - m), v + s * (w - v)),
        ),
    ),
    (
        "norm-compromise",
        "gives the share to ImageNet",
        lambda: dict(blend=lambda m, v, n, w, s: (n + s * (m - n), w + s * (v - w))),
    ),
]


@pytest.mark.parametrize(
    ("label", "message", "names"), MISTAKES, ids=[f"{m[0]}: {m[1]}" for m in MISTAKES]
)
def test_a_typical_mistake_is_named(label, message, names, capsys):
    exercises.check(label, **names())
    said = capsys.readouterr().out
    assert message in said
    assert all(line.startswith(f"✗ {label}: ") for line in said.splitlines())


def test_every_checker_knows_a_typical_mistake():
    assert {label for label, _, _ in MISTAKES} == set(exercises.CHECKERS)
