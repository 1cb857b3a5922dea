"""The classifier: signs, score, threshold, and a sweep that goes on until it turns, keeps its best state and resumes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from minisw.evaluate import stats
from minisw.evaluate.metrics import best_threshold, by_solution
from minisw.judges import discriminative
from minisw.judges.base import JudgeTrainer, seeds_from
from minisw.judges.discriminative import (
    DISCRIMINATIVE,
    DiscriminativeJudge,
    classifier_examples,
    train_classifier,
    validation_metrics,
)
from minisw.judges.sweep import TRIAL, best_row, has_turned, next_setting, should_stop
from minisw.recipe import ClassifierKnobs, Lora

KNOBS = ClassifierKnobs(("classify",), lrs=(1e-3, 2e-3), max_lrs=4, max_epochs=4, patience=1, batch=4)


def classify_texts(texts):
    return [text.replace("Judge the new step.", "Is the new step right?") for text in texts]


def test_examples_teach_plus_for_a_positive_label_and_minus_for_a_negative_one(tiny_lm, context_of, steps, request_texts):
    examples = classifier_examples(context_of(tiny_lm), steps)
    assert [e.prompt for e in examples] == [tiny_lm.chat(text) for text in classify_texts(request_texts)]
    assert [tiny_lm.decode(e.completion) for e in examples] == ["+", "+", "-", "+", "-"]


def test_with_the_judges_request_only_the_question_is_another(tiny_lm, context_of, steps, request_texts):
    context = context_of(tiny_lm)
    as_judge, own = (classifier_examples(context, steps, request) for request in ("judge", "classify"))
    assert [e.prompt for e in as_judge] == [tiny_lm.chat(text) for text in request_texts]
    assert [e.completion for e in as_judge] == [e.completion for e in own]
    for request, examples in (("judge", as_judge), ("classify", own)):
        judge = DiscriminativeJudge(context, None, request=request)
        assert [judge.prompt(step) for step in steps] == [e.prompt for e in examples]
    judges = {request: DiscriminativeJudge(context, None, request=request) for request in ("judge", "classify")}
    scores = {request: [j.p_positive for j in judge.judge(steps)] for request, judge in judges.items()}
    assert scores["judge"] != pytest.approx(scores["classify"], abs=1e-4)
    for request, own_scores in scores.items():  # what validation measures is asked by the same request
        measured = validation_metrics(context, None, steps, request)
        assert measured["auc"] == stats.auc(own_scores, [s.label for s in steps])
        assert measured["threshold"] == best_threshold(*by_solution(steps, own_scores))[0]


def test_the_score_is_p_plus_by_its_own_adapter_and_the_threshold_decides(new_lm, context_of, steps):
    lm = new_lm("other", "mine", noise=0.5)
    judge = DiscriminativeJudge(context_of(lm), "mine", 0.5)
    scores = [j.p_positive for j in judge.judge(steps)]
    signs = [lm.encode("+")[0], lm.encode("-")[0]]
    for step, score in zip(steps, scores, strict=True):
        with lm.using("mine"), torch.no_grad():
            logits = lm.model(input_ids=torch.tensor([judge.prompt(step)])).logits[0, -1]
        assert score == pytest.approx(logits[signs].softmax(0)[0].item(), abs=1e-5)
    assert len({round(s, 4) for s in scores}) == 5
    cut = sorted(scores)[2]
    verdicts = [j.verdict for j in DiscriminativeJudge(context_of(lm), "mine", cut).judge(steps)]
    assert verdicts == [score >= cut for score in scores] and sum(verdicts) == 3


@pytest.mark.slow
def test_training_moves_the_score_towards_the_labels(new_lm, context_of, steps):
    lm = new_lm()
    knobs = ClassifierKnobs(("classify",), lrs=(2e-2,), max_lrs=1, max_epochs=8, patience=8, batch=5)
    trainer = JudgeTrainer(context_of(lm), steps, validation=steps, classifier=knobs, lora=Lora(4, 8))
    metrics = train_classifier(trainer)
    judgments = DiscriminativeJudge(trainer.context, DISCRIMINATIVE).judge(steps)
    scores = [j.p_positive for j in judgments]
    assert min(scores[i] for i in (0, 1, 3)) > max(scores[i] for i in (2, 4))
    assert metrics["best"]["auc"] == 1.0 and lm.adapters == [DISCRIMINATIVE]
    # the metrics are those of the state that was kept
    assert metrics["threshold"] == best_threshold(*by_solution(steps, scores))[0]
    assert metrics["best"]["auc"] == stats.auc(scores, [s.label for s in steps])


def test_labels_are_counted_once_and_validation_labels_too(new_lm, context_of, steps):
    knobs = ClassifierKnobs(("judge",), lrs=(1e-3,), max_lrs=1, max_epochs=1, batch=4)
    trainer = JudgeTrainer(context_of(new_lm()), steps[:4] * 3, steps[3:], classifier=knobs, lora=Lora(4, 8))
    metrics = train_classifier(trainer)
    assert metrics["labels"] == 4 and metrics["validation_labels"] == 2
    assert metrics["prompt"] == "judge" and "request 'judge'" in metrics["training"]


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("steps", "there are 0 and 5"),
        ("validation", "there are 5 and 0"),
        ("lrs", "no learning rate"),
        ("prompts", "no request"),
    ],
)
def test_what_is_missing_is_one_line(missing, words, tiny_lm, context_of, steps):
    trainer = JudgeTrainer(context_of(tiny_lm), steps, steps)
    if missing in ("lrs", "prompts"):
        trainer = dataclasses.replace(trainer, classifier=dataclasses.replace(KNOBS, **{missing: ()}))
    else:
        trainer = dataclasses.replace(trainer, **{missing: ()})
    with pytest.raises(ValueError, match=words) as caught:
        train_classifier(trainer)
    assert "classifier" in str(caught.value) and "\n" not in str(caught.value)


# --- the rules of the sweep ------------------------------------------------------------------------------------------------


def rows(table: dict[float, list[float]], prompt: str = "classify") -> list[dict]:
    return [{"prompt": prompt, "lr": lr, "epochs": n, "auc": auc} for lr, aucs in table.items() for n, auc in enumerate(aucs, 1)]


@pytest.mark.parametrize(
    ("aucs", "patience", "stop"),
    [
        ([0.5], 1, False),
        ([0.5, 0.6], 1, False),
        ([0.5, 0.6, 0.55], 1, True),
        ([0.5, 0.5], 1, True),  # equal is no improvement
        ([0.5, 0.6, 0.55], 2, False),
        ([0.5, 0.6, 0.55, 0.58], 2, True),
        ([0.5, 0.6, 0.55, 0.61], 2, False),
    ],
)
def test_a_training_stops_when_it_no_longer_improves(aucs, patience, stop):
    assert should_stop(aucs, patience) is stop


@pytest.mark.parametrize(
    ("table", "lr"),
    [
        ({}, 1e-3),
        ({1e-3: [0.6]}, 2e-3),
        ({1e-3: [0.6], 2e-3: [0.7]}, 4e-3),  # the best is the largest: one beyond
        ({1e-3: [0.7], 2e-3: [0.6]}, 5e-4),  # the best is the smallest: one below
        ({1e-3: [0.6], 2e-3: [0.7], 4e-3: [0.65]}, None),  # turned
        ({1e-3: [0.6], 2e-3: [0.7], 4e-3: [0.8]}, 8e-3),
        ({1e-3: [0.6], 2e-3: [0.7], 4e-3: [0.8], 8e-3: [0.9]}, None),  # the limit
    ],
)
def test_the_next_learning_rate(table, lr):
    assert next_setting(rows(table), KNOBS) == (None if lr is None else ("classify", lr))


BOTH = dataclasses.replace(KNOBS, prompts=("classify", "judge"))


@pytest.mark.parametrize(
    ("classify", "judge", "expected"),
    [
        ({}, {}, ("classify", 1e-3)),
        ({1e-3: [0.9]}, {}, ("judge", 1e-3)),  # both requests at the first rate, however good the first was
        ({1e-3: [0.6]}, {1e-3: [0.7]}, ("judge", 2e-3)),  # then the grid with the better one
        ({1e-3: [0.7]}, {1e-3: [0.6, 0.65]}, ("classify", 2e-3)),
        ({1e-3: [0.7]}, {1e-3: [0.7]}, ("classify", 2e-3)),  # the first of equals
        ({1e-3: [0.6]}, {1e-3: [0.7], 2e-3: [0.65]}, ("judge", 5e-4)),
        ({1e-3: [0.6]}, {1e-3: [0.7], 2e-3: [0.65], 5e-4: [0.6]}, None),
        # the rate of the other request does not count towards the limit, nor as a neighbour
        ({1e-3: [0.6]}, {1e-3: [0.65], 2e-3: [0.7], 4e-3: [0.8]}, ("judge", 8e-3)),
        ({1e-3: [0.6]}, {1e-3: [0.65], 2e-3: [0.7], 4e-3: [0.8], 8e-3: [0.9]}, None),
    ],
)
def test_the_better_request_is_found_first_and_only_its_rates_are_searched(classify, judge, expected):
    assert next_setting(rows(classify) + rows(judge, "judge"), BOTH) == expected


def test_only_rates_of_the_best_request_show_that_a_sweep_has_turned():
    best = rows({2e-3: [0.6, 0.9, 0.7], 4e-3: [0.5, 0.4]}, "judge")
    assert has_turned(best + rows({1e-3: [0.5]}, "judge"))
    assert not has_turned(best + rows({1e-3: [0.5]}, "classify"))
    assert not has_turned(rows({2e-3: [0.6, 0.9], 1e-3: [0.5], 4e-3: [0.5]}, "judge") + rows({2e-3: [0.5, 0.5, 0.5]}))


def test_one_learning_rate_alone_is_left_on_both_sides():
    knobs = dataclasses.replace(KNOBS, lrs=(1e-3,))
    assert next_setting(rows({1e-3: [0.6]}), knobs) == ("classify", 2e-3)
    assert next_setting(rows({1e-3: [0.6], 2e-3: [0.5]}), knobs) == ("classify", 5e-4)
    assert next_setting(rows({1e-3: [0.6], 2e-3: [0.5], 5e-4: [0.5]}), knobs) is None


@pytest.mark.parametrize(
    ("table", "turned"),
    [
        ({1e-3: [0.5, 0.4], 2e-3: [0.6, 0.7, 0.6], 4e-3: [0.5, 0.4]}, True),
        ({1e-3: [0.5, 0.4], 2e-3: [0.6, 0.7], 4e-3: [0.5, 0.4, 0.3]}, False),  # best at its last epoch
        ({1e-3: [0.5, 0.4], 2e-3: [0.6, 0.7, 0.6]}, False),  # no higher rate was tried
        ({2e-3: [0.6, 0.7, 0.6], 4e-3: [0.5, 0.4]}, False),  # no lower rate was tried
    ],
)
def test_a_sweep_has_turned_when_the_best_is_inside(table, turned):
    assert has_turned(rows(table)) is turned


def test_the_best_row_is_the_first_of_equals():
    assert best_row(rows({1e-3: [0.5, 0.7], 2e-3: [0.7, 0.6]})) == {
        "prompt": "classify", "lr": 1e-3, "epochs": 2, "auc": 0.7
    }  # fmt: skip


# --- the sweep with a scripted training ------------------------------------------------------------------------------------


class Script:
    """Stands in for training and measuring: a state is marked with its rate and epoch, and has the AUC of the table."""

    def __init__(self, monkeypatch, lm, table, killed_at=None):
        self.lm, self.table, self.killed_at, self.trained, self.asked = lm, table, killed_at, [], []
        monkeypatch.setattr(discriminative, "train_sft", self.train)
        monkeypatch.setattr(discriminative, "validation_metrics", self.measure)

    def mark(self, adapter):
        return next(iter(self.lm.adapter_parameters(adapter).values()))

    def train(self, lm, adapter, examples, training, micro_tokens, seed, monitor):
        self.trained.append((adapter, training.lr, seed, [lm.decode(e.completion) for e in examples]))
        assert not (self.mark(adapter) == self.mark(adapter).flatten()[0]).all()  # every rate begins with a fresh adapter
        for epoch in range(1, training.epochs + 1):
            if (training.lr, epoch) == self.killed_at:
                raise KeyboardInterrupt
            self.mark(adapter).data.fill_(training.lr * 1000 + epoch / 100)
            if monitor.on_epoch(epoch):
                return

    def measure(self, context, adapter, validation, request):
        self.asked.append(request)
        value = self.mark(adapter).flatten()[0].item()
        for lr, aucs in self.table.items():
            for epoch, auc in enumerate(aucs, 1):
                if abs(value - (lr * 1000 + epoch / 100)) < 1e-4:
                    return {"auc": auc, "threshold": round(lr * 100 + epoch / 1000, 6), "f1": 0.0, "balanced_accuracy": 0.5}
        raise AssertionError(f"no such state: {value}")


TABLE = {1e-3: [0.5, 0.6, 0.55], 2e-3: [0.6, 0.9, 0.7], 4e-3: [0.8, 0.7]}


@pytest.fixture
def trainer(new_lm, context_of, steps):
    return JudgeTrainer(context_of(new_lm()), steps, steps[:2], classifier=KNOBS, lora=Lora(4, 8), seed_of=seeds_from(3))


def test_the_sweep_goes_on_while_it_improves_stops_when_it_turns_and_keeps_the_best(monkeypatch, trainer):
    lm = trainer.context.lm
    script = Script(monkeypatch, lm, TABLE)
    metrics = train_classifier(trainer)
    assert [(r["lr"], r["epochs"], r["auc"]) for r in metrics["sweep"]] == [
        (lr, n, auc) for lr, aucs in TABLE.items() for n, auc in enumerate(aucs, 1)
    ]
    assert metrics["best"]["lr"] == 2e-3 and metrics["best"]["epochs"] == 2 and metrics["turned"] is True
    assert metrics["threshold"] == metrics["best"]["threshold"] == 0.202
    assert (script.mark(DISCRIMINATIVE) == torch.tensor(2.02)).all()  # not the last, not the worst
    assert {t[0] for t in script.trained} == {TRIAL} and lm.adapters == [DISCRIMINATIVE]
    assert {t[2] for t in script.trained} == {trainer.seed_of("classifier")}


@pytest.mark.parametrize(
    ("table", "lr", "epoch"),
    [
        ({1e-3: [0.5, 0.7, 0.6], 2e-3: [0.7, 0.7, 0.6], 5e-4: [0.7, 0.6]}, 1e-3, 2),
        ({1e-3: [0.5, 0.6, 0.55], 2e-3: [0.8, 0.8, 0.8], 4e-3: [0.8, 0.7]}, 2e-3, 1),
    ],
)
def test_of_equally_good_states_the_first_is_kept_and_named(table, lr, epoch, monkeypatch, trainer):
    """What the metrics call the best is the state in the judge's adapter."""
    script = Script(monkeypatch, trainer.context.lm, table)
    best = train_classifier(trainer)["best"]
    assert (best["lr"], best["epochs"]) == (lr, epoch)
    assert script.mark(DISCRIMINATIVE).flatten()[0].item() == pytest.approx(lr * 1000 + epoch / 100)


def test_it_is_trained_on_the_training_labels_alone(monkeypatch, trainer):
    script = Script(monkeypatch, trainer.context.lm, TABLE)
    train_classifier(trainer)
    assert all(signs == ["+", "+", "-", "+", "-"] for *_, signs in script.trained)
    measured = []

    def measure(context, adapter, steps, request):
        measured.append(steps)
        return script.measure(context, adapter, steps, request)

    monkeypatch.setattr(discriminative, "validation_metrics", measure)
    train_classifier(trainer)
    assert measured and all(s == trainer.validation for s in measured)


def test_the_request_of_the_best_state_is_kept(monkeypatch, trainer):
    """Each request is trained on its own prompts; the marks of both have the same AUCs but for the better request's."""
    lm, seen = trainer.context.lm, []
    script = Script(monkeypatch, lm, TABLE)
    measure = script.measure

    def prefers_judge(context, adapter, steps, request):
        found = measure(context, adapter, steps, request)
        return found | {"auc": found["auc"] + (0.05 if request == "judge" else 0.0)}

    train = script.train

    def record(lm, adapter, examples, training, *rest):
        seen.append((examples, training.lr))
        train(lm, adapter, examples, training, *rest)

    monkeypatch.setattr(discriminative, "validation_metrics", prefers_judge)
    monkeypatch.setattr(discriminative, "train_sft", record)
    metrics = train_classifier(dataclasses.replace(trainer, classifier=BOTH))
    tried = list(dict.fromkeys((row["prompt"], row["lr"]) for row in metrics["sweep"]))
    assert tried == [("classify", 1e-3), ("judge", 1e-3), ("judge", 2e-3), ("judge", 4e-3)]
    assert set(script.asked) == {"classify", "judge"} and metrics["prompt"] == metrics["best"]["prompt"] == "judge"
    assert metrics["best"]["lr"] == 2e-3 and (script.mark(DISCRIMINATIVE) == torch.tensor(2.02)).all()
    for (prompt, lr), (examples, trained_lr) in zip(tried, seen, strict=True):
        assert lr == trained_lr and examples == classifier_examples(trainer.context, trainer.steps, prompt)


def test_a_sweep_that_ends_at_its_limit_says_so(monkeypatch, trainer):
    table = {lr: [0.5 + lr * 10, 0.5 + lr * 10 + 0.01, 0.1] for lr in (1e-3, 2e-3, 4e-3, 8e-3)}
    Script(monkeypatch, trainer.context.lm, table)
    metrics = train_classifier(trainer)
    assert {r["lr"] for r in metrics["sweep"]} == set(table) and metrics["best"]["lr"] == 8e-3 and metrics["turned"] is False


@pytest.mark.slow
def test_a_killed_sweep_resumes_behind_the_last_finished_rate_with_its_best_state(monkeypatch, trainer, tmp_path):
    lm = trainer.context.lm
    best_first = {1e-3: [0.5, 0.9, 0.55], 2e-3: [0.6, 0.7, 0.6], 5e-4: [0.8, 0.7]}
    whole = Script(monkeypatch, lm, best_first)
    expected = train_classifier(trainer)
    assert expected["best"]["lr"] == 1e-3

    path = tmp_path / "sweep.checkpoint"

    def train_adapter(name, fit, total, what):
        if name in lm.adapters:
            lm.drop_adapter(name)
        lm.new_adapter(name, trainer.lora, 0)
        return fit(path, lambda n, metrics=None: None)

    saving = dataclasses.replace(trainer, train_adapter=train_adapter)
    for killed_at in ((1e-3, 3), (2e-3, 2), (5e-4, 1)):
        with pytest.raises(KeyboardInterrupt):
            Script(monkeypatch, lm, best_first, killed_at)
            train_classifier(saving)
    rest = Script(monkeypatch, lm, best_first)
    assert train_classifier(saving) == expected
    assert [t[1] for t in rest.trained] == [5e-4] and [t[1] for t in whole.trained] == [1e-3, 2e-3, 5e-4]
    assert (rest.mark(DISCRIMINATIVE) == torch.tensor(1.02)).all()


def test_the_training_loop_ends_when_told_to(new_lm, context_of, steps):
    lm = new_lm(TRIAL)
    examples = classifier_examples(context_of(lm), steps)
    epochs = []
    monitor = discriminative.Monitor(on_epoch=lambda n: epochs.append(n) or n == 2)
    curve = discriminative.train_sft(lm, TRIAL, examples, discriminative.Training(1e-3, 5, 2), 4096, 0, monitor)
    assert epochs == [1, 2] and len(curve) == 4
    assert not any(p.requires_grad for p in lm.adapter_parameters(TRIAL).values())

