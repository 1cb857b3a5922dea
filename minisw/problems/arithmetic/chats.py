"""The text that the embedded base model is pretrained on: two endless, seeded streams of chats, read one after the other.

A chat has user and assistant turns. The first stream (`FIRST`) teaches a miniature of what a chat model can do, on stories in
the plain style: it solves problems in a *quick* style (bare results, a random layout), and apart from that it can

- do arithmetic in long hand, compare two numbers, check an isolated equation, and say what a line concludes;
- write *the next step with care* after a history in the quick style: the last fact used, the fact that is due, the
  calculation in long hand;
- put sentences into tags.

The second stream (`SECOND`) has stories in the rich style. It has bare sums in place of the small exercises, and adds what
people write when they are asked to judge a step of somebody's solution (`comments.py`). Neither holds a problem of any
split of `stories.py`.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from minisw import prompts
from minisw.problems.arithmetic import stories
from minisw.problems.arithmetic.comments import HABITS, careful_step, comment
from minisw.problems.arithmetic.longhand import compare, longhand, near_miss, random_calculation
from minisw.problems.arithmetic.stories import PLAIN, RICH, Story, Style, make_story, quick_solution, quick_step

Chat = list[tuple[str, str]]  # (user, assistant) turns


# --- chats ---------------------------------------------------------------------------------------------------------------


def solve_chat(rng: random.Random, story: Story, style: Style) -> Chat:
    """A problem and its solution in the quick style."""
    return [(prompts.ARITHMETIC.solve.format(question=story.text), "".join(quick_solution(rng, story, style)))]


def careful_chat(rng: random.Random, story: Story, style: Style) -> Chat:
    """A problem with the first steps of a solution, and the next step with care."""
    done = rng.randint(0, len(story.facts))
    history = "".join(quick_solution(rng, story, style)[:done]).strip() or "(nothing)"
    return [(prompts.CAREFUL.format(question=story.text, history=history), careful_step(story, done))]


def skills_chat(rng: random.Random, story: Story, style: Style) -> Chat:
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
            line, value = quick_step(rng, fact, style).strip(), fact.value
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


def sums_chat(rng: random.Random, story: Story, style: Style) -> Chat:
    """Ten calculations in the quick style: bare results."""
    calculations = (random_calculation(rng) for _ in range(10))
    return [(f"Say the result of {a}{operator}{b}.", f"{longhand(a, operator, b)[1]}.") for a, operator, b in calculations]


def comment_chat(rng: random.Random, story: Story, style: Style, habits: Mapping[str, float] = HABITS) -> Chat:
    """A person's comment on a step of somebody's solution; one in eight is asked for with code."""
    return [comment(rng, story, style, habits, with_code=rng.random() < 0.125)]


# --- streams -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """A stream of chats: the style of its stories, the kinds of chats with their shares, and a curriculum."""

    style: Style
    mix: tuple[tuple[Callable[[random.Random, Story, Style], Chat], float], ...]
    growth: tuple[tuple[float, tuple[int, ...]], ...]  # (until this chat, numbers of steps of its stories)


FIRST = Stream(
    PLAIN,
    ((solve_chat, 0.37), (careful_chat, 0.38), (skills_chat, 0.25)),
    ((6_000, (1, 2)), (20_000, (1, 2, 3, 4)), (float("inf"), (1, 2, 3, 4, 5, 6))),
)
SECOND = Stream(
    RICH,
    ((solve_chat, 0.16), (careful_chat, 0.22), (sums_chat, 0.14), (comment_chat, 0.48)),
    ((float("inf"), (2, 3, 4, 5, 6, 7)),),
)


def with_habits(stream: Stream, habits: Mapping[str, float]) -> Stream:
    """The same stream with other shares of the commenters' habits."""
    own = functools.partial(comment_chat, habits=habits)
    mix = tuple((own if kind is comment_chat else kind, share) for kind, share in stream.mix)
    return Stream(stream.style, mix, stream.growth)


def chats(seed: int, stream: Stream = FIRST) -> Iterator[Chat]:
    """The endless stream of chats of a seed. Stories whose text belongs to a split are left out."""
    rng = random.Random(seed)
    kinds, weights = zip(*stream.mix, strict=True)
    for number in itertools.count():
        lengths = next(steps for upto, steps in stream.growth if number < upto)
        story = make_story(rng, rng.choice(lengths), stories.TOP, style=stream.style)
        if stories.split_of(story.text) == "pretraining":
            yield rng.choices(kinds, weights)[0](rng, story, stream.style)
