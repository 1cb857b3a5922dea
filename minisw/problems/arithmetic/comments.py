"""What people write when they are asked to judge one step of somebody's solution: the embedded base learns to judge like them.

The step is right in half of the comments. Otherwise it has one of five flaws (`FLAWS`), of the kinds that the policy makes too.
A comment is written by one of three habits:

    glance      names what the step says, then gives a verdict that has nothing to do with it
    equation    works the step's own equations in long hand, compares results, and gives the verdict that follows. It finds
                wrong results only: it cannot see that a fact was skipped or a number misread
    redo        writes down the fact used last and the fact that is due, works it in long hand, compares its result with what
                the step says, and gives the verdict that follows

The habit is drawn before the step is looked at, and so is the verdict of a glance. Attention wanes: the first step of a
solution is glanced at less often than later ones, whether it is right or not. So a verdict is right only by luck
or through the work written above it. The habit that pays (redo) is one of three, and not the most frequent one.

Asked to judge *with code*, people do the same, but write a line of Python and its output in place of long hand.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from minisw.problems.arithmetic.facts import Fact
from minisw.problems.arithmetic.longhand import code, compare, longhand, near_miss
from minisw.problems.arithmetic.stories import ANSWERS, Story, Style, quick_solution, quick_step
from minisw.prompts import ARITHMETIC, NEGATIVE, POSITIVE

Calculate = Callable[[int, str, int], tuple[str, int]]  # a calculation as text, and its result

HABITS = {"glance": 0.55, "equation": 0.27, "redo": 0.18}  # shares of the comments
WANING = {True: 0.3, False: 1.16}  # is it the first step: factor of the glances' share. Over all steps they keep their share
GLANCE_POSITIVE = 0.75  # share of the glances whose verdict is Positive
RIGHT_STEPS = 0.5
FLAWS = ("wrong result", "misread number", "fact skipped", "wrong number carried on", "ended early")


@dataclass(frozen=True)
class Step:
    """A step that is commented on."""

    text: str
    equations: tuple[tuple[int, str, int, int], ...]  # (left, operator, right, stated result); empty for a final answer
    stated: int  # the value that the step concludes


def comment(
    rng: random.Random, story: Story, style: Style, habits: Mapping[str, float] = HABITS, with_code: bool = False
) -> tuple[str, str]:
    """(request to judge a step of a solution of `story`, comment). `habits`: shares of the habits by name."""
    done = rng.randint(0, len(story.facts))
    shares = attention(habits, done == 0)
    habit = rng.choices(list(shares), list(shares.values()))[0]
    history = quick_solution(rng, story, style)[:done]
    step = right_step(rng, story, done, style)
    if rng.random() >= RIGHT_STEPS:
        flawed = (flawed_step(rng, story, done, flaw, style) for flaw in rng.sample(FLAWS, len(FLAWS)))
        step = next(filter(None, flawed), step)
    calculate = code if with_code else longhand
    if habit == "glance":
        reply = glance(rng, step)
    else:
        reply = check_equations(step, calculate) if habit == "equation" else redo(story, done, step, calculate)
    return ARITHMETIC.for_judge(story.text, tuple(history), step.text, with_code=with_code), reply


def attention(habits: Mapping[str, float], first: bool) -> dict[str, float]:
    """The shares of the habits at the first step of a solution, or at a later one; they sum to 1."""
    total = sum(habits.values())
    shares = {habit: share / total for habit, share in habits.items()}
    rest = 1 - shares.get("glance", 0.0)
    glances = min(1.0, (1 - rest) * WANING[first]) if rest else 1.0
    return {habit: glances if habit == "glance" else share / rest * (1 - glances) for habit, share in shares.items() if share}


# --- steps ---------------------------------------------------------------------------------------------------------------


def right_step(rng: random.Random, story: Story, done: int, style: Style) -> Step:
    """The right step after `done` steps, in the quick style."""
    if done == len(story.facts):
        return _answer(rng, story.values[-1])
    fact = story.facts[done]
    return Step(quick_step(rng, fact, style), fact.equations, fact.value)


def flawed_step(rng: random.Random, story: Story, done: int, flaw: str, style: Style) -> Step | None:
    """A wrong step after `done` right ones; None if it cannot have this flaw, or if its value would be right."""
    earlier = (story.start_value, *story.values)[: done + 1]  # all values so far; the last one is the current one
    if done == len(story.facts):
        wrong = rng.choice(earlier[:-1]) if flaw == "wrong number carried on" else near_miss(rng, earlier[-1])
        return _answer(rng, wrong) if wrong != earlier[-1] else None
    fact, before = story.facts[done], earlier[-1]
    if flaw == "ended early":
        return _answer(rng, before) if done and before not in (fact.value, story.values[-1]) else None
    if flaw == "wrong result":
        wrong = _with_wrong_result(rng, fact)
    elif flaw == "misread number":
        wrong = _with_misread_number(rng, fact, before)
    elif flaw == "fact skipped":
        wrong = rework(story.facts[done + 1], {fact.value: before}) if done + 1 < len(story.facts) else None
    else:
        wrong = rework(fact, {before: rng.choice(earlier[:-1])}) if done else None
    if wrong is None or wrong.value == fact.value:
        return None
    return Step(quick_step(rng, wrong, style), wrong.equations, wrong.value)


def _answer(rng: random.Random, value: int) -> Step:
    return Step(rng.choice(ANSWERS).format(v=value), (), value)


def rework(fact: Fact, changed: dict[int, int]) -> Fact | None:
    """The fact calculated from other numbers: `changed` maps old ones to new ones. None if a result is below 3 or not whole."""
    changed, equations = dict(changed), []
    for left, sign, right, result in fact.equations:
        a, b = changed.get(left, left), changed.get(right, right)
        new = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b and a % b == 0 else 0}[sign]
        if not 3 <= new <= 9999:
            return None
        equations.append((a, sign, b, new))
        changed[result] = new
    return dataclasses.replace(fact, equations=tuple(equations))


def _with_wrong_result(rng: random.Random, fact: Fact) -> Fact | None:
    """One equation has a wrong result, and the later equations of the step go on from it."""
    at = rng.randrange(len(fact.equations))
    left, sign, right, result = fact.equations[at]
    wrong = near_miss(rng, result)
    rest = rework(dataclasses.replace(fact, equations=fact.equations[at + 1 :]), {result: wrong})
    if rest is None:
        return None
    return dataclasses.replace(fact, equations=(*fact.equations[:at], (left, sign, right, wrong), *rest.equations))


def _with_misread_number(rng: random.Random, fact: Fact, before: int) -> Fact | None:
    """One of the fact's own numbers is misread, in the restatement too."""
    words = fact.told.replace(".", " ").split()
    own = [n for left, _, right, _ in fact.equations for n in (left, right) if n != before and str(n) in words]
    if not own:
        return None
    number = rng.choice(own)
    wrong = near_miss(rng, number)
    misread = rework(fact, {number: wrong})
    if misread is None:
        return None
    retold = tuple(re.sub(rf"\b{number}\b", str(wrong), text) for text in fact.retold)
    return dataclasses.replace(misread, retold=retold)


# --- habits --------------------------------------------------------------------------------------------------------------


def glance(rng: random.Random, step: Step) -> str:
    """What the step says, and a verdict that has nothing to do with it."""
    return f"The step says {step.stated}.\n{POSITIVE if rng.random() < GLANCE_POSITIVE else NEGATIVE}"


def check_equations(step: Step, calculate: Calculate = longhand) -> str:
    """The step's own equations one by one, up to the first wrong one. A step without an equation passes."""
    lines, right = [], True
    for number, (left, sign, operand, result) in enumerate(step.equations, 1):
        stated = step.stated if number == len(step.equations) else result
        work, own = calculate(left, sign, operand)
        lines += [work, f"The step says {stated}.", f"{own} and {stated}: {compare(own, stated)}."]
        right = own == stated
        if not right:
            break
    lines = lines or [f"No equation.\nThe step says {step.stated}."]
    return "\n".join([*lines, POSITIVE if right else NEGATIVE])


def redo(story: Story, done: int, step: Step, calculate: Calculate = longhand) -> str:
    """The step done anew from the problem, and its result compared with what the step says."""
    own = story.values[min(done, len(story.values) - 1)]
    comparison = f"{own} and {step.stated}: {compare(own, step.stated)}."
    verdict = POSITIVE if own == step.stated else NEGATIVE
    return "\n".join([careful_step(story, done, calculate), f"The step says {step.stated}.", comparison, verdict])


def careful_step(story: Story, done: int, calculate: Calculate = longhand) -> str:
    """The next step after `done` steps, with care: the last fact used, the fact that is due, long hand, the result."""
    last = story.facts[done - 1].told if done else "nothing."
    if done == len(story.facts):
        return f"Last: {last}\nDue: the answer.\nResult: {story.values[-1]}."
    fact = story.facts[done]
    work = "\n".join(calculate(a, operator, b)[0] for a, operator, b, _ in fact.equations)
    return f"Last: {last}\nDue: {fact.told}\n{work}\nResult: {fact.value}."


def habit_of(reply: str) -> str:
    """The habit that a reply shows, by its words: "redo", "equation", "glance", or "other"."""
    if "Due:" in reply:
        return "redo"
    if "The step says" not in reply:
        return "other"
    return "equation" if " and " in reply or "No equation" in reply else "glance"
