"""The text that the embedded base model is pretrained on: an endless, seeded stream of chats.

A chat has user and assistant turns, and teaches a miniature of what a chat model can do: it solves problems in a *quick*
style (bare results, a random layout), and apart from that it can

- do arithmetic in long hand, compare two numbers, check an isolated equation, and say what a line concludes;
- write *the next step with care* after a history in the quick style: the last fact used, the fact that is due, the
  calculation in long hand;
- put sentences into tags.

The stream contains **no step of a solution with a verdict on it**, and no problem of any split of `stories.py`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from minisw import prompts
from minisw.problems.arithmetic import stories
from minisw.problems.arithmetic.stories import Story, make_story, quick_solution, quick_step

Chat = list[tuple[str, str]]  # (user, assistant) turns


# --- skills --------------------------------------------------------------------------------------------------------------


def longhand(left: int, operator: str, right: int) -> tuple[str, int]:
    """`left operator right` calculated in long hand; returns (text, result).

    Addition and subtraction start at the last digit, with columns `a+b+carry=…` and `a-b-borrow=…` (10 is added to a where it
    has to borrow). Multiplication is digit by number, division digit by digit with the remainder.
    """
    columns = []
    if operator == "+":
        a, b, carry = str(left)[::-1], str(right)[::-1], 0
        for i in range(max(len(a), len(b))):
            x, y = int(a[i : i + 1] or 0), int(b[i : i + 1] or 0)
            columns.append(f"{x}+{y}+{carry}={x + y + carry}")
            carry = (x + y + carry) // 10
        result = left + right
    elif operator == "-":
        a, b, borrow = str(left)[::-1], str(right)[::-1], 0
        for i in range(len(a)):
            x, y = int(a[i]), int(b[i : i + 1] or 0)
            lent = 10 if x - y - borrow < 0 else 0
            columns.append(f"{x + lent}-{y}-{borrow}={x + lent - y - borrow}")
            borrow = 1 if lent else 0
        result = left - right
    elif operator == "*":
        if left <= 12 < right:  # the digits of the longer number make the columns
            left, right = right, left
        carry = 0
        for digit in str(left)[::-1]:
            columns.append(f"{digit}*{right}+{carry}={int(digit) * right + carry}")
            carry = (int(digit) * right + carry) // 10
        result = left * right
    else:
        rest = 0
        for digit in str(left):
            whole, new = divmod(rest * 10 + int(digit), right)
            columns.append(f"{rest * 10 + int(digit)}={whole}*{right}+{new}")
            rest = new
        result = left // right
    return f"{left}{operator}{right}: {', '.join(columns)}, {result}.", result


def compare(left: int, right: int) -> str:
    """Two numbers digit by digit from the left, up to the first difference: "4=4, 2#7, different"."""
    a, b, parts = str(left), str(right), []
    for i in range(max(len(a), len(b))):
        x, y = a[i : i + 1] or "end", b[i : i + 1] or "end"
        parts.append(f"{x}={y}" if x == y else f"{x}#{y}")
        if x != y:
            return ", ".join(parts) + ", different"
    return ", ".join(parts) + ", same"


def careful_step(story: Story, done: int) -> str:
    """The next step after `done` steps, with care: the last fact used, the fact that is due, long hand, the result."""
    last = story.facts[done - 1].told if done else "nothing."
    if done == len(story.facts):
        return f"Last: {last}\nDue: the answer.\nResult: {story.values[-1]}."
    fact = story.facts[done]
    work = "\n".join(longhand(a, operator, b)[0] for a, operator, b, _ in fact.equations)
    return f"Last: {last}\nDue: {fact.told}\n{work}\nResult: {fact.value}."


def random_calculation(rng: random.Random, top: int = 999) -> tuple[int, str, int]:
    """A calculation (left, operator, right) whose result is a whole number in 3…`top`."""
    operator = rng.choice("+-*/")
    if operator == "+":
        a = rng.randint(3, top - 3)
        return a, operator, rng.randint(3, top - a)
    if operator == "-":
        a = rng.randint(13, top)
        return a, operator, rng.randint(3, a - 3)
    k = rng.choice((2, 3, 4, 5, 6, 7, 8, 9, 12))
    q = rng.randint(3, top // k)
    return (q, operator, k) if operator == "*" else (q * k, operator, k)


def near_miss(rng: random.Random, value: int) -> int:
    """A plausible wrong result: one digit changed, two digits swapped, or another number."""
    digits = list(str(value))
    while True:
        how = rng.random()
        new = digits.copy()
        if how < 0.6:
            i = rng.randrange(len(new))
            new[i] = str((int(new[i]) + rng.choice((-2, -1, 1, 2))) % 10)
        elif how < 0.75 and len(new) > 1:
            i = rng.randrange(len(new) - 1)
            new[i], new[i + 1] = new[i + 1], new[i]
        else:
            new = list(str(rng.randint(3, 999)))
        if new != digits and new[0] != "0":
            return int("".join(new))


# --- chats ---------------------------------------------------------------------------------------------------------------


def solve_chat(rng: random.Random, story: Story) -> Chat:
    """A problem and its solution in the quick style."""
    return [(prompts.ARITHMETIC.solve.format(question=story.text), "".join(quick_solution(rng, story)))]


def careful_chat(rng: random.Random, story: Story) -> Chat:
    """A problem with the first steps of a solution, and the next step with care."""
    done = rng.randint(0, len(story.facts))
    history = "".join(quick_solution(rng, story)[:done]).strip() or "(nothing)"
    return [(prompts.CAREFUL.format(question=story.text, history=history), careful_step(story, done))]


def skills_chat(rng: random.Random, story: Story) -> Chat:
    """Four to six small exercises in a row."""
    chat: Chat = []
    for _ in range(rng.randint(4, 6)):
        kind = rng.random()
        a, operator, b = random_calculation(rng)
        work, result = longhand(a, operator, b)
        stated = result if rng.random() < 0.5 else near_miss(rng, result)
        if kind < 0.25:
            chat.append((f"Work out {a}{operator}{b}.", work))
        elif kind < 0.50:
            chat.append((prompts.COMPARE.format(left=result, right=stated), compare(result, stated) + "."))
        elif kind < 0.83:
            verdict = prompts.POSITIVE if stated == result else prompts.NEGATIVE
            compared = f"{result} and {stated}: {compare(result, stated)}."
            reply = f"{work}\nResult: {result}.\nThe line says {stated}.\n{compared}\n{verdict}"
            chat.append((f"Check {a}{operator}{b}={stated}.", reply))
        elif kind < 0.95:
            fact = rng.choice(story.facts)
            line, value = quick_step(rng, fact).strip(), fact.value
            if rng.random() < 0.3:
                value = story.values[-1]
                line = rng.choice(stories.ANSWERS).format(v=value)
            chat.append((prompts.RESULT.format(chunk=line), f"{value}."))
        else:
            parts = [s + rng.choice((" ", "\n", "\n\n")) for s in rng.sample(story.sentences, min(3, len(story.sentences)))]
            chat.append(
                (
                    "Put each sentence into <chunk> tags:\n" + "".join(parts),
                    "".join(f"{prompts.OPEN}{part}{prompts.CLOSE}" for part in parts),
                )
            )
    return chat


MIX = ((solve_chat, 0.37), (careful_chat, 0.38), (skills_chat, 0.25))  # kinds of chats and their shares
# A curriculum: (until this chat, numbers of steps of its stories); None is the rest of the stream.
GROWTH = ((6_000, (1, 2)), (20_000, (1, 2, 3, 4)), (None, (1, 2, 3, 4, 5, 6)))


def chats(seed: int) -> Iterator[Chat]:
    """The endless stream of chats of a seed. Stories whose text belongs to a split are left out."""
    rng = random.Random(seed)
    kinds, weights = zip(*MIX, strict=True)
    for number in itertools.count():
        lengths = next(steps for upto, steps in GROWTH if upto is None or number < upto)
        story = make_story(rng, rng.choice(lengths), stories.TOP)
        if stories.split_of(story.text) == "pretraining":
            yield rng.choices(kinds, weights)[0](rng, story)
