"""The few-shot judge: which examples it is shown, in which order, and where they come from."""

import dataclasses

import pytest

from minisw.judges import prompted
from minisw.judges.base import JudgeTrainer
from minisw.judges.prompted import FewShotJudge, choose_examples, untrained_judge
from minisw.prompts import NEGATIVE, POSITIVE
from minisw.recipe import JudgeKnobs
from minisw.records import LabelledStep

EXAMPLES = {
    "true": [[f"Tom has {i} apples.", f"The step says {i}.\n{POSITIVE}"] for i in range(20, 24)],
    "false": [[f"Ben has {i} eggs.", f"The step says {i}.\n{NEGATIVE}"] for i in range(30, 33)],
}


def test_examples_stand_before_the_request_as_turns_of_a_chat(tiny_lm, context_of, steps, request_texts):
    judge = FewShotJudge(context_of(tiny_lm), EXAMPLES)
    plain = untrained_judge(context_of(tiny_lm))
    assert (judge.adapter, judge.name, judge.votes) == (None, "few-shot", 1)
    for step, request in zip(steps, request_texts, strict=True):
        text, bare = tiny_lm.decode(judge.prompt(step)), tiny_lm.decode(plain.prompt(step))
        assert text.count(POSITIVE) == text.count(NEGATIVE) == prompted.SHOTS == 2
        assert text.rfind(request) > max(text.rfind(POSITIVE), text.rfind(NEGATIVE)) and request in bare
        shown = [pair for side in EXAMPLES.values() for pair in side if pair[0] in text]
        assert len(shown) == 4 and all(reply in text for _, reply in shown)
        assert all(text.index(asked) < text.index(reply) for asked, reply in shown)


def test_the_order_is_drawn_for_each_step_and_repeatable(tiny_lm, context_of, steps):
    """No verdict is always the last one, and a step is asked in the same way every time."""
    judge = FewShotJudge(context_of(tiny_lm), EXAMPLES)
    many = [dataclasses.replace(steps[0], chunk=f"{i}+1={i + 1}.") for i in range(12)]
    texts = [tiny_lm.decode(judge.prompt(step)) for step in many]
    assert len({text.rfind(POSITIVE) > text.rfind(NEGATIVE) for text in texts}) == 2
    assert len({tuple(pair[0] for side in EXAMPLES.values() for pair in side if pair[0] in text) for text in texts}) > 3
    assert texts == [tiny_lm.decode(judge.prompt(step)) for step in many]


def test_fewer_examples_than_shots_are_all_shown(tiny_lm, context_of, steps):
    judge = FewShotJudge(context_of(tiny_lm), {"true": EXAMPLES["true"][:1], "false": []})
    text = tiny_lm.decode(judge.prompt(steps[0]))
    assert EXAMPLES["true"][0][1] in text and text.count(POSITIVE) == 1 and NEGATIVE not in text


def test_votes_keep_the_examples(tiny_lm, context_of, steps):
    judge = FewShotJudge(context_of(tiny_lm), EXAMPLES).with_votes("several", 0.7, 5)
    assert isinstance(judge, FewShotJudge)
    assert (judge.examples, judge.name, judge.temperature, judge.votes) == (EXAMPLES, "several", 0.7, 5)
    assert judge.prompt(steps[0]) == FewShotJudge(context_of(tiny_lm), EXAMPLES).prompt(steps[0])


def labels(count: int) -> list[LabelledStep]:
    return [LabelledStep("p", f"Ben has {i} eggs.", (), f"{i}+1={i + 1}.", i % 2 == 0) for i in range(count)]


def number_in(text: str) -> int:
    return int(text.split("Ben has ")[1].split(" eggs")[0])


@pytest.mark.parametrize("count", [6, 60, 100])
def test_examples_are_right_replies_of_the_base_to_training_labels(count, new_lm, context_of, fake_sampler):
    """The base is right in its third reply only, and never about numbers that are multiples of three."""
    lm = new_lm()

    def reply(text, k):
        number = number_in(text)
        right = k == 2 and number % 3 > 0
        return f"The step says {number}. {k}\n{POSITIVE if (number % 2 == 0) == right else NEGATIVE}"

    sampler = fake_sampler(lm, reply)
    trainer = JudgeTrainer(context_of(lm, sampler), labels(count) * 2, knobs=JudgeKnobs())
    metrics = choose_examples(trainer)
    for name, even in (("true", 0), ("false", 1)):
        numbers = [i for i in range(count) if i % 2 == even and i % 3][: prompted.POOL]
        pairs = metrics["examples"][name]
        assert [number_in(request) for request, _ in pairs] == numbers
        assert all(answer.startswith(f"The step says {n}. 2") for (_, answer), n in zip(pairs, numbers, strict=True))
        assert all((POSITIVE in answer) is (name == "true") for _, answer in pairs)
        assert all(request.endswith("Judge the new step.") for request, _ in pairs)
    assert metrics["labels"] == sum(len(pairs) for pairs in metrics["examples"].values()) > 0
    asked = [text for call in sampler.calls for text in call["prompts"]]
    assert len(set(asked)) == len(asked) <= 2 * prompted.TRIED and lm.adapters == []
    assert "replies of the base" in metrics["training"]
