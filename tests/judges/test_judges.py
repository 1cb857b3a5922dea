"""Verdicts, the label filter, the classifier's score."""

import pytest

from minisw.engine.model import copy_adapter
from minisw.engine.requests import Completion
from minisw.engine.sampler import Sampler
from minisw.judges.base import JudgeContext
from minisw.judges.discriminative import DiscriminativeJudge
from minisw.judges.elicited import chain
from minisw.judges.generative import GenerativeJudge
from minisw.judges.rejection_sampled import right_examples, sample_replies
from minisw.problems import load_task
from minisw.recipe import ProblemKnobs
from minisw.records import LabelledStep
from minisw.verdicts import parse_verdict

P, N = "The step says 4. \\boxed{Positive}", "The step says 4. \\boxed{Negative}"
STEPS = [LabelledStep("p", "Tom has 12 apples.", ("Add 3. ",) * n, f"12+{n}=1{n}. ", n % 2 == 0) for n in range(4)]


@pytest.fixture(scope="module")
def task():
    return load_task(ProblemKnobs())


@pytest.fixture(scope="module")
def context(tiny_lm, task):
    return JudgeContext(tiny_lm, Sampler(tiny_lm), task.prompts, 4, 4096)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("…\n\\boxed{Positive}", True),
        ("\\boxed{Negative}", False),
        ("\\boxed{Positive} no: \\boxed{Negative}", False),
        ("Positive", None),
        ("", None),
    ],
)
def test_parse_verdict(reply, verdict):
    assert parse_verdict(reply) is verdict


def test_only_replies_that_agree_with_the_label_are_taught_and_sides_are_even(tiny_lm, task, context):
    replies = [[P, N], [N], ["no", ""], [P]]
    assert [s.label for s in STEPS] == [True, False, True, False]
    examples = right_examples(context, STEPS, replies)
    texts = [tiny_lm.decode(e.completion) for e in examples]
    assert sorted(texts) == sorted([N, P])
    assert all(e.completion[-1] == tiny_lm.tokenizer.eos_token_id for e in examples)


def test_the_smaller_side_is_repeated(tiny_lm, task, context):
    replies = [[P] * 3, [N], [P] * 2, [""]]
    texts = [tiny_lm.decode(e.completion) for e in right_examples(context, STEPS, replies)]
    assert len(texts) == 10 and texts.count(N) == 5
    only = right_examples(context, STEPS, [[P], [""], [""], [""]])
    assert len(only) == 1  # one side alone stays as it is


def test_the_judge_sees_no_label(tiny_lm, task, context):
    judge = GenerativeJudge(context, None)
    other = [LabelledStep(s.problem_id, s.question, s.history, s.chunk, not s.label) for s in STEPS]
    assert [judge.prompt(s) for s in STEPS] == [judge.prompt(s) for s in other]


class Scripted:
    def __init__(self, lm, groups):
        self.lm, self.groups = lm, groups

    def generate(self, requests, sampling, seed, progress=None):
        return [[Completion(self.lm.encode(text), True) for text in group] for group in self.groups]


def test_votes_and_probabilities(tiny_lm, task, context):
    groups = [
        ["\\boxed{Positive}", "\\boxed{Positive}", "\\boxed{Negative}"],
        ["\\boxed{Positive}", "\\boxed{Negative}"],
        ["?", ""],
        ["?", "\\boxed{Negative}"],
    ]
    judge = GenerativeJudge(JudgeContext(tiny_lm, Scripted(tiny_lm, groups), task.prompts, 4, 4096), None, votes=3)
    judgments = judge.judge(STEPS, 0, probabilities=True)
    assert [j.verdict for j in judgments] == [True, False, None, False]
    assert [len(j.votes) for j in judgments] == [3, 2, 2, 2]
    assert all(0 <= j.p_positive <= 1 for j in judgments) and judgments[2].p_positive == 0.5


def test_classifier_scores_plus_against_minus(tiny_lm, task, context):
    judge = DiscriminativeJudge(context, None)
    judgments = judge.judge(STEPS)
    assert all(j.verdict is (j.p_positive >= 0.5) for j in judgments) and len({j.p_positive for j in judgments}) > 1
    one_by_one = [judge.judge([s])[0].p_positive for s in STEPS]
    assert [j.p_positive for j in judgments] == pytest.approx(one_by_one, abs=1e-5)


def test_a_copied_adapter_judges_alike_and_goes_its_own_way(new_lm):
    lm = new_lm("start", "judge", noise=0.05)
    copy_adapter(lm, "start", "judge")
    start, judge = lm.adapter_parameters("start"), lm.adapter_parameters("judge")
    pairs = [(p, judge[key.replace(".start.", ".judge.")]) for key, p in start.items()]
    assert all((a == b).all() for a, b in pairs)
    pairs[0][1].data += 1
    assert (pairs[0][0] != pairs[0][1]).all()


class Letters:
    """A stand-in for a model whose tokens are letters."""

    encode = staticmethod(lambda text: [ord(c) for c in text])
    decode = staticmethod(lambda ids: "".join(map(chr, ids)))
    chat = encode


def test_a_base_that_ends_without_a_verdict_is_asked_for_it():
    """The last line is begun where an ended reply has no verdict; one cut short, or with a verdict, stays as it is."""
    said = ["Fine. \\boxed{Negative}", "It holds.\nVerdict: Positive", "It fails.", "cut sho"]
    asked = []

    class Base:
        def generate(self, requests, sampling, seed):
            asked.append(requests)
            if len(asked) == 1:
                return [[Completion(Letters.encode(text), text != said[3]) for text in said]]
            return [[Completion(Letters.encode("Positive}"), True)] for _ in requests]

    english = load_task(ProblemKnobs(source="gsm8k", prompts="english"))
    context = JudgeContext(Letters, Base(), english.prompts, 160, 4096)
    (replies,) = sample_replies(context, STEPS[:1], 4, 0, in_parts=False)
    ended = ["It holds.\n\nVerdict: \\boxed{Positive}", "It fails.\n\nVerdict: \\boxed{Positive}"]
    assert replies == [said[0], *ended, said[3]] and [parse_verdict(r) for r in replies] == [False, True, True, None]
    prompt = asked[0][0].ids
    assert [Letters.decode(r.ids[len(prompt) :]) for r in asked[1]] == [text.removesuffix("Positive}") for text in ended]


def test_the_chain_puts_the_bases_own_words_together(tiny_lm):
    replies = iter([[["Last: a.\nDue: b.\nResult: 15."], ["?"]], [["15."], ["12."]], [["1=1, 5=5, same."], ["nonsense"]]])

    class Sampling:
        def generate(self, requests, sampling, seed):
            return [[Completion(tiny_lm.encode(text), True) for text in group] for group in next(replies)]

    out = chain(tiny_lm, Sampling(), STEPS[:2], 1, 0)
    assert (
        out[0][0].endswith("\n15 and 15: 1=1, 5=5, same.\n\\boxed{Positive}")
        and out[0][0].startswith("Last: a.")
        and out[1] == [""]
    )
