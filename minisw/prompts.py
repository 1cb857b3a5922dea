"""All prompts: user messages for the solver, the teacher of segmentation, the judge and the classifier.

A `Prompts` holds the messages of one set; the chat template around them comes from the model's tokenizer. The English set
follows StepWiser's description (§3.1, §3.3) in our own words. The arithmetic set is short because the embedded model knows only
a few words.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

OPEN, CLOSE = "<chunk>", "</chunk>"
BOX, POSITIVE, NEGATIVE = "\\boxed{", "\\boxed{Positive}", "\\boxed{Negative}"
VERDICT = f"\n\nVerdict: {BOX}"  # the beginning of the last line of a judge's reply
PLUS, MINUS = "+", "-"  # the two replies of the discriminative baseline


@dataclass(frozen=True)
class Prompts:
    """User messages as format strings.

    `solve`, `solve_chunked`: {question}. `segment`, `segment_numbered`: {text}; the latter is empty if the model cannot be asked
    for paragraph numbers. `judge`, `classify`, `judge_with_code`: {question}, {history}, {chunk}; the last one asks for checks in
    Python (judges/code_checks.py), and is empty if the model cannot be asked for them.
    `refine`: {solve} (the request to solve the problem), {solution}, {chunk}, {analysis}; empty if the model cannot be asked for
    a better solution. `verify`: {question}, {text}; the fields after it are the words of the chain that answers it
    (judges/chains.py).
    """

    solve: str
    solve_chunked: str
    segment: str
    judge: str
    classify: str
    segment_numbered: str = ""
    refine: str = ""
    judge_with_code: str = ""
    verify: str = ""  # empty if the model cannot be asked to verify a whole solution
    verify_step: str = "Step"  # with a number and a colon it heads each step, in the request and in the chain
    verify_question: str = "Is the solution correct?"  # ends the chain; one line
    verify_yes: str = "yes"
    verify_no: str = "no"
    verify_again: str = "Let me check again."  # between one chain and the next
    judge_examples: tuple[tuple[str, str], ...] = ()  # requests to judge with good replies; two are shown before each request
    solve_examples: tuple[tuple[str, str], ...] = ()  # questions with solutions, shown to the base before each question

    def for_judge(
        self, question: str, history: tuple[str, ...], chunk: str, discriminative: bool = False, with_code: bool = False
    ) -> str:
        """Problem, historical reasoning path and new chunk (StepWiser §3.3) as one user message.

        An empty history is written as "(nothing)". `discriminative` takes the classifier's template, `with_code` that of a judge
        who checks with code. Raises ValueError if this set has no such template.
        """
        template = self.classify if discriminative else self.judge_with_code if with_code else self.judge
        if not template:
            raise ValueError("these prompts cannot ask for code: fill in their field `judge_with_code`")
        return template.format(question=question, history="".join(history).strip() or "(nothing)", chunk=chunk.strip())

    def examples_for(self, request: str) -> tuple[tuple[str, str], ...]:
        """The worked examples that stand before a request to judge: one of each verdict; none if this set has none.

        Which ones, and in which order, is drawn for each request: a small model copies the verdict of the last example, and a
        fixed order would decide for it.
        """
        examples, shown = list(self.judge_examples), {}
        random.Random(request).shuffle(examples)
        for asked, reply in examples:
            shown.setdefault(NEGATIVE in reply, (asked, reply))
        return tuple(shown.values())

    def for_verifier(self, question: str, chunks: Sequence[str]) -> str:
        """A problem and all steps of a solution so far, numbered from 1, as one user message (ThinkPRM).

        Raises ValueError if this set cannot ask for a verification.
        """
        if not self.verify:
            raise ValueError("these prompts cannot ask to verify a solution: fill in their field `verify`")
        return self.verify.format(question=question, text=self.numbered(chunks))

    def numbered(self, texts: Sequence[str]) -> str:
        """The texts one below the other, each under a line "Step 1:", "Step 2:", … in the words of this set."""
        return "\n".join(f"{self.verify_step} {number}:\n{text.strip()}" for number, text in enumerate(texts, 1))


_TEACHER = (  # the beginning of both requests to judge a step in English
    "You are a teacher who checks one step of a solution to a mathematics problem. Do not solve the problem.\n\n"
    "Problem:\n{question}\n\nReasoning so far:\n{history}\n\nNew step to check:\n{chunk}\n\n"
)
_VERDICT = "\\boxed{{Positive}} if the new step is right, \\boxed{{Negative}} if it has an error.\n"

ENGLISH = Prompts(
    solve="{question}\n\nSolve the problem step by step, in words, without code. Then give the final answer in \\boxed{{}}.",
    solve_chunked=(
        "{question}\n\nSolve the problem step by step, in words, without code. Put every part of your reasoning into <chunk> "
        "and </chunk> tags, one complete logical step in each. Then give the final answer in \\boxed{{}}."
    ),
    segment=(
        "Below is a solution to a mathematics problem. Cut it into chunks, each one complete logical step.\n"
        "- Unified purpose: a chunk has one objective, such as setting up an equation, doing one self-contained "
        "calculation, or stating a conclusion.\n"
        "- Logical cohesion: a chunk flows without interruption; a new focus starts a new chunk.\n"
        "- Clear transition: going over from solving to checking, or to an aside, starts a new chunk.\n"
        "Copy the text exactly, with every character and line break, and only add tags: put each chunk between <chunk> "
        "and </chunk>, with nothing outside the tags.\n\nSolution:\n{text}"
    ),
    segment_numbered=(
        "Below is a solution to a mathematics problem, with its paragraphs numbered. Group the paragraphs into steps, each one "
        "complete piece of reasoning. Which paragraphs begin a new step? Reply with their numbers only, separated by commas."
        "\n\n{text}"
    ),
    judge=(
        f"{_TEACHER}"
        "First analyse the new step in a few sentences: what is its goal, do its logic, method and calculation hold, and "
        f"why? Then give your verdict: {_VERDICT}"
        "Reply in this form:\nAnalysis: (your sentences)\nVerdict: \\boxed{{Positive}} or \\boxed{{Negative}}"
    ),
    classify=(
        "Problem:\n{question}\n\nReasoning so far:\n{history}\n\nNew step:\n{chunk}\n\n"
        "Is the new step right? Reply with + or - only."
    ),
    refine=(
        "{solve}\n\nThis is an earlier solution:\n{solution}\n\nA teacher found a mistake in this step of it:\n{chunk}\n\n"
        "The teacher's analysis:\n{analysis}\n\n"
        "Write a new, complete solution without this mistake, in the form asked for above."
    ),
    judge_with_code=(
        f"{_TEACHER}"
        "First analyse the new step in a few sentences: what is its goal, and do its logic and method hold? Then check its "
        "calculation with Python: write one line that prints a result, such as print(652 // 2), and the word Output: below it. "
        "The line is run, and what it prints is filled in for you. Say what follows from it, and check more if you need to. "
        f"Then give your verdict: {_VERDICT}"
        "Reply in this form:\nAnalysis: (your sentences)\nprint(...)\nOutput: (filled in for you)\n"
        "Verdict: \\boxed{{Positive}} or \\boxed{{Negative}}"
    ),
    verify=(
        "You are a teacher who checks a solution to a mathematics problem, step by step. Do not solve the problem.\n\n"
        "Problem:\n{question}\n\nSolution so far:\n{text}\n\n"
        "Check the steps in their order. For each one repeat the line with its number and analyse it in a few sentences: "
        "what is its goal, do its logic, method and calculation hold, and why? Then give its verdict: \\boxed{{Positive}} "
        "if the step is right, \\boxed{{Negative}} if it has an error. Stop after the first wrong step. At the end write "
        '"Is the solution correct?" and answer yes or no.'
    ),
)


_STEP = "{question}\n\nSo far:\n{history}\n\nNew step:\n{chunk}\n\n"
ARITHMETIC = Prompts(
    solve="{question}\nSolve step by step.",
    solve_chunked="{question}\nSolve step by step.",
    segment="Put each step into <chunk> tags:\n{text}",
    judge=f"{_STEP}Judge the new step.",
    classify=f"{_STEP}Is the new step right?",
    judge_with_code=f"{_STEP}Judge the new step with code.",
    verify="{question}\n\nSo far:\n{text}\n\nJudge each step.",
    verify_step="Now step",
    verify_question="Is each step right?",
    verify_yes="+",
    verify_no="-",
    verify_again="Check every step twice.",
)


_LINE = "Check this line: {chunk}"
EQUATIONS = Prompts(
    solve="{question}",
    solve_chunked="{question}",
    segment="{text}",
    judge=_LINE,
    classify=f"{_LINE}\nIs it right? Reply with + or - only.",
    judge_examples=(
        ("Check this line: 27 + 45 = 72", f"27 + 45 = 72\n72 = 72\n{POSITIVE}"),
        ("Check this line: 63 - 28 = 45", f"63 - 28 = 35\n35 ≠ 45\n{NEGATIVE}"),
    ),
)


_CHECK = "{question}\n\nLines so far:\n{history}\n\nCheck the next line:\n{chunk}"
_LENA = "Lena has 25 cards. Lena buys 13 more cards. Then Lena loses 16 cards. How many cards does Lena have at last?"
_EVA = (
    "Max owns 18 stones. Eva has 3 times as many stones as Max. Eva packs the stones into bags of 6. "
    "How many bags are there in the end?"
)
_BY_LINES = "{question}\nWrite one calculation for each step, one a line."


def _check(question: str, history: str, chunk: str, reply: str) -> tuple[str, str]:
    return _CHECK.format(question=question, history=history, chunk=chunk), reply


STORIES = Prompts(
    solve=_BY_LINES,
    solve_chunked=f"{_BY_LINES} Put each line into <chunk> and </chunk>.",
    segment="{text}",
    judge=_CHECK,
    classify=f"{_CHECK}\n\nIs it right? Reply with + or - only.",
    judge_examples=(
        _check(_LENA, "25 + 13 = 38", "38 - 16 = 22", f"38 - 16 = 22\n22 = 22\n{POSITIVE}"),
        _check(_LENA, "25 + 13 = 38\n38 - 16 = 22", "The answer is \\boxed{22}.", f"The last value is 22\n22 = 22\n{POSITIVE}"),
        _check(_EVA, "(nothing)", "18 * 3 = 54", f"18 * 3 = 54\n54 = 54\n{POSITIVE}"),
        _check(_LENA, "25 + 13 = 38", "38 - 16 = 32", f"38 - 16 = 22\n22 ≠ 32\n{NEGATIVE}"),
        _check(_EVA, "18 * 3 = 54", "54 * 6 = 324", f"54 / 6 = 9\n9 ≠ 324\n{NEGATIVE}"),
        _check(_EVA, "18 * 3 = 54", "The answer is \\boxed{54}.", f"54 / 6 = 9\n9 ≠ 54\n{NEGATIVE}"),
    ),
    solve_examples=(
        (_BY_LINES.format(question=_LENA), "25 + 13 = 38\n38 - 16 = 22\nThe answer is \\boxed{22}."),
        (_BY_LINES.format(question=_EVA), "18 * 3 = 54\n54 / 6 = 9\nThe answer is \\boxed{9}."),
    ),
)


# Requests of the embedded model's pretraining text (problems/arithmetic/chats.py); no judge uses them.
CAREFUL = "{question}\n\nSo far:\n{history}\n\nWrite the next step with care."
RESULT = "Say the result of this line:\n{chunk}"
COMPARE = "Compare {left} and {right}."

BY_NAME = {"english": ENGLISH, "arithmetic": ARITHMETIC, "equations": EQUATIONS, "stories": STORIES}
