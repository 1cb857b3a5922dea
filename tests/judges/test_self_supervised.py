"""The self-supervised head: its mask, whose states it reads, and that it learns from outcomes and never from step labels."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from minisw.evaluate import stats
from minisw.evaluate.metrics import best_threshold, by_solution
from minisw.judges import self_supervised
from minisw.judges.base import JudgeTrainer, Outcome, seeds_from
from minisw.judges.heads import new_head, scores, step_states
from minisw.judges.self_supervised import (
    SELF_SUPERVISED,
    WIDTH,
    SelfSupervisedJudge,
    outcome_accuracy,
    outcome_loss,
    outcome_steps,
    solution_score,
    step_weights,
    train_self_supervised,
    update,
)
from minisw.judges.sweep import TRIAL
from minisw.recipe import ClassifierKnobs, Lora
from minisw.training.step import trainable

KNOBS = ClassifierKnobs(("classify", "judge"), lrs=(1e-2,), max_lrs=2, max_epochs=3, patience=3, batch=3)

OUTCOMES = (
    Outcome("Tom has 12 apples.", ("12+1=13. ", "13+2=15. "), True),
    Outcome("Ben has 24 eggs.", ("24-7=16. ", "16-6=10. ", "10+1=11. "), False),
    Outcome("Anna has 5 pens.", ("5+1=6. ",), True),
    Outcome("Anna has 7 pens.", (), False),  # an empty reply has no step to learn from
)


@pytest.fixture
def trainer(new_lm, context_of, steps):
    context = context_of(new_lm("policy", noise=0.3))
    return JudgeTrainer(context, (), steps, outcomes=OUTCOMES, classifier=KNOBS, lora=Lora(4, 8), seed_of=seeds_from(3))


def weights(lm, name: str) -> dict[str, torch.Tensor]:
    return {key.replace(f".{name}.", "."): p.detach().clone() for key, p in lm.adapter_parameters(name).items()}


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


# --- the judge -------------------------------------------------------------------------------------------------------------


def test_the_score_is_the_heads_on_the_policys_state_behind_the_step(new_lm, context_of, steps):
    lm, ticks = new_lm("other", "policy", noise=0.3), []
    context, head = context_of(lm), new_head(lm, 1, 8)
    judgments = SelfSupervisedJudge(context, head).judge(steps, 0, ticks.append)
    found, expected = [j.p_positive for j in judgments], []
    for step in steps:
        tags = "".join(f"<chunk>{chunk}</chunk>" for chunk in (*step.history, step.chunk))
        ids = lm.chat(f"{step.question}\nSolve step by step.", tags)
        with lm.using("policy"), torch.no_grad():
            states = lm.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
            expected.append(head(states[0, -1]).sigmoid().item())
    assert found == pytest.approx(expected, abs=1e-4) and len({round(p, 4) for p in found}) == 5
    assert [j.verdict for j in judgments] == [p >= 0.5 for p in found]
    assert {j.tokens for j in judgments} == {0}  # the policy has computed these states itself
    assert ticks == [5] and lm.active == "other"
    cut = sorted(found)[3]
    assert sum(j.verdict for j in SelfSupervisedJudge(context, head, cut).judge(steps)) == 2
    others = [j.p_positive for j in SelfSupervisedJudge(context, head, cut, "other").judge(steps)]
    assert others == scores(head, step_states(context, "other", steps)) != pytest.approx(found, abs=1e-4)
    assert SelfSupervisedJudge(context, head).judge([]) == []


@pytest.mark.parametrize(
    ("step_scores", "score"), [([0.7], 0.7), ([0.9, 0.4], 0.6), ([0.5, 1.0, 1.0], 0.5 ** (1 / 3)), ([0.9, 0.0], 0.0)]
)
def test_a_solutions_score_is_the_geometric_mean(step_scores, score):
    assert solution_score(step_scores) == pytest.approx(score)


def test_the_geometric_mean_of_many_small_scores_is_not_lost():
    assert solution_score([1e-6] * 100) == pytest.approx(1e-6)


def test_outcome_accuracy_compares_solution_scores_with_outcomes():
    some = [Outcome("", ("a", "b"), True), Outcome("", ("c",), False), Outcome("", ("d",), True)]
    assert outcome_accuracy(some, [0.9, 0.4, 0.4, 0.6]) == 1.0  # the first: 0.6
    assert outcome_accuracy(some, [0.9, 0.1, 0.4, 0.5]) == pytest.approx(2 / 3)  # 0.3 for a right one; 0.5 is Positive
    assert outcome_accuracy(some, [0.9, 0.4, 0.5, 0.4]) == pytest.approx(1 / 3)


# --- the loss --------------------------------------------------------------------------------------------------------------


def test_the_mask_keeps_the_steps_on_their_outcomes_side_and_balances_the_sides():
    logits = torch.tensor([2.0, -1.0, 0.5, -3.0, 0.0, 0.0, -0.1])
    outcomes = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    assert step_weights(logits, outcomes, masked=True).tolist() == [0.5, 0, 0, 0.25, 0, 0, 0.25]
    third, fourth = pytest.approx(1 / 6), 0.5 / 4
    assert step_weights(logits, outcomes, masked=False).tolist() == [third, third, fourth, fourth, third, fourth, fourth]


@pytest.mark.parametrize("masked", [True, False])
def test_a_side_without_steps_has_no_weight(masked):
    weights = step_weights(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]), masked)
    assert weights.tolist() == [0.25, 0.25]
    assert step_weights(torch.tensor([-1.0]), torch.tensor([1.0]), masked).tolist() == [0.0 if masked else 0.5]


def test_the_loss_is_weighted_cross_entropy():
    logits = torch.tensor([2.0, -1.0, 0.5, -3.0], requires_grad=True)
    outcomes, weights = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([0.5, 0.0, 0.0, 0.25])
    loss, sums = outcome_loss(logits, outcomes, weights)
    expected = 0.5 * math.log(1 + math.exp(-2)) + 0.25 * math.log(1 + math.exp(-3))
    assert loss.item() == pytest.approx(expected, rel=1e-5) and sums == {"loss": pytest.approx(expected, rel=1e-5), "used": 2}
    loss.backward()
    assert [g != 0 for g in logits.grad.tolist()] == [True, False, False, True]
    assert logits.grad[0] < 0 < logits.grad[3]  # further to their sides


@pytest.mark.parametrize("masked", [True, False])
def test_a_step_follows_the_gradient_of_the_loss(masked, new_lm):
    lm = new_lm()
    head, states = new_head(lm, 1, 8), torch.randn(6, 32)
    outcomes = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    before = [p.detach().clone() for p in head.parameters()]
    with trainable(head.parameters()):
        loss, sums = outcome_loss(head(states), outcomes, step_weights(head(states).detach(), outcomes, masked))
        gradients = torch.autograd.grad(loss, list(head.parameters()))
        metrics = update(lm, head, states, outcomes, torch.optim.SGD(head.parameters(), lr=1.0), masked)
    norm = torch.cat([g.flatten() for g in gradients]).norm().item()
    assert metrics["loss"] == pytest.approx(loss.item()) and metrics["used"] == sums["used"] > 0 == metrics["overflows"]
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4) and (sums["used"] < 6) == masked
    for old, p, gradient in zip(before, head.parameters(), gradients, strict=True):
        torch.testing.assert_close(old - p, gradient / max(1.0, norm), atol=1e-6, rtol=1e-4)


def test_every_step_has_the_outcome_of_its_solution():
    made = outcome_steps(OUTCOMES)
    assert [(step.question[:3], len(step.history), step.label) for step in made] == [
        ("Tom", 0, True), ("Tom", 1, True), ("Ben", 0, False), ("Ben", 1, False), ("Ben", 2, False), ("Ann", 0, True)
    ]  # fmt: skip
    assert all((*step.history, step.chunk) == o.chunks[: len(step.history) + 1] for step, o in zip(made, [
        OUTCOMES[0], OUTCOMES[0], OUTCOMES[1], OUTCOMES[1], OUTCOMES[1], OUTCOMES[2]
    ], strict=True))  # fmt: skip


# --- training --------------------------------------------------------------------------------------------------------------


def test_the_trained_adapter_is_the_policy_with_the_best_head(trainer):
    lm = trainer.context.lm
    policy = weights(lm, "policy")
    metrics = train_self_supervised(trainer)
    assert lm.adapters == ["policy", SELF_SUPERVISED] and lm.heads.keys() == {SELF_SUPERVISED}
    assert equal(weights(lm, "policy"), policy)
    own = weights(lm, SELF_SUPERVISED)
    assert equal({key: p for key, p in own.items() if key in policy}, policy) and len(own) == len(policy) + 4
    head = lm.heads[SELF_SUPERVISED]
    assert [tuple(layer.weight.shape) for layer in head.layers] == [(WIDTH, 32), (1, WIDTH)]
    judge = SelfSupervisedJudge(trainer.context, head, metrics["threshold"], SELF_SUPERVISED)
    found = [j.p_positive for j in judge.judge(trainer.validation)]
    assert found == [j.p_positive for j in SelfSupervisedJudge(trainer.context, head).judge(trainer.validation)]
    labels = [step.label for step in trainer.validation]
    assert metrics["best"]["auc"] == stats.auc(found, labels)
    assert metrics["threshold"] == metrics["best"]["threshold"] == best_threshold(*by_solution(trainer.validation, found))[0]
    outcomes = OUTCOMES[:3]
    own = scores(head, step_states(trainer.context, "policy", outcome_steps(outcomes)))
    assert metrics["best"]["outcome_accuracy"] == outcome_accuracy(outcomes, own)


def test_the_metrics_say_what_was_learnt_from(trainer):
    metrics = train_self_supervised(trainer, "mine")
    assert metrics["labels"] == 0 and metrics["validation_labels"] == 5
    assert metrics["outcomes"] == 3 and metrics["right"] == 2  # the empty reply is left out
    for words in ("outcomes of 3 solutions", "no step labels", "chosen on validation labels, like the threshold"):
        assert words in metrics["training"]
    assert {row["prompt"] for row in metrics["sweep"]} == {metrics["prompt"]} == {"solve_chunked"}
    assert len({row["lr"] for row in metrics["sweep"]}) == 2 and not metrics["turned"]
    assert metrics["best"] in metrics["sweep"] and "mine" in trainer.context.lm.heads


@pytest.mark.slow
def test_it_learns_the_outcomes_and_not_the_step_labels(trainer, steps):
    knobs = dataclasses.replace(KNOBS, lrs=(1e-2,), max_lrs=1, max_epochs=3, patience=3, batch=4)
    many = dataclasses.replace(trainer, outcomes=OUTCOMES * 20, classifier=knobs)  # enough for the warm-up to find the sides
    flipped = [dataclasses.replace(step, label=not step.label) for step in steps]
    found = [train_self_supervised(dataclasses.replace(many, steps=labels)) for labels in (steps, flipped)]
    assert found[0] == found[1]
    rows = found[0]["sweep"]
    assert rows[-1]["epochs"] == 3 and rows[-1]["outcome_accuracy"] == 1.0


def test_the_first_epoch_alone_is_a_warm_up_on_the_outcomes_steps(monkeypatch, trainer):
    seen, lm = [], trainer.context.lm
    wanted = torch.cat(step_states(trainer.context, "policy", outcome_steps(OUTCOMES)))
    real = self_supervised.update

    def spy(lm, head, states, outcomes, optimizer, masked):
        assert head is lm.heads[TRIAL] and lm.active == TRIAL
        seen.append((optimizer.param_groups[0]["lr"], masked, states, outcomes))
        return real(lm, head, states, outcomes, optimizer, masked)

    monkeypatch.setattr(self_supervised, "update", spy)
    train_self_supervised(dataclasses.replace(trainer, classifier=dataclasses.replace(KNOBS, max_lrs=1)))
    assert [masked for _, masked, _, _ in seen] == [False] * 2 + [True] * 4  # 6 steps in batches of 3, 3 epochs
    labels = {tuple(state.tolist()): label for state, label in zip(wanted, [1.0, 1.0, 0.0, 0.0, 0.0, 1.0], strict=True)}
    for epoch in range(3):
        rows = [(tuple(s.tolist()), o.item()) for _, _, states, own in seen[2 * epoch : 2 * epoch + 2]
                for s, o in zip(states, own, strict=True)]  # fmt: skip
        assert dict(rows) == labels and len(rows) == 6
    assert max(lr for lr, *_ in seen) == pytest.approx(1e-2) and lm.adapters == ["policy", SELF_SUPERVISED]


def test_states_are_computed_once_and_heads_begin_alike(monkeypatch, trainer):
    asked, seeds, starts = [], [], []
    states, train, lm = self_supervised.step_states, self_supervised.train_epochs, trainer.context.lm

    def count(context, adapter, steps):
        asked.append((adapter, [step.chunk for step in steps]))
        return states(context, adapter, steps)

    def record(lm, adapter, examples, training, seed, *rest):
        seeds.append((adapter, training.lr, training.epochs, training.batch, seed))
        starts.append(weights(lm, TRIAL))
        return train(lm, adapter, examples, training, seed, *rest)

    monkeypatch.setattr(self_supervised, "step_states", count)
    monkeypatch.setattr(self_supervised, "train_epochs", record)
    train_self_supervised(trainer)
    chunks = [chunk for outcome in OUTCOMES for chunk in outcome.chunks]
    assert asked == [("policy", chunks), ("policy", [step.chunk for step in trainer.validation])]
    seed = trainer.seed_of(SELF_SUPERVISED)
    assert [s[1] for s in seeds] in ([1e-2, 2e-2], [1e-2, 5e-3])
    assert [(a, n, b, s) for a, _, n, b, s in seeds] == [(TRIAL, 3, 3, seed)] * 2
    fresh = new_head(lm, trainer.seed_of(f"head-{SELF_SUPERVISED}"), WIDTH)
    expected = weights(lm, "policy") | {f"head.{key}": p for key, p in fresh.named_parameters()}
    assert all(equal(start, expected) for start in starts)


@pytest.mark.slow
def test_a_killed_sweep_resumes_with_the_same_numbers(new_lm, trainer, context_of, tmp_path):
    def training(lm, checkpoint, kill_at=None):
        ticks = []

        def tick(n, metrics=None):
            ticks.append(n)
            if len(ticks) == kill_at:
                raise KeyboardInterrupt

        def train_adapter(name, fit, total, what):
            assert (name, what, total) == (SELF_SUPERVISED, f"{SELF_SUPERVISED}: sweep on validation", 3 * 2)
            if name in lm.adapters:
                lm.drop_adapter(name)
            lm.new_adapter(name, Lora(4, 8), 0)
            return fit(checkpoint, tick)

        own = dataclasses.replace(trainer, context=context_of(lm), train_adapter=train_adapter)
        return train_self_supervised(own), len(ticks)

    lm = trainer.context.lm
    expected, whole = training(lm, None)
    assert whole == 12
    path, again = tmp_path / "sweep.checkpoint", new_lm("policy", noise=0.3)
    with pytest.raises(KeyboardInterrupt):
        training(again, path, kill_at=8)  # in the second of two settings
    for killed_in, left in ((again, 6), (new_lm("policy", noise=0.3), 0)):  # in the same process, and in another
        assert training(killed_in, path) == (expected, left)
        assert equal(weights(killed_in, SELF_SUPERVISED), weights(lm, SELF_SUPERVISED))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outcomes": ()}, "there are 0, 0 and 5: annotate more problems"),
        ({"outcomes": OUTCOMES[:1]}, "there are 1, 0 and 5"),
        ({"outcomes": (OUTCOMES[0], OUTCOMES[3])}, "there are 1, 0 and 5"),
        ({"outcomes": OUTCOMES[1:2]}, "there are 0, 1 and 5"),
        ({"validation": ()}, "there are 2, 1 and 0"),
    ],
)
def test_what_is_missing_is_one_line(changes, words, trainer):
    with pytest.raises(ValueError, match=f"self_supervised needs right and wrong solutions and validation labels, and {words}"):
        train_self_supervised(dataclasses.replace(trainer, **changes))


def test_without_the_policy_it_says_so(new_lm, context_of, trainer):
    with pytest.raises(ValueError, match="adapter 'policy' is not loaded: load it first"):
        train_self_supervised(dataclasses.replace(trainer, context=context_of(new_lm("other"))))
