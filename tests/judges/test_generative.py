"""The generative judge: what it is asked, with which adapter; votes; P(Positive) at the token that decides."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from fakes import ASK, PROMPTS, REPLY, FakeLM

from minisw.judges.base import AlwaysPositive, JudgeContext, RandomReject, p_first
from minisw.judges.generative import GenerativeJudge, p_positive, p_positive_along
from minisw.judges.prompted import untrained_judge
from minisw.prompts import BOX, ENGLISH, NEGATIVE, POSITIVE
from minisw.records import LabelledStep

GOOD, BAD = f"The step says 4. {POSITIVE}", f"The step says 5. {NEGATIVE}"


def chat_texts(lm, texts):
    return [lm.decode(lm.chat(text)) for text in texts]


def test_a_judge_is_asked_with_problem_history_and_step_by_its_own_adapter(
    new_lm, context_of, fake_sampler, steps, request_texts
):
    lm = new_lm("policy", "stepwiser")
    sampler = fake_sampler(lm, lambda text, k: GOOD if "13." in text else BAD)
    judgments = GenerativeJudge(context_of(lm, sampler), "stepwiser").judge(steps, seed=5)
    (call,) = sampler.calls
    assert call["prompts"] == chat_texts(lm, request_texts)
    assert call["adapter"] == "stepwiser" and call["counts"] == [1] * 5 and call["seed"] == 5
    assert call["sampling"].temperature == 0 and call["sampling"].max_new_tokens == 40
    assert [j.verdict for j in judgments] == [True, True, True, False, False]
    assert [j.analysis for j in judgments] == [GOOD, GOOD, GOOD, BAD, BAD]
    assert all(j.tokens == len(lm.encode(j.analysis)) and j.votes == () for j in judgments)
    assert [j.p_positive for j in judgments] == [1.0, 1.0, 1.0, 0.0, 0.0]


def test_the_untrained_judge_is_the_bare_base(new_lm, context_of, fake_sampler, steps):
    lm = new_lm("stepwiser")
    sampler = fake_sampler(lm, lambda text, k: GOOD)
    with lm.using("stepwiser"):
        untrained_judge(context_of(lm, sampler)).judge(steps, 0)
    assert sampler.calls[0]["adapter"] is None


def test_a_judge_does_not_see_the_label(tiny_lm, context_of, steps):
    judge = GenerativeJudge(context_of(tiny_lm), None)
    flipped = [s.__class__(s.problem_id, s.question, s.history, s.chunk, not s.label) for s in steps]
    assert [judge.prompt(s) for s in steps] == [judge.prompt(s) for s in flipped]


def test_votes_are_sampled_and_the_majority_counts(new_lm, context_of, fake_sampler, steps):
    votes = [[GOOD, GOOD, BAD], [BAD, GOOD, "7"], ["7", "", "4"], ["7", BAD, ""], [GOOD, "7", GOOD]]
    lm = new_lm("judge")
    number = {s.chunk.strip(): i for i, s in enumerate(steps)}

    def reply(text, k):
        return votes[number[text.split("New step:\n")[1].split("\n")[0]]][k]

    sampler = fake_sampler(lm, reply)
    judgments = GenerativeJudge(context_of(lm, sampler), "judge", temperature=0.7, votes=3).judge(steps, 0)
    assert sampler.calls[0]["counts"] == [3] * 5 and sampler.calls[0]["sampling"].temperature == 0.7
    assert [j.verdict for j in judgments] == [True, False, None, False, True]  # a tie is Negative; unreadable ones do not vote
    assert judgments[0].votes == (True, True, False) and judgments[2].votes == (None, None, None)
    assert [j.analysis for j in judgments] == [GOOD, BAD, "7", BAD, GOOD]  # the first reply with the majority's verdict
    assert [j.p_positive for j in judgments] == pytest.approx([2 / 3, 1 / 2, 1 / 2, 0, 1])
    assert judgments[0].tokens == sum(len(lm.encode(text)) for text in votes[0])


def test_greedy_votes_are_refused(tiny_lm, context_of):
    with pytest.raises(ValueError, match="sample above 0"):
        GenerativeJudge(context_of(tiny_lm), None, temperature=0.0, votes=8)


def test_without_an_analysis_a_reply_begins_with_the_box(new_lm, context_of, fake_sampler, steps, request_texts):
    lm = new_lm("judge", noise=0.5)
    ends = iter(["Positive}", "Negative}", "4", "Negative}", "Positive}"])
    sampler = fake_sampler(lm, lambda text, k: next(ends))
    judge = GenerativeJudge(context_of(lm, sampler, analysis=False), "judge")
    judgments = judge.judge(steps, 0, probabilities=True)
    assert judge.beginning == BOX and GenerativeJudge(context_of(lm), "judge").beginning == ""
    assert sampler.calls[0]["prompts"] == [lm.decode(lm.chat(text, BOX)) for text in request_texts]
    assert [j.verdict for j in judgments] == [True, False, None, False, True]
    assert [j.analysis for j in judgments] == [POSITIVE, NEGATIVE, f"{BOX}4", NEGATIVE, POSITIVE]
    assert judgments[0].tokens == len(lm.encode("Positive}"))  # the beginning is not sampled
    # the probability is measured behind the box, which stands there once
    words = [lm.encode("Positive")[0], lm.encode("Negative")[0]]
    for i in (0, 1, 3, 4):
        expected = full_softmax(lm, "judge", lm.chat(request_texts[i], BOX), *words)
        assert judgments[i].p_positive == pytest.approx(expected, abs=1e-5)


def full_softmax(lm, adapter, ids, positive, negative):
    """P(positive) against P(negative) behind `ids`, from the model's plain logits."""
    with lm.using(adapter), torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([ids])).logits[0, -1]
    return logits[[positive, negative]].softmax(0)[0].item()


def test_probability_is_of_positive_at_the_last_verdict_with_the_judges_adapter(new_lm, context_of, fake_sampler, steps):
    lm = new_lm("other", "judge", noise=0.5)
    replies = [GOOD, BAD, f"{POSITIVE} The step says 4. {NEGATIVE}", "no verdict", GOOD]
    order = iter(replies)
    sampler = fake_sampler(lm, lambda text, k: next(order))
    context = context_of(lm, sampler)
    judge = GenerativeJudge(context, "judge")
    judgments = judge.judge(steps, 0, probabilities=True)
    words = [lm.encode("Positive")[0], lm.encode("Negative")[0]]
    for i, reply in enumerate(replies):
        if i == 3:
            assert judgments[i].p_positive == 0.5 and judgments[i].verdict is None
            continue
        prefix = judge.prompt(steps[i]) + lm.encode(reply)[:-2]  # the reply ends with the word and a brace
        assert judgments[i].p_positive == pytest.approx(full_softmax(lm, "judge", prefix, *words), abs=1e-5)
        others = [full_softmax(lm, adapter, prefix, *words) for adapter in (None, "other")]
        assert all(abs(judgments[i].p_positive - p) > 1e-4 for p in others)
    assert len({round(j.p_positive, 4) for j in judgments}) == 5


def test_probability_along_an_analysis(new_lm, context_of, steps):
    lm = new_lm("judge", noise=0.5)
    context = context_of(lm)
    prompt = GenerativeJudge(context, "judge").prompt(steps[0])
    reply = f"Tom has 12 apples.\n12+1=13.\nThe step says 13.\n{POSITIVE}"
    values = p_positive_along(context, "judge", prompt, reply)
    assert len(values) == 4 and len({round(v, 4) for v in values}) == 4
    assert values[-1] == pytest.approx(p_positive(context, "judge", [prompt], [reply])[0])
    assert values[0] == pytest.approx(p_positive(context, "judge", [prompt], [POSITIVE])[0])
    assert values[1] == pytest.approx(p_positive(context, "judge", [prompt], [f"Tom has 12 apples.\n{POSITIVE}"])[0])
    # without a verdict the whole text is the analysis
    assert p_positive_along(context, "judge", prompt, reply.removesuffix(POSITIVE)) == pytest.approx(values)


def test_the_line_that_announces_the_verdict_stands_before_every_verdict(bpe_lm, context_of):
    context = context_of(bpe_lm([], 257), prompts=ENGLISH)
    reply = f"It adds.\nIt holds.\n\nVerdict: {POSITIVE}"
    values = p_positive_along(context, None, [65], reply)
    texts = [f"Verdict: {POSITIVE}", f"It adds.\n\nVerdict: {POSITIVE}", reply]
    assert values == pytest.approx(p_positive(context, None, [[65]] * 3, texts))
    assert len(p_positive_along(context, None, [65], f"Verdict: {POSITIVE}")) == 1
    one_line = f"It holds. {POSITIVE}"  # verdict and analysis share a line
    values = p_positive_along(context, None, [65], one_line)
    assert values == pytest.approx(p_positive(context, None, [[65]] * 2, [POSITIVE, one_line]))


def test_probability_where_the_tokenizer_merges_across_the_brace(bpe_lm, context_of):
    lm = bpe_lm(["{Pos", "{Neg"] * 50, 263)  # it has the tokens `{Pos` and `{Neg`
    box = lm.encode(BOX)
    positive, negative = (lm.encode(f"It holds. {verdict}") for verdict in (POSITIVE, NEGATIVE))
    at = len(lm.encode("It holds. \\boxed"))
    assert lm.encode(POSITIVE)[: len(box)] != box  # the case in question: there is no token boundary behind the brace
    assert positive[:at] == negative[:at] and positive[at] != negative[at]
    replies = [f"It holds. {verdict}" for verdict in (POSITIVE, NEGATIVE)]
    prompts = [lm.chat("4+1=5"), lm.chat("4+1=6")]
    expected = [full_softmax(lm, None, prompt + positive[:at], positive[at], negative[at]) for prompt in prompts]
    assert p_positive(context_of(lm), None, prompts, replies) == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3 and abs(expected[0] - 0.5) > 1e-3


def test_two_replies_are_compared_where_they_first_differ(tiny_lm, context_of):
    context, prompt = context_of(tiny_lm), tiny_lm.chat("7")
    a, b, c = (tiny_lm.encode(word)[0] for word in ("4", "5", "6"))
    (together,) = p_first(context, None, [prompt], [([a, b, c], [a, c])])
    assert together == pytest.approx(full_softmax(tiny_lm, None, prompt + [a], b, c), abs=1e-5)
    pairs = [([a], [b]), ([c], [b])]  # each prompt may have its own two tokens
    assert p_first(context, None, [prompt] * 2, pairs) == pytest.approx(
        [full_softmax(tiny_lm, None, prompt, *pair) for pair in ((a, b), (c, b))], abs=1e-5
    )
    with pytest.raises(ValueError, match="beginning of the other"):
        p_first(context, None, [prompt], [([a], [a, b])])


def test_the_controls(steps):
    assert all(j.verdict is True and j.p_positive == 1 for j in AlwaysPositive().judge(steps, 0))
    many = RandomReject(0.2).judge(steps * 400, 3)
    assert 0.75 < sum(j.verdict for j in many) / len(many) < 0.85
    assert many == RandomReject(0.2).judge(steps * 400, 3) != RandomReject(0.2).judge(steps * 400, 4)


def test_worked_examples_stand_before_every_request():
    """One of each verdict, as earlier turns of the chat, in the order drawn for the request."""
    examples = (("JUDGE a", f"1 = 1\n{POSITIVE}"), ("JUDGE b", f"1 ≠ 2\n{NEGATIVE}"))
    prompts, lm = dataclasses.replace(PROMPTS, judge_examples=examples), FakeLM()
    judge = GenerativeJudge(JudgeContext(lm, None, prompts, 50, 100), None)
    orders = set()
    for number in range(20):
        step = LabelledStep("p", f"Q{number}?", ("h",), "c", True)
        shown = prompts.examples_for(judge.request(step))
        turns = "".join(f"{ASK}{asked}{REPLY}{reply}" for asked, reply in (*shown, (f"JUDGE Q{number}?|h|c", "")))
        assert lm.decode(judge.prompt(step)) == turns and set(shown) == set(examples)
        orders.add(shown)
    assert len(orders) == 2
