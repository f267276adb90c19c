"""The probe: what it learns from, its fit by hand, its folds, what it reads, and which weights it belongs to."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.store import Store
from agents.types import Candidate, Task
from tests.unit.tiny import TEMPLATE, tiny_model, tiny_tokenizer
from tools.errors import ConfigError, DataError
from train import probe, probe_features, probe_file, probe_fit
from train.probe_features import Reader, Reading, Solution, batches, hidden_states, render, spread
from train.probe_fit import Features, Head, Labelled, auroc_within, fit, folds

# --- the fit ----------------------------------------------------------------------------------------------------------


def rows(hidden: np.ndarray, right: np.ndarray, copies: list[int] | None = None) -> Features:
    return Features(hidden, right, np.array(copies or [1] * len(right)))


def test_a_free_fit_gives_the_observed_odds():
    """x is 0 or 1, p(right | 0) = 1/4 and p(right | 1) = 3/4: bias = log(1/3), weight = log 3 - log(1/3) = log 9."""
    hidden = np.array([[0.0]] * 4 + [[1.0]] * 4)
    right = np.array([True, False, False, False, True, True, True, False])
    (head,) = fit(rows(hidden, right), [1e-9])
    assert head.weight_D[0] == pytest.approx(np.log(9), abs=1e-4)
    assert head.bias == pytest.approx(-np.log(3), abs=1e-4)
    assert head.probabilities(np.array([[0.0], [1.0]])) == pytest.approx([0.25, 0.75], abs=1e-5)


def test_a_penalised_fit_is_where_the_gradient_vanishes():
    """x is -1 or 1 (so standardised already), one of four is on the other side. By symmetry the bias is 0, and
    d/dw of 3/4 log(1 + e^-w) + 1/4 log(1 + e^w) + s/2 w^2 is 1/(1 + e^-w) - 3/4 + s w, which is 0 at w = 0.5 for
    s = (3/4 - 1/(1 + e^-0.5)) / 0.5."""
    hidden = np.array([[1.0]] * 4 + [[-1.0]] * 4)
    right = np.array([True, True, True, False, False, False, False, True])
    strength = (0.75 - 1 / (1 + np.exp(-0.5))) / 0.5
    strong, ours = fit(rows(hidden, right), [1e6, strength])
    assert ours.weight_D[0] == pytest.approx(0.5, abs=1e-5) and ours.bias == pytest.approx(0.0, abs=1e-6)
    assert abs(strong.weight_D[0]) < 1e-6  # what a penalty without bounds leaves


def test_a_fit_does_not_depend_on_units_and_bears_constant_features():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(60, 3))
    right = hidden @ [1.0, -2.0, 0.0] + rng.normal(size=60) > 0
    (one,) = fit(rows(hidden, right), [0.1])
    scaled = np.hstack([hidden * [10.0, 0.01, 3.0] + [5.0, -2.0, 7.0], np.full((60, 1), 4.0)])
    (other,) = fit(rows(scaled, right), [0.1])
    assert other.probabilities(scaled) == pytest.approx(one.probabilities(hidden), abs=1e-5)


@pytest.mark.parametrize("wide", [3, 30])
def test_copies_count_as_rows(wide: int):
    """With more features than rows, and with fewer: both ways to the principal axes."""
    rng = np.random.default_rng(2)
    hidden, right, copies = rng.normal(size=(12, wide)), np.arange(12) % 3 == 0, [1, 2, 3, 1, 1, 4, 2, 1, 1, 1, 2, 1]
    (counted,) = fit(rows(hidden, right, copies), [0.05])
    (repeated,) = fit(rows(np.repeat(hidden, copies, axis=0), np.repeat(right, copies)), [0.05])
    (plain,) = fit(rows(hidden, right), [0.05])
    assert counted.probabilities(hidden) == pytest.approx(repeated.probabilities(hidden), abs=1e-5)
    assert counted.probabilities(hidden) != pytest.approx(plain.probabilities(hidden), abs=1e-2)


def test_a_fit_in_principal_axes_is_a_fit():
    """At the minimum the gradient in the standardised features themselves is 0."""
    rng = np.random.default_rng(3)
    hidden, right = rng.normal(size=(15, 20)), np.arange(15) % 2 == 0
    (head,) = fit(rows(hidden, right), [0.02])
    scale = hidden.std(axis=0)
    gap = head.probabilities(hidden) - right
    gradient = ((hidden - hidden.mean(axis=0)) / scale).T @ gap / 15 + 0.02 * head.weight_D * scale
    assert np.abs(gradient).max() < 1e-5 and abs(gap.mean()) < 1e-5


def test_one_label_has_no_fit():
    with pytest.raises(DataError, match="right and wrong"):
        fit(rows(np.ones((4, 2)), np.ones(4, dtype=bool)), [1.0])


# --- folds ------------------------------------------------------------------------------------------------------------


def problem_rows(problems: int, each: int) -> np.ndarray:
    return np.array([f"p{i % problems}" for i in range(problems * each)])


def test_no_problem_is_split_and_folds_are_even():
    names = problem_rows(13, 7)
    fold_N = folds(names, 5, seed=3)
    assert all(len(set(fold_N[names == name])) == 1 for name in set(names))
    assert sorted(np.bincount(fold_N) // 7) == [2, 2, 3, 3, 3]
    assert not np.array_equal(fold_N, folds(names, 5, seed=4))
    with pytest.raises(DataError, match=r"4 problems .* needs 5"):
        folds(problem_rows(4, 9), 5, seed=0)


def leaky(seed: int = 0) -> Labelled:
    """Features that name the problem and nothing else; the labels of a problem are all the same, by chance."""
    rng = np.random.default_rng(seed)
    names = problem_rows(40, 6)
    right = np.array([rng.random(40) < 0.5])[0]
    number = np.array([int(name[1:]) for name in names])
    return Labelled(np.eye(40)[number][:, None, :], right[number], names, np.ones(240))


def test_what_names_the_problem_is_worth_nothing(monkeypatch: pytest.MonkeyPatch):
    """Across problems such features say nothing. Folds by row, planted here, would make them look perfect."""
    from eval.calibration import Verdicts, auroc

    def measured(data: Labelled) -> float:
        chances = [float(p) for p in probe_fit.cross_validated(data, 3, 0)]
        return auroc(Verdicts.of([bool(r) for r in data.right_N], [None] * len(chances), chances)) or 0.0

    assert measured(leaky()) < 0.6
    monkeypatch.setattr(probe_fit, "folds", lambda names, k, seed: np.arange(len(names)) // 40 % k)
    assert measured(leaky()) > 0.95


def test_the_choice_finds_the_layer_that_knows():
    rng = np.random.default_rng(1)
    names = problem_rows(30, 4)
    right = rng.random(120) < 0.5
    noise = rng.normal(size=(120, 3, 4))
    noise[:, 1, 0] += 3 * right
    calls = []
    data = Labelled(noise, right, names, np.ones(120))
    chances = probe_fit.cross_validated(data, 3, 0, lambda: calls.append(0))
    choice = probe_fit.choose(data, 3, 0, lambda: calls.append(0))
    assert choice.layer == 1 and choice.strength in probe_fit.STRENGTHS
    assert len(calls) == probe_fit.rounds(3, 3) == 3 * (3 * 2 + 3)
    assert ((chances > 0.5) == right).mean() > 0.85


def test_pairs_within_a_problem_by_hand():
    """a: 0.9 is above 0.1 and 0.3, 2 of 2; b: 0.2 ties with 0.2 and is below 0.7, half of 2; c: no pair."""
    right = np.array([True, False, False, True, False, False, True])
    score = np.array([0.9, 0.1, 0.3, 0.2, 0.2, 0.7, 0.0])
    assert auroc_within(right, score, list("aaabbbc")) == (2 + 0.5) / 4
    assert auroc_within(right[:1], score[:1], ["a"]) is None


# --- what it learns from ----------------------------------------------------------------------------------------------


def make_store(path: Path, problems: int = 12, held_out: int = 4) -> list[Task]:
    """Problems with a right and a wrong solution, and one without a label."""
    tasks = [
        Task(question=f"What is {i} + {i}?", answer=f"SECRET{2 * i}", metadata={"m": "SECRET"}) for i in range(problems)
    ]
    with Store(path) as store:
        store.add_tasks(tasks)
        for i, task in enumerate(tasks):
            texts = [(f"It is {2 * i}. ", True), (f"It is {2 * i + 1}.", False), ("No idea.", None)]
            found = [Candidate(task_id=task.id, index=j, text=t, correct=c) for j, (t, c) in enumerate(texts)]
            store.add_candidates(task.id, found)
        if held_out:
            store.hold_out(t.id for t in tasks[:held_out])
    return tasks


def test_held_out_problems_are_not_learned_from(tmp_path: Path):
    tasks = make_store(tmp_path / "s.sqlite")
    found = probe.from_store(tmp_path / "s.sqlite")
    assert {e.problem for e in found.held_out} == {t.id for t in tasks[:4]}
    assert {e.problem for e in found.train} == {t.id for t in tasks[4:]}
    assert [e.right for e in found.train] == [True, False] * 8
    assert found.train[0].solution == Solution("What is 4 + 4?", "It is 8.")


def test_a_store_that_holds_nothing_out_is_refused(tmp_path: Path):
    make_store(tmp_path / "s.sqlite", held_out=0)
    with pytest.raises(DataError, match="does not say which problems are held out"):
        probe.from_store(tmp_path / "s.sqlite")


def test_the_run_notes_what_it_holds_out(tmp_path: Path):
    from distill.config import load_config
    from distill.inputs import load_parts
    from distill.pipeline import Run

    source = tmp_path / "problems.jsonl"
    source.write_text("".join(json.dumps({"question": f"{i} + {i}", "answer": str(2 * i)}) + "\n" for i in range(6)))
    sets = [f"out={tmp_path}", "name=r", f"tasks.source=jsonl:{source}"]
    cfg = load_config(sets=[*sets, "tasks.n_harvest=3", "tasks.n_grpo=2", "tasks.n_eval=1"])
    cfg.run_dir.mkdir()
    parts = load_parts(cfg)
    with Store(tmp_path / "s.sqlite") as store:
        run = Run(cfg, parts, store)
        run.stages["harvest"] = {"done": True}  # a run that was made before goes on, and notes it too
        run.harvest()
        assert store.held_out() == {t.id for t in parts["eval"]} != set()


# --- what it reads ----------------------------------------------------------------------------------------------------


def tokenizer() -> Any:
    made = tiny_tokenizer()
    made.chat_template = TEMPLATE
    return made


def test_it_reads_the_problem_and_the_solution_and_nothing_else():
    ids = render(tokenizer(), Solution("1+1?", "A: 2"))
    text = tokenizer().decode(ids)
    assert text == "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\nA: 2<|im_end|>\n"


def save_tiny(folder: Path, seed: int = 0) -> str:
    from train.student import with_template

    tiny_model(seed=seed).save_pretrained(folder)
    with_template(tiny_tokenizer()).save_pretrained(folder)
    return str(folder)


def test_no_ground_truth_reaches_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_store(tmp_path / "s.sqlite")
    seen: list[str] = []

    def spy(made: Any, solution: Solution) -> list[int]:
        ids = render(made, solution)
        seen.append(made.decode(ids))
        return ids

    monkeypatch.setattr(probe_features, "render", spy)
    examples = probe.from_store(tmp_path / "s.sqlite")
    reader = Reader(save_tiny(tmp_path / "m"), "w", (1, 2))
    probe_features.read_all([e.solution for e in examples.train], reader, tmp_path / "r.sqlite")
    assert len(seen) == 16 and not any(word in text for text in seen for word in ("SECRET", "True", "False"))


def test_padding_changes_nothing():
    """A row's states are those that it has alone; states at the last column of the batch would not be."""
    model = tiny_model()
    rows = [[5, 6, 7, 8, 9, 10, 11, 12], [5, 6], [30, 31, 32, 33]]
    together = hidden_states(model, rows, (1, 2))
    alone = np.concatenate([hidden_states(model, [row], (1, 2)) for row in rows])
    assert together.shape == (3, 2, 32)
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(together[1] - hidden_states(model, [[5, 6, 0, 0]], (1, 2))[0]).max() > 1e-2


def test_batches_are_of_like_length_and_bounded(monkeypatch: pytest.MonkeyPatch):
    lengths = {"a": 3, "b": 9, "c": 4, "d": 9, "e": 1}
    assert list(batches(lengths, 2)) == [["b", "d"], ["c", "a"], ["e"]]
    monkeypatch.setattr(probe_features, "BATCH_TOKENS", 10)
    assert list(batches(lengths, 8)) == [["b"], ["d"], ["c", "a"], ["e"]]


def test_layers_are_spread_to_the_last():
    assert spread(30, 8) == (3, 7, 11, 15, 18, 22, 26, 30)
    assert spread(2, 8) == (1, 2)


def test_readings_are_kept_batch_by_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    solutions = [Solution("1+1?", "A: " + "2" * n) for n in (1, 4, 9, 16, 25)] + [Solution("1+1?", "A: 2")]
    reader = Reader(save_tiny(tmp_path / "m"), "w", (2,), batch=2)
    whole = probe_features.read_all(solutions, reader, tmp_path / "whole.sqlite")
    made = []

    def dies(model: Any, rows: Any, layers: Any) -> np.ndarray:
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(len(rows))
        return hidden_states(model, rows, layers)

    monkeypatch.setattr(probe_features, "hidden_states", dies)
    with pytest.raises(KeyboardInterrupt):
        probe_features.read_all(solutions, reader, tmp_path / "killed.sqlite")
    made.clear()
    made.append(0)
    monkeypatch.setattr(
        probe_features, "hidden_states", lambda m, r, ls: (made.append(len(r)), hidden_states(m, r, ls))[1]
    )
    again = probe_features.read_all(solutions, reader, tmp_path / "killed.sqlite")
    assert made == [0, 2, 1]  # of five distinct texts two were done
    assert all(np.array_equal(a.hidden_LD, b.hidden_LD) for a, b in zip(whole, again, strict=True))
    assert np.array_equal(again[0].hidden_LD, again[5].hidden_LD) and again[0].seconds > 0
    other = reader._replace(weights="other")
    assert not {reader.key(s) for s in solutions} & {other.key(s) for s in solutions}


def test_a_solution_that_does_not_fit_is_an_error(tmp_path: Path):
    reader = Reader(save_tiny(tmp_path / "m"), "w", (2,))
    with pytest.raises(DataError, match="longer than the 512 tokens"):
        probe_features.read_all([Solution("1+1?", "9" * 600)], reader, tmp_path / "r.sqlite")


def test_a_damaged_file_of_readings_is_one_line(tmp_path: Path):
    (tmp_path / "r.sqlite").write_text("not a database, but long enough to be looked at" * 20)
    with pytest.raises(DataError, match="move the file away"):
        probe_features.read_all([Solution("a", "b")], Reader("m", "w", (1,)), tmp_path / "r.sqlite")


# --- the file, and the whole ------------------------------------------------------------------------------------------


@pytest.fixture
def three_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit 9 heads a layer in place of 25: how they are chosen is tested above."""
    monkeypatch.setattr(probe_fit, "FOLDS", 3)


def trained(tmp_path: Path) -> Path:
    make_store(tmp_path / "s.sqlite")
    args = ["--store", str(tmp_path / "s.sqlite"), "--model", save_tiny(tmp_path / "m"), "--out", str(tmp_path / "p")]
    assert probe.main(args) == 0
    return tmp_path / "p"


@pytest.mark.usefixtures("three_folds")
def test_the_command_and_the_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = trained(tmp_path)
    out = capsys.readouterr()
    assert "AUROC within a problem" in out.out and "held out" in out.out and "read: 24/24" in out.err
    made = probe_file.load_probe(folder)
    assert (made.card.problems, made.card.right, made.card.wrong) == (8, 8, 8)
    assert made.card.cross_validated.metrics.n == 16 and made.card.held_out and made.card.held_out.metrics.n == 8
    solutions = [Solution("What is 4 + 4?", "It is 8."), Solution("What is 4 + 4?", "It is 9.")]
    scores = probe_file.score_all(solutions, folder, tmp_path / "kept.sqlite")
    (reading, _) = probe_features.read_all(
        solutions, probe_features.reader_of(made.card.model, (made.card.layer,)), tmp_path / "kept.sqlite"
    )
    logit = float(reading.hidden_LD[0].astype(float) @ made.head.weight_D) + made.head.bias
    assert scores[0].probability == pytest.approx(1 / (1 + np.exp(-logit))) and scores[0].seconds == reading.seconds


def save_by_hand(folder: Path, model: str) -> None:
    """Save a probe of a model that learned nothing."""
    from eval.calibration import verdict_metrics

    nothing = probe_file.Measured(metrics=verdict_metrics([], [], [], [], resamples=0), within=None)
    card = probe_file.Card(
        model=model,
        weights=probe_features.weights_id(model),
        layer=2,
        layers=(1, 2),
        strength=0.3,
        source="by hand",
        problems=0,
        right=0,
        wrong=0,
        seed=0,
        folds=5,
        cross_validated=nothing,
        seconds={},
    )
    folder.mkdir()
    probe_file.save_probe(probe_file.Probe(card, Head(np.zeros(32), 0.0)), folder)


def test_other_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder, model = tmp_path / "p", save_tiny(tmp_path / "m")
    save_by_hand(folder, model)
    assert probe_file.score_all([Solution("a", "b")], folder, tmp_path / "kept.sqlite")[0].probability == 0.5
    tiny_model(seed=1).save_pretrained(model)  # trained on, in the same place
    with pytest.raises(ConfigError, match="other weights"):
        probe_file.score_all([Solution("a", "b")], folder, tmp_path / "kept.sqlite")
    make_store(tmp_path / "s.sqlite")
    assert probe.main(["--store", str(tmp_path / "s.sqlite"), "--model", model, "--out", str(folder)]) == 2
    assert "holds a probe of other weights" in capsys.readouterr().err


def test_the_same_weights_elsewhere_are_the_same(tmp_path: Path):
    one, other = save_tiny(tmp_path / "a"), save_tiny(tmp_path / "b")
    assert probe_features.weights_id(one) == probe_features.weights_id(other)
    tiny_model(seed=1).save_pretrained(other)
    assert probe_features.weights_id(one) != probe_features.weights_id(other)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--store", "none.sqlite", "--model", "m", "--out", "p"], "no store at none.sqlite"),
        (["--candidates", "none.jsonl", "--model", "m", "--out", "p"], "no such file"),
        (["--store", "s.sqlite", "--model", "./none", "--out", "p"], "no model there"),
    ],
)
def test_bad_input_is_one_line(
    args: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path / "s.sqlite")
    assert probe.main(args) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1


def test_a_damaged_probe_is_one_line(tmp_path: Path):
    (tmp_path / "probe.json").write_text("{")
    with pytest.raises(ConfigError, match="damaged"):
        probe_file.load_probe(tmp_path)
    with pytest.raises(ConfigError, match="no probe there"):
        probe_file.load_probe(tmp_path / "none")


@pytest.mark.usefixtures("three_folds")
def test_readings_and_labels_stay_together():
    """Training rows come first, held-out rows after them; a head that knows is measured on the latter."""
    examples = probe.Examples(
        [probe.Example(Solution(f"q{i // 2}", f"a{i}"), f"q{i // 2}", i % 2 == 0) for i in range(40)],
        [probe.Example(Solution(f"h{i // 2}", f"a{i}"), f"h{i // 2}", i % 2 == 1) for i in range(8)],
    )
    values = [1.0 if e.right else -1.0 for e in [*examples.train, *examples.held_out]]
    readings = [Reading(np.array([[0.0], [v]], dtype=np.float32), 0.5) for v in values]
    made = probe.train_probe(examples, readings, Reader("m", "w", (3, 6)), "made up", seed=0)
    assert made.card.layer == 6 and made.card.seconds["read"] == 24.0
    assert made.card.held_out and made.card.held_out.metrics.auroc == made.card.held_out.within == 1.0
    assert made.card.cross_validated.metrics.accuracy == 1.0


def test_a_head_says_what_it_says():
    head = Head(np.array([2.0, -1.0]), 0.5)
    assert head.probabilities(np.array([[1.0, 2.5], [0.0, 0.5], [-900.0, 0.0]])) == pytest.approx([0.5, 0.5, 0.0])
