"""The scalar head on a request: what it reads, what it learns, and that it is tuned and resumed like the classifier."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from minisw.engine.batches import collate
from minisw.engine.heads import Head
from minisw.evaluate import stats
from minisw.evaluate.metrics import best_threshold, by_solution
from minisw.judges import scalar_head
from minisw.judges.base import JudgeTrainer, seeds_from
from minisw.judges.discriminative import DiscriminativeJudge, classifier_examples
from minisw.judges.heads import new_head
from minisw.judges.scalar_head import SCALAR_HEAD, ScalarHeadJudge, head_examples, head_loss, train_scalar_head
from minisw.judges.sweep import TRIAL
from minisw.recipe import ClassifierKnobs, Lora
from minisw.training.sft import update
from minisw.training.step import trainable

KNOBS = ClassifierKnobs(("classify", "judge"), lrs=(1e-3,), max_lrs=3, max_epochs=2, patience=2, batch=2)


def logits_of(lm, adapter: str | None, head: Head, rows: list[list[int]]) -> torch.Tensor:
    """The head's logits at the last token of each row, by transformers' own hidden states: [rows]."""
    with lm.using(adapter):
        states = [lm.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, -1] for ids in rows]
    return torch.stack([head(state) for state in states])


def weights(lm, name: str = SCALAR_HEAD) -> dict[str, torch.Tensor]:
    return {key: p.detach().clone() for key, p in lm.adapter_parameters(name).items()}


@pytest.fixture
def trainer(new_lm, context_of, steps):
    return JudgeTrainer(context_of(new_lm()), steps, steps[:2] + steps[3:], classifier=KNOBS, lora=Lora(4, 8))


# --- the judge -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_name", ["classify", "judge"])
def test_the_score_is_the_heads_at_the_requests_last_token_by_its_own_adapter(request_name, new_lm, context_of, steps):
    lm, ticks = new_lm("other", "mine", noise=0.3), []
    context, head = context_of(lm), new_head(lm, 1)
    judgments = ScalarHeadJudge(context, "mine", head, request=request_name).judge(steps, 0, ticks.append)
    asked = [DiscriminativeJudge(context, None, request=request_name).prompt(step) for step in steps]
    with torch.no_grad():
        expected = logits_of(lm, "mine", head, asked).sigmoid().tolist()
    found = [j.p_positive for j in judgments]
    assert found == pytest.approx(expected, abs=1e-4) and len({round(p, 4) for p in found}) == 5
    assert [j.verdict for j in judgments] == [p >= 0.5 for p in found] and {j.tokens for j in judgments} == {1}
    assert ticks == [5]
    cut = sorted(found)[3]
    assert sum(j.verdict for j in ScalarHeadJudge(context, "mine", head, cut, request_name).judge(steps)) == 2
    assert ScalarHeadJudge(context, "mine", head).judge([]) == []


def test_the_classifiers_own_request_is_the_default(tiny_lm, context_of, steps):
    context = context_of(tiny_lm)
    judge = ScalarHeadJudge(context, None, new_head(tiny_lm, 0))
    assert judge.prompt(steps[0]) == DiscriminativeJudge(context, None).prompt(steps[0])
    assert judge.name != DiscriminativeJudge.name and judge.threshold == 0.5


# --- its examples and loss -------------------------------------------------------------------------------------------------


def test_examples_are_the_classifiers_requests_with_the_labels(tiny_lm, context_of, steps):
    context = context_of(tiny_lm)
    for request in ("classify", "judge"):
        examples = head_examples(context, steps, request)
        assert [e.prompt for e in examples] == [e.prompt for e in classifier_examples(context, steps, request)]
        assert [e.completion for e in examples] == [[1], [1], [0], [1], [0]]
    assert head_examples(context, steps) == head_examples(context, steps, "classify")


@pytest.mark.parametrize("layout", ["plain", "prefix", "packed"])
def test_the_loss_is_the_cross_entropy_of_the_labels_over_the_whole_step(layout, new_lm, context_of, steps):
    """Also where requests are repeated, whose forward the layouts share."""
    lm = new_lm("mine", noise=0.3)
    head, examples = new_head(lm, 1), head_examples(context_of(lm), steps * 2)
    examples.sort(key=lambda e: e.prompt)
    with torch.no_grad():
        logits = logits_of(lm, "mine", head, [e.prompt for e in examples])
        batch = collate(examples, lm.tokenizer.pad_token_id, lm.device, layout)
        assert (batch.prefix is not None, batch.packing is not None) == (
            layout == "prefix",
            layout == "packed",
        ) or layout != "plain"
        loss, sums = head_loss(head)(lm, batch, 20)
    signs = torch.tensor([2.0 * e.completion[0] - 1 for e in examples])
    expected = (1 + (-signs * logits).exp()).log().sum().item() / 20
    assert loss.item() == pytest.approx(expected, rel=1e-4) and sums == {"loss": pytest.approx(expected, rel=1e-4)}


@pytest.mark.parametrize("micro_tokens", [1, 4096])
def test_a_step_trains_head_and_adapter_whatever_the_micro_batches(micro_tokens, new_lm, context_of, steps):
    lm = new_lm("mine", noise=0.3)
    lm.heads["mine"] = new_head(lm, 1)
    examples, parameters = head_examples(context_of(lm), steps), lm.adapter_parameters("mine")
    before = weights(lm, "mine")
    with torch.enable_grad(), trainable(parameters.values()):
        logits = logits_of(lm, "mine", lm.heads["mine"], [e.prompt for e in examples])
        labels = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        optimizer = torch.optim.SGD(parameters.values(), lr=1.0)
        metrics = update(lm, examples, optimizer, micro_tokens, head_loss(lm.heads["mine"]))
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-4)
    norm = torch.cat([g.flatten() for g in gradients]).norm().item()
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-3)
    for (key, p), gradient in zip(parameters.items(), gradients, strict=True):
        torch.testing.assert_close(before[key] - p, gradient / max(1.0, norm), atol=1e-4, rtol=1e-3)


# --- training --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_moves_the_score_towards_the_labels(new_lm, context_of, steps):
    lm = new_lm("policy")
    policy = weights(lm, "policy")
    knobs = ClassifierKnobs(("judge",), lrs=(2e-2,), max_lrs=1, max_epochs=8, patience=8, batch=5)
    trainer = JudgeTrainer(context_of(lm), steps * 2, steps, classifier=knobs, lora=Lora(4, 8))
    metrics = train_scalar_head(trainer, "mine")
    judgments = ScalarHeadJudge(trainer.context, "mine", lm.heads["mine"], request="judge").judge(steps)
    scores = [j.p_positive for j in judgments]
    assert min(scores[i] for i in (0, 1, 3)) > max(scores[i] for i in (2, 4))
    assert metrics["best"]["auc"] == stats.auc(scores, [s.label for s in steps]) == 1.0  # the state that was kept
    assert metrics["threshold"] == best_threshold(*by_solution(steps, scores))[0] and metrics["prompt"] == "judge"
    assert metrics["labels"] == metrics["validation_labels"] == 5 and "linear head" in metrics["training"]
    assert "request 'judge'" in metrics["training"] and "validation labels" in metrics["training"]
    assert lm.adapters == ["policy", "mine"] and lm.heads.keys() == {"mine"}
    assert all(torch.equal(p, policy[key]) for key, p in lm.adapter_parameters("policy").items())


def test_the_sweep_tries_what_the_classifiers_would(trainer):
    metrics = train_scalar_head(trainer)
    tried = list(dict.fromkeys((row["prompt"], row["lr"]) for row in metrics["sweep"]))
    best = metrics["prompt"]
    assert tried[:2] == [("classify", 1e-3), ("judge", 1e-3)]  # both requests at the first rate, then the better one's rates
    assert len(tried) >= 3 and all(prompt == best for prompt, _ in tried[2:])
    assert {"auc", "threshold", "f1", "balanced_accuracy", "epochs"} < metrics["best"].keys()
    assert metrics["threshold"] == metrics["best"]["threshold"] and metrics["best"] in metrics["sweep"]
    assert trainer.context.lm.adapters == [SCALAR_HEAD]


def test_what_is_trained_and_measured(monkeypatch, trainer):
    """The training labels alone are trained on, with the seeds of its name; validation is judged by the trial and its head."""
    lm, seen, starts, measured = trainer.context.lm, [], [], []
    train, judge = scalar_head.train_epochs, ScalarHeadJudge.judge

    def record(lm, adapter, examples, training, seed, step, monitor):
        seen.append((adapter, examples, training, seed))
        starts.append(weights(lm, TRIAL))
        return train(lm, adapter, examples, training, seed, step, monitor)

    def spy(self, steps, *rest):
        measured.append((self.adapter, self.head is lm.heads[TRIAL], self.request, tuple(steps)))
        return judge(self, steps, *rest)

    monkeypatch.setattr(scalar_head, "train_epochs", record)
    monkeypatch.setattr(ScalarHeadJudge, "judge", spy)
    trainer = dataclasses.replace(trainer, seed_of=seeds_from(3), classifier=dataclasses.replace(KNOBS, max_lrs=1))
    train_scalar_head(trainer)
    assert [call[:2] for call in seen] == [
        (TRIAL, head_examples(trainer.context, trainer.steps, request)) for request in ("classify", "judge")
    ]
    assert all((t.lr, t.epochs, t.batch) == (1e-3, 2, 2) and seed == trainer.seed_of(SCALAR_HEAD) for _, _, t, seed in seen)
    assert measured == [(TRIAL, True, request, tuple(trainer.validation)) for request in ("classify", "judge") for _ in range(2)]
    head = new_head(lm, trainer.seed_of(f"head-{SCALAR_HEAD}"))  # each trial begins with the same fresh head and adapter
    for start in starts:
        assert all(torch.equal(start[f"head.{TRIAL}.{key}"], p) for key, p in head.named_parameters())
        assert all(torch.equal(start[key], p) for key, p in starts[0].items())


@pytest.mark.slow
def test_a_killed_sweep_resumes_with_the_same_numbers(new_lm, context_of, steps, tmp_path):
    def training(lm, checkpoint, kill_at=None):
        ticks = []

        def tick(n, metrics=None):
            ticks.append(n)
            if len(ticks) == kill_at:
                raise KeyboardInterrupt

        def train_adapter(name, fit, total, what):
            assert (name, what) == (SCALAR_HEAD, "scalar_head: sweep on validation") and total == 2 * 2 * 2
            if name in lm.adapters:
                lm.drop_adapter(name)
            lm.new_adapter(name, Lora(4, 8), 0)
            return fit(checkpoint, tick)

        trainer = JudgeTrainer(context_of(lm), steps, steps, classifier=KNOBS, lora=Lora(4, 8), train_adapter=train_adapter)
        return train_scalar_head(trainer), len(ticks)

    lm = new_lm()
    expected, whole = training(lm, None)
    path, again = tmp_path / "sweep.checkpoint", new_lm()
    with pytest.raises(KeyboardInterrupt):
        training(again, path, kill_at=6)  # in the second setting: each has 2 epochs of 2 steps
    for killed_in in (again, new_lm()):  # in the same process, and in another
        found, rest = training(killed_in, path)
        assert found == expected
        ours, theirs = weights(killed_in), weights(lm)
        assert ours.keys() == theirs.keys() and all(torch.equal(p, theirs[key]) for key, p in ours.items())
        assert rest < whole
    assert rest == 0  # the second time everything was finished


@pytest.mark.parametrize(("missing", "words"), [("steps", "there are 0 and 4"), ("validation", "there are 5 and 0")])
def test_what_is_missing_is_one_line(missing, words, trainer):
    with pytest.raises(ValueError, match=f"scalar_head needs training and validation labels, and {words}") as caught:
        train_scalar_head(dataclasses.replace(trainer, **{missing: ()}))
    assert "annotate more problems" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("missing", "words"), [("lrs", "no learning rate"), ("prompts", "no request")])
def test_a_sweep_over_nothing_is_refused(missing, words, trainer):
    with pytest.raises(ValueError, match=f"{words} for the scalar_head: give --classifier.lrs"):
        train_scalar_head(dataclasses.replace(trainer, classifier=dataclasses.replace(KNOBS, **{missing: ()})))
