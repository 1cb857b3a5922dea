"""Prompts: what the judge and the classifier see of a step."""

import pytest
from fakes import PROMPTS
from transformers import PreTrainedTokenizerFast

from minisw.problems.short_stories import exact_labels, teacher_chunks
from minisw.prompts import ARITHMETIC, BY_NAME, ENGLISH, EQUATIONS, NEGATIVE, POSITIVE, STORIES
from minisw.recipe import embedded_folder
from minisw.records import Problem
from minisw.verdicts import parse_verdict
from minisw.verify.answers import final_answer, verify


def test_the_judge_sees_problem_history_and_new_chunk():
    history = ("First, 1+2=3.\n\n", "Then 3+4=7. ")
    assert PROMPTS.for_judge("Q?", history, "So 7.\n") == "JUDGE Q?|First, 1+2=3.\n\nThen 3+4=7.|So 7."
    assert PROMPTS.for_judge("Q?", history, "So 7.\n", discriminative=True).startswith("CLASSIFY Q?|First, ")


@pytest.mark.parametrize("history", [(), ("\n",)])
def test_an_empty_history_is_written_out(history):
    assert PROMPTS.for_judge("Q?", history, "So 7.") == "JUDGE Q?|(nothing)|So 7."


def test_a_judge_may_be_asked_for_code():
    message = ARITHMETIC.for_judge("Q?", ("1+2=3. ",), "So 3.")
    with_code = ARITHMETIC.for_judge("Q?", ("1+2=3. ",), "So 3.", with_code=True)
    assert message.endswith("Judge the new step.") and with_code == message.removesuffix(".") + " with code."
    message = ENGLISH.for_judge("THE-QUESTION", ("THE-HISTORY",), "THE-CHUNK", with_code=True)
    parts = ("THE-QUESTION", "THE-HISTORY", "THE-CHUNK", "analyse", "Python", "print(", "Output:", POSITIVE, NEGATIVE)
    assert [message.index(part) for part in parts] == sorted(message.index(part) for part in parts)
    assert message.startswith(ENGLISH.for_judge("THE-QUESTION", ("THE-HISTORY",), "THE-CHUNK").split("First analyse")[0])
    with pytest.raises(ValueError, match="these prompts cannot ask for code: fill in their field `judge_with_code`"):
        PROMPTS.for_judge("Q?", (), "So 7.", with_code=True)


@pytest.mark.parametrize("prompts", [ENGLISH, ARITHMETIC])
def test_every_set_fills_in_all_parts(prompts):
    for discriminative in (False, True):
        message = prompts.for_judge("THE-QUESTION", ("THE-HISTORY",), "THE-CHUNK", discriminative)
        assert message.index("THE-QUESTION") < message.index("THE-HISTORY") < message.index("THE-CHUNK")
    for template in (prompts.solve, prompts.solve_chunked):
        assert "THE-QUESTION" in template.format(question="THE-QUESTION")
    assert prompts.segment.format(text="THE-TEXT").endswith("THE-TEXT")
    assert prompts in BY_NAME.values()


def test_the_english_set_asks_for_tags_boxes_and_an_analysis_first():
    assert "<chunk> and </chunk>" in ENGLISH.solve_chunked and "<chunk>" not in ENGLISH.solve
    assert "\\boxed{}" in ENGLISH.solve.format(question="") and "\\boxed{}" in ENGLISH.solve_chunked.format(question="")
    message = ENGLISH.for_judge("", (), "")
    assert message.index("analyse") < message.index("\\boxed{Positive}") < message.index("\\boxed{Negative}")


def test_only_the_english_set_asks_for_a_better_solution():
    assert ARITHMETIC.refine == "" == PROMPTS.refine
    parts = ("THE-REQUEST", "THE-SOLUTION", "THE-CHUNK", "THE-ANALYSIS")
    message = ENGLISH.refine.format(**dict(zip(("solve", "solution", "chunk", "analysis"), parts, strict=True)))
    assert sorted(map(message.index, parts)) == list(map(message.index, parts))


def test_the_verifier_sees_the_problem_and_all_steps_with_their_numbers():
    steps = ("First, 1+2=3.\n\n", "Then 3+4=7. ")
    assert ARITHMETIC.for_verifier("Q?", steps) == (
        "Q?\n\nSo far:\nNow step 1:\nFirst, 1+2=3.\nNow step 2:\nThen 3+4=7.\n\nJudge each step."
    )
    message = ENGLISH.for_verifier("Q?", steps)
    assert "Problem:\nQ?\n\nSolution so far:\nStep 1:\nFirst, 1+2=3.\nStep 2:\nThen 3+4=7.\n\n" in message
    assert message.index(POSITIVE) < message.index(NEGATIVE) < message.index(f'"{ENGLISH.verify_question}" and answer yes or no')
    assert "Q {x}" in ENGLISH.for_verifier("Q {x}", ("{y}",)) and "{y}" in ENGLISH.for_verifier("Q {x}", ("{y}",))


def test_prompts_without_a_request_to_verify_are_refused():
    with pytest.raises(ValueError, match="cannot ask to verify a solution: fill in their field `verify`"):
        PROMPTS.for_verifier("Q?", ("So 7.",))


def test_the_embedded_vocabulary_has_every_word_of_the_arithmetic_set():
    """Templates are encoded as they are, with the names of their fields: a vocabulary built anew gets no other words."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(embedded_folder() / "tokenizer.json"))
    unknown = tokenizer.convert_tokens_to_ids("<unk>")
    for name, text in [(name, text) for name, text in vars(ARITHMETIC).items() if text]:
        for written in (text, f"\n{text}", f" {text}"):
            ids = tokenizer.encode(written, add_special_tokens=False)
            assert unknown not in ids and tokenizer.decode(ids) == written, name
    yes, no = (tokenizer.encode(f"{ARITHMETIC.verify_question} {word}") for word in (ARITHMETIC.verify_yes, ARITHMETIC.verify_no))
    assert yes[:-1] == no[:-1] and yes[-1] != no[-1]  # the last token decides


@pytest.mark.parametrize("prompts", [ENGLISH, ARITHMETIC])
def test_the_words_of_a_chain_are_lines_that_cannot_be_taken_for_each_other(prompts):
    words = [prompts.verify_step, prompts.verify_question, prompts.verify_again]
    assert all(word.strip() == word != "" and "\n" not in word for word in words)
    assert not any(a in b for a in words for b in words if a is not b)
    assert prompts.verify_yes != prompts.verify_no and prompts.verify_question.endswith("?")


def test_one_example_of_each_verdict_stands_before_a_request():
    shown = {request: STORIES.examples_for(request) for request in (f"request {n}" for n in range(60))}
    for examples in shown.values():
        assert len(examples) == 2 and set(examples) <= set(STORIES.judge_examples)
        assert sorted(NEGATIVE in reply for _, reply in examples) == [False, True]
    assert shown == {request: STORIES.examples_for(request) for request in shown}  # the same for the same request
    first = [NEGATIVE in examples[0][1] for examples in shown.values()]
    assert 15 < sum(first) < 45  # either verdict may stand last
    assert {example for examples in shown.values() for example in examples} == set(STORIES.judge_examples)
    assert ENGLISH.examples_for("request 1") == ()


@pytest.mark.parametrize("prompts", [EQUATIONS, STORIES])
def test_examples_are_asked_as_a_step_is_and_end_with_what_they_find(prompts):
    for request, reply in prompts.judge_examples:
        asked, last = prompts.for_judge("Q", (), "C"), reply.splitlines()[-2]
        assert request.startswith(asked[: asked.index("Q")] if "Q" in asked else asked[: asked.index("C")])
        left, sign, right = last.split()
        assert (left == right) == (sign == "=") == (POSITIVE in reply) and sign in "=≠"
        assert parse_verdict(reply) is (left == right)


def test_examples_of_stories_solve_their_question():
    for question, solution in STORIES.solve_examples:
        values = [int(line.split("=")[1]) for line in solution.splitlines() if "=" in line]
        problem = Problem("example", question, str(values[-1]), tuple(values))
        assert exact_labels(problem, teacher_chunks(solution)) == [True] * (len(values) + 1)
        assert verify(problem.answer, final_answer(solution))
