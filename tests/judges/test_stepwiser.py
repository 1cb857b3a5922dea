"""GRPO of the judge: where it starts, what it is asked, what it is paid; and the rows with fewer labels."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from minisw.judges.base import JudgeTrainer, seeds_from
from minisw.judges.rejection_sampled import REJECTION_SAMPLED, train_rejection_sampled
from minisw.judges.stepwiser import FROM_RS, STEPWISER, train_as_the_recipe_says, train_stepwiser, with_fewer_labels
from minisw.prompts import NEGATIVE, POSITIVE
from minisw.recipe import JudgeKnobs, Lora, Training
from minisw.records import LabelledStep

P, N = f"The step says 4. {POSITIVE}", f"The step says 4. {NEGATIVE}"
KNOBS = JudgeKnobs(
    rs_samples=2, rs_training=Training(lr=1e-2, epochs=2, batch=2), steps=3, prompts=4, group=4, lr=1e-2, temperature=1.1,
    max_new_tokens=40,
)  # fmt: skip


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], name_a: str, name_b: str) -> bool:
    return all(torch.equal(value, b[key.replace(f".{name_a}.", f".{name_b}.")]) for key, value in a.items())


@pytest.fixture
def trained(new_lm, context_of, fake_sampler, steps):
    """A judge trained by RS-FT and GRPO on a scripted sampler: two replies in four are right, or three, or one, by the prompt."""
    lm = new_lm()
    patterns = {s.chunk.strip(): [P, N, N, N] if i % 2 else [P, P, P, N] for i, s in enumerate(steps)}

    def reply(text, k):
        return patterns[text.split("New step:\n")[1].split("\n")[0]][k % 4 if k < 4 else 0]

    sampler = fake_sampler(lm, reply)
    trainer = JudgeTrainer(context_of(lm, sampler), steps, knobs=KNOBS, lora=Lora(4, 8), seed_of=seeds_from(1))
    metrics = {REJECTION_SAMPLED: train_rejection_sampled(trainer), STEPWISER: train_stepwiser(trainer)}
    return trainer, metrics | {FROM_RS: train_stepwiser(trainer, FROM_RS, REJECTION_SAMPLED)}, sampler


def test_grpo_starts_from_the_base_or_from_the_adapter_that_is_named(trained):
    trainer, metrics, sampler = trained
    lm = trainer.context.lm
    calls = [c for c in sampler.calls if c["counts"][:1] == [KNOBS.group]]
    assert [c["adapter"] for c in calls] == [STEPWISER] * 3 + [FROM_RS] * 3
    assert all(not p.any() for key, p in calls[0]["weights"].items() if "lora_B" in key)  # as the base answers
    assert any(p.any() for key, p in calls[1]["weights"].items() if "lora_B" in key)
    start = {key: p.detach() for key, p in lm.adapter_parameters(REJECTION_SAMPLED).items()}
    assert any(p.abs().max() > 0 for key, p in start.items() if "lora_B" in key)
    assert same(calls[3]["weights"], start, FROM_RS, REJECTION_SAMPLED)
    assert not same(calls[4]["weights"], start, FROM_RS, REJECTION_SAMPLED)  # it has learned, and RS-FT's own is untouched
    assert all(c["sampling"].temperature == 1.1 and c["sampling"].max_new_tokens == 40 for c in calls)
    assert metrics[STEPWISER]["training"].startswith("GRPO from the base: 3 steps of 4 prompts × 4 replies")
    assert metrics[FROM_RS]["training"].startswith("GRPO from rejection_sampled: 3 steps")


def test_each_reply_is_paid_by_the_label_of_its_own_step(trained, steps, request_texts):
    trainer, metrics, sampler = trained
    lm = trainer.context.lm
    label = {lm.decode(lm.chat(text)): step.label for text, step in zip(request_texts, steps, strict=True)}
    calls = [c for c in sampler.calls if c["counts"][:1] == [KNOBS.group]]
    calls = calls[:3]
    assert len(metrics[STEPWISER]["curve"]) == 3 and metrics[STEPWISER]["labels"] == 5
    for call, row in zip(calls, metrics[STEPWISER]["curve"], strict=True):
        assert set(call["prompts"]) <= label.keys() and len(call["prompts"]) == 4
        paid = [(POSITIVE in sampler.reply(p, k)) == label[p] for p in call["prompts"] for k in range(4)]
        assert row["reward"] == pytest.approx(sum(paid) / 16) and 0 < row["reward"] < 1
    assert len({row["reward"] for row in metrics[STEPWISER]["curve"]}) > 1


def test_a_reply_without_an_analysis_is_not_paid(new_lm, context_of, fake_sampler, steps):
    lm = new_lm(REJECTION_SAMPLED)
    sampler = fake_sampler(lm, lambda text, k: [POSITIVE, NEGATIVE, P, N][k])
    trainer = JudgeTrainer(context_of(lm, sampler), steps, knobs=dataclasses.replace(KNOBS, steps=1), lora=Lora(4, 8))
    assert train_stepwiser(trainer)["curve"][0]["reward"] == pytest.approx(1 / 4)


@pytest.mark.slow
def test_grpo_makes_the_paid_reply_more_likely(new_lm, context_of, fake_sampler, steps):
    """An inverted reward or advantage would make it less likely."""
    from minisw.judges.generative import GenerativeJudge, p_positive

    lm = new_lm(REJECTION_SAMPLED)
    context = context_of(lm, fake_sampler(lm, lambda text, k: [P, N][k % 2]))
    trainer = JudgeTrainer(context, steps[:3:2], knobs=dataclasses.replace(KNOBS, steps=6), lora=Lora(4, 8))
    train_stepwiser(trainer)
    judge = GenerativeJudge(context, STEPWISER)
    prompts = [judge.prompt(s) for s in trainer.steps]
    before, after = (
        [math.log(p / (1 - p)) for p in p_positive(context, name, prompts, [P, P])] for name in (None, STEPWISER)
    )
    assert [s.label for s in trainer.steps] == [True, False]
    assert after[0] > before[0] + 0.5 and after[1] < before[1] - 0.5


def test_without_rs_ft_it_says_what_is_missing(new_lm, context_of, steps):
    trainer = JudgeTrainer(context_of(new_lm()), steps, knobs=dataclasses.replace(KNOBS, start="rejection_sampled"))
    for train in (train_as_the_recipe_says, lambda trainer: train_stepwiser(trainer, FROM_RS, REJECTION_SAMPLED)):
        with pytest.raises(ValueError, match="'rejection_sampled', which is not loaded"):
            train(trainer)


def test_without_an_analysis_the_verdict_alone_is_paid_and_the_measures_read_what_they_are_given(
    new_lm, context_of, fake_sampler, steps
):
    """Replies are the ends of `\\boxed{`: two of four are right on a Positive step, one on a Negative one."""
    lm = new_lm()
    sampler = fake_sampler(lm, lambda text, k: ["Positive}", "Positive}", "Negative}", "4"][k])
    trainer = JudgeTrainer(
        context_of(lm, sampler, analysis=False), steps[1:3], knobs=dataclasses.replace(KNOBS, steps=1), lora=Lora(4, 8),
        measures={"habits/short": lambda reply: float(reply == "4")},
    )  # fmt: skip
    (row,) = train_stepwiser(trainer)["curve"]
    assert row["reward"] == pytest.approx((2 + 1) / 8)
    assert row["verdicts/positive"] == pytest.approx(1 / 2) and row["habits/short"] == pytest.approx(1 / 4)


def many(count: int, passes: int) -> list[LabelledStep]:
    """`count` distinct labels, Positive and Negative in turn, repeated in passes."""
    return [LabelledStep("p", "?", (), str(i), i % 2 == 0) for i in range(count)] * passes


@pytest.mark.parametrize(
    ("count", "passes", "share", "expected"),
    [
        (200, 1, 0.1, 20), (200, 3, 0.1, 20), (210, 2, 0.1, 20), (226, 1, 0.1, 22), (240, 1, 0.01, 8), (900, 1, 0.01, 8),
        (1000, 2, 0.01, 10), (60, 1, 0.1, 8), (80, 1, 0.1, 8), (100, 1, 0.1, 10), (6, 1, 0.1, 6),
    ],
)  # fmt: skip
def test_fewer_labels_are_that_share_of_the_distinct_ones_balanced(count, passes, share, expected, tiny_lm, context_of):
    fewer = with_fewer_labels(JudgeTrainer(context_of(tiny_lm), many(count, passes)), share).steps
    assert len(fewer) == len(set(fewer)) == expected and sum(s.label for s in fewer) == expected / 2


@pytest.mark.parametrize(
    ("labels", "prompts", "group", "expected"),
    [
        (400, 32, 8, (32, 8)),  # 40 labels are enough for a step
        (200, 32, 8, (20, 12)),  # 256 replies by 20 prompts
        (100, 32, 8, (10, 16)),  # at most twice as many
        (100, 4, 8, (4, 8)),
        (160, 16, 4, (16, 4)),
    ],
)
def test_a_step_with_few_labels_has_fewer_prompts_and_up_to_twice_the_replies(
    labels, prompts, group, expected, tiny_lm, context_of
):
    knobs = JudgeKnobs(prompts=prompts, group=group, steps=7)
    fewer = with_fewer_labels(JudgeTrainer(context_of(tiny_lm), many(labels, 2), knobs=knobs), 0.1).knobs
    assert (fewer.prompts, fewer.group) == expected
    smaller = dataclasses.replace(knobs, prompts=expected[0], group=expected[1])
    assert fewer == dataclasses.replace(smaller, steps=4)  # two thirds of the steps, and all else alike


@pytest.mark.parametrize(("steps", "expected"), [(1, 1), (2, 1), (3, 2), (24, 16)])
def test_fewer_labels_take_two_thirds_of_the_steps_and_at_least_one(steps, expected, tiny_lm, context_of):
    trainer = JudgeTrainer(context_of(tiny_lm), many(40, 1), knobs=JudgeKnobs(steps=steps))
    assert with_fewer_labels(trainer, 0.1).knobs.steps == expected


def test_a_step_of_grpo_asks_no_prompt_twice_where_there_are_few(new_lm, context_of, fake_sampler, steps):
    lm = new_lm(REJECTION_SAMPLED)
    sampler = fake_sampler(lm, lambda text, k: P)
    knobs = dataclasses.replace(KNOBS, steps=1, prompts=32)
    train_stepwiser(JudgeTrainer(context_of(lm, sampler), steps, knobs=knobs, lora=Lora(4, 8), warn=lambda text: None))
    assert len(set(sampler.calls[-1]["prompts"])) == len(sampler.calls[-1]["prompts"]) == 5
