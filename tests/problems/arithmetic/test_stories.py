"""The embedded task: its stories, its splits, and its exact rules."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import random
import re
from collections import Counter

import pytest

from minisw.problems.arithmetic.facts import CONTAINERS, KINDS, ONE_CALCULATION, THINGS, Now, make_fact
from minisw.problems.arithmetic.rules import exact_labels, mistake_kind, sentences, step_results, teacher_chunks
from minisw.problems.arithmetic.stories import (
    ANSWERS,
    BEFORE,
    NAMES,
    PLAIN,
    RICH,
    SMALLEST,
    SPLITS,
    TOP,
    Story,
    load_split,
    make_story,
    quick_solution,
    quick_step,
    split_of,
)
from minisw.records import Problem


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    """Stories as the base reads them, and the harder ones of the splits."""
    rng = random.Random(1)
    easy = [make_story(rng, rng.randint(1, 8), TOP) for _ in range(400)]
    return easy + [make_story(rng, rng.randint(2, 8), TOP) for _ in range(200)]


@pytest.fixture(scope="module")
def rich() -> list[Story]:
    rng = random.Random(11)
    return [make_story(rng, 1 + i % 7, TOP, style=RICH) for i in range(250)]


def problem_of(story: Story) -> Problem:
    return Problem("p", story.text, str(story.values[-1]), story.values)


def true(left: int, operator: str, right: int, result: int) -> bool:
    if operator == "/":
        return right != 0 and left % right == 0 and left // right == result
    return {"+": left + right, "-": left - right, "*": left * right}[operator] == result


def test_equations_are_true_and_chain(stories: list[Story], rich: list[Story]) -> None:
    for story in stories + rich:
        before = story.start_value
        for fact in story.facts:
            assert all(true(*parts) for parts in fact.equations), fact
            assert before in {parts[0] for parts in fact.equations}, fact
            results = [parts[3] for parts in fact.equations]
            for result in results[:-1]:  # what an equation before the last one found is used by the last one
                assert result in fact.equations[-1][:3:2], fact
            assert 3 <= fact.value <= TOP and all(3 <= result <= TOP for result in results)
            before = fact.value
        assert story.values[-1] == before


def test_stories_are_told_whole_and_in_order(stories: list[Story]) -> None:
    for story in stories:
        told = iter(story.sentences)
        assert all(fact.told in told for fact in story.facts)  # in this order; one sentence may occur twice
        assert story.sentences[0] == story.start
        assert str(story.start_value) in story.start
        assert story.text.endswith(story.question) and story.facts[-1].unit in story.question
        assert len(story.sentences) - len(story.facts) in ((0, 1) if story.facts[0].kind == "dozen" else (1, 2))


def test_many_kinds_occur(stories: list[Story], rich: list[Story]) -> None:
    kinds = [fact.kind for story in stories for fact in story.facts]
    assert set(kinds) == {*ONE_CALCULATION, "dozen"}
    assert {fact.kind for story in rich for fact in story.facts} | {"quarters"} == {*KINDS, "dozen"}  # quarters are rare
    common = {kind for kind in set(kinds) if kinds.count(kind) >= 10}
    assert len(common) >= 10, sorted(set(kinds))
    assert any(len(fact.equations) == 2 for story in stories for fact in story.facts)


def test_what_is_added_or_taken_is_not_tiny(stories: list[Story], rich: list[Story]) -> None:
    facts = [fact for story in stories + rich for fact in story.facts]
    amounts = [fact.equations[-1][2] for fact in facts if fact.kind in ("add", "take", "twice_more")]
    assert min(amounts) >= SMALLEST and len(amounts) > 100


def test_problems_of_the_splits_are_told_out_of_order_with_sentences_that_do_not_matter() -> None:
    for split in SPLITS:
        problems = load_split(split, 60)
        assert sum(BEFORE in p.question for p in problems) > 40
        lengths = Counter(len(p.reference) for p in problems)
        assert set(lengths) <= set(SPLITS[split][1]) and len(lengths) == len(SPLITS[split][1])
        extra = [len(sentences(p.question)) - 2 - len(p.reference) for p in problems]  # neither the start nor the question
        assert max(extra) >= 3 and sum(extra) / len(extra) > 1.5


def test_number_of_steps() -> None:
    rng = random.Random(3)
    assert all(len(make_story(rng, steps, style=style).facts) == steps for steps in range(1, 9) for style in (PLAIN, RICH))


# --- the rich style ------------------------------------------------------------------------------------------------------


def distractors_of(story: Story) -> list[str]:
    told = {story.start, *(fact.told for fact in story.facts)}
    return [sentence for sentence in story.sentences if sentence not in told]


def test_every_fact_is_told_once(stories: list[Story], rich: list[Story]) -> None:
    """The sentences are the start, each fact once, and what does not matter. A fact's sentence occurs once in the text.

    In few stories two facts have the same words ("Tom sells half of the eggs." and, later, again); their sentence occurs twice.
    """
    repeated = 0
    for story in stories + rich:
        facts = Counter(fact.told for fact in story.facts if fact.kind != "dozen")
        words = Counter(fact.told.removeprefix(BEFORE).lower() for fact in story.facts)
        repeated += max(words.values()) > 1
        assert Counter(story.sentences) == Counter([story.start]) + facts + Counter(distractors_of(story))
        for told, times in facts.items():
            assert story.text.count(told) == times or words[told.lower()] > times
        assert not (story.facts[0].kind == "dozen" and story.facts[0].told != story.start)
    assert repeated < 0.02 * len(stories + rich)


def test_a_fact_told_late_comes_right_after_the_fact_that_follows_it(rich: list[Story]) -> None:
    """With the sentences that do not matter left out, the pairs put back in order give the facts in the order of solving.

    In the story itself no sentence stands between the two. As many facts are late as the style's chance of a pair says: a pair
    told out of order takes two facts, so that none of it is in the next pair.
    """

    def expected(n: int) -> float:
        return RICH.swapped * (1 + expected(n - 2)) + (1 - RICH.swapped) * expected(n - 1) if n > 1 else 0.0

    expected_late = sum(expected(sum(fact.kind != "dozen" for fact in story.facts)) for story in rich)
    late = 0
    for story in rich:
        others = distractors_of(story)
        told = [sentence for sentence in story.sentences[1:] if sentence not in others]
        order = [fact.told for fact in story.facts if fact.kind != "dozen"]
        for earlier, sentence in itertools.pairwise(story.sentences):
            if sentence.startswith(BEFORE):  # directly after the fact that follows it
                at = next(i for i, fact in enumerate(story.facts) if fact.told == sentence)
                assert earlier == story.facts[at + 1].told
        for i, sentence in enumerate(told):
            if sentence.startswith(BEFORE):
                assert i > 0 and not told[i - 1].startswith(BEFORE)
                told[i - 1 : i + 1] = told[i - 1 : i + 1][::-1]
                late += 1
        assert told == order
    assert abs(late / expected_late - 1) < 0.15, (late, expected_late)
    assert any(story.sentences[-1].startswith(BEFORE) for story in rich)
    assert any(story.sentences[2:3] and story.sentences[2].startswith(BEFORE) for story in rich)  # the first fact is told late


def test_before_that_follows_the_fact_that_it_refers_to(rich: list[Story]) -> None:
    for story in rich:
        assert not story.sentences[0].startswith(BEFORE)
        others = distractors_of(story)
        for earlier, sentence in zip(story.sentences, story.sentences[1:], strict=False):
            if sentence.startswith(BEFORE):
                assert earlier not in others and earlier != story.start
        for sentence in story.sentences:  # names keep their capital, other words lose it
            after = sentence.removeprefix(BEFORE)
            if after != sentence:
                assert after.split()[0] in NAMES or after.startswith(("the ", "each ")), sentence
            assert BEFORE not in after


def test_every_pair_is_told_out_of_order_if_the_style_says_so() -> None:
    rng = random.Random(12)
    always = dataclasses.replace(RICH, kinds=("pack", "hold", "share", "add", "take"), swapped=1.0)
    firsts = Counter()
    for i in range(100):
        story = make_story(rng, 2 + i % 5, style=always)
        facts = [fact for fact in story.facts if fact.kind != "dozen"]
        late = [fact.told.startswith(BEFORE) for fact in facts]
        assert late == [k % 2 == 0 and k + 1 < len(facts) for k in range(len(facts))]  # every pair from the first on
        firsts.update(fact.told.split()[2] for fact in facts if fact.told.startswith(BEFORE))
    assert {"the", "each"} < set(firsts) and set(firsts) - {"the", "each"} <= set(NAMES)


def test_the_plain_style_is_in_order(stories: list[Story]) -> None:
    assert not any(BEFORE in story.text for story in stories)
    assert not any(re.fullmatch(r"\w+ has \d+ \w+\.", sentence) for story in stories for sentence in distractors_of(story))


FOREIGN = re.compile(r"(\w+) has (\d+) (\w+)\.")


def test_somebody_outside_the_story_shares_no_name_and_no_thing_with_it(rich: list[Story]) -> None:
    foreign = []
    for story in rich:
        for sentence in distractors_of(story):
            if match := FOREIGN.fullmatch(sentence):
                name, number, thing = match.groups()
                rest = " ".join(s for s in (*story.sentences, story.question) if s != sentence)
                assert name in NAMES and thing in THINGS and thing not in CONTAINERS and 12 <= int(number) <= 299
                assert name not in rest.replace(",", "").replace(".", "").split()
                assert not re.search(rf"\b{thing[:-1]}s?\b", rest), story.text
                foreign.append(sentence)
    assert len({FOREIGN.fullmatch(sentence)[1] for sentence in foreign}) > 12


def test_sentences_that_do_not_matter_have_their_shares(rich: list[Story]) -> None:
    counts = Counter(len(distractors_of(story)) for story in rich)
    for number in range(len(RICH.distractors) + 1):  # each sentence is drawn by itself
        drawn = itertools.product((True, False), repeat=len(RICH.distractors))
        expected = sum(
            math.prod(p if there else 1 - p for p, there in zip(RICH.distractors, some, strict=True))
            for some in drawn
            if sum(some) == number
        )
        assert counts[number] > 0 and abs(counts[number] / len(rich) - expected) < 0.08, number
    assert max(counts) == len(RICH.distractors)
    sentences = [sentence for story in rich for sentence in distractors_of(story)]
    assert abs(sum(bool(FOREIGN.fullmatch(sentence)) for sentence in sentences) / len(sentences) - RICH.foreign) < 0.1
    places = {story.sentences.index(s) - len(story.sentences) for story in rich for s in distractors_of(story)}
    assert -1 in places and len(places) > 5  # at the end too
    assert all(story.sentences[0] == story.start for story in rich)


def test_a_style_says_how_often(rich: list[Story]) -> None:
    rng = random.Random(13)

    def some(**changes: object) -> list[Story]:
        return [make_story(rng, 4, style=dataclasses.replace(RICH, **changes)) for _ in range(30)]

    assert not any(distractors_of(story) for story in some(distractors=()))
    assert all(len(distractors_of(story)) == 3 for story in some(distractors=(1.0, 0.0, 1.0, 1.0)))
    everything = some(distractors=(1.0,), foreign=1.0)
    assert all(FOREIGN.fullmatch(distractors_of(story)[0]) for story in everything)
    assert not any(FOREIGN.fullmatch(distractors_of(story)[0]) for story in some(distractors=(1.0,), foreign=0.0))
    assert {fact.kind for story in some(kinds=("add", "take")) for fact in story.facts} <= {"add", "take", "dozen"}


def test_steps_restate_their_fact_as_often_as_the_style_says(rich: list[Story]) -> None:
    rng = random.Random(14)
    facts = [fact for story in rich for fact in story.facts]
    for share in (0.0, 0.5, 1.0):
        style = dataclasses.replace(RICH, retold=share)
        restated = sum(quick_step(rng, fact, style).startswith(fact.retold) for fact in facts)
        assert abs(restated / len(facts) - share) < (0.06 if share == 0.5 else 1e-9)
    plain = sum(quick_step(rng, fact).startswith(fact.retold) for fact in facts) / len(facts)
    assert abs(plain - PLAIN.retold) < 0.06
    always = dataclasses.replace(RICH, retold=1.0)
    for story in rich[:40]:
        chunks = quick_solution(rng, story, always)
        assert all(chunk.startswith(fact.retold) for chunk, fact in zip(chunks, story.facts, strict=False))


def now(v: int, **changes: object) -> Now:
    return dataclasses.replace(Now(v, "eggs", "Tom", "Anna", 20, 4, 999), **changes)


@pytest.mark.parametrize(
    ("name", "fits", "too_far"),
    [
        ("give_each", now(70), now(69)),
        ("twice_more", now(489), now(490)),  # 2 · 489 + 20 = 998
        ("half_more", now(20), now(18)),
        ("half_more", now(22), now(23)),
        ("half_more", now(98, top=69), now(100, top=69)),  # 50 + 20 = 70
        ("half_and_take", now(60), now(58)),  # 30 - 20 = 10
        ("half_and_take", now(62), now(63)),
    ],
)
def test_kinds_with_two_calculations_fit_within_bounds(name: str, fits: Now, too_far: Now) -> None:
    made = [make_fact(random.Random(seed), fits, name) for seed in range(20)]
    assert all(made) and {len(fact.equations) for fact, _ in made} == {2}
    assert not any(make_fact(random.Random(seed), too_far, name) for seed in range(20))


def test_what_kinds_with_two_calculations_do() -> None:
    def worked(name: str, v: int) -> tuple[tuple, str, str]:
        fact, holder = make_fact(random.Random(0), now(v), name)
        return fact.equations, holder, fact.told

    assert worked("twice_more", 30) == (
        ((30, "*", 2, 60), (60, "+", 20, 80)),
        "Anna",
        "Anna has 20 more than twice as many eggs as Tom.",
    )
    assert worked("half_more", 30) == (
        ((30, "/", 2, 15), (15, "+", 20, 35)),
        "Anna",
        "Anna has 20 more than half as many eggs as Tom.",
    )
    assert worked("half_and_take", 80) == (
        ((80, "/", 2, 40), (40, "-", 20, 20)),
        "Tom",
        "Tom sells half of the eggs and loses 20 more.",
    )
    for seed in range(100):
        fact, holder = make_fact(random.Random(seed), now(70 + seed), "give_each")
        (n, sign, s, given), (v, minus, taken, left) = fact.equations
        assert (sign, minus, v, taken, holder) == ("*", "-", 70 + seed, given, "Tom")
        assert 3 <= n <= 5 and 6 <= s < (70 + seed) // 6 and left == 70 + seed - n * s > 10
        assert re.fullmatch(rf"Tom gives {s} eggs to each of {n} (friends|children|pupils|neighbors)\.", fact.told)


def test_the_kinds_of_the_plain_style_come_first() -> None:
    assert ONE_CALCULATION == tuple(KINDS)[: len(ONE_CALCULATION)] == PLAIN.kinds and RICH.kinds == tuple(KINDS)
    assert set(KINDS) - set(ONE_CALCULATION) == {"give_each", "twice_more", "half_more", "half_and_take"}


# --- splits ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_splits_are_seeded_and_disjoint() -> None:
    by_split = {split: load_split(split, 60) for split in SPLITS}
    for split, problems in by_split.items():
        lengths = set(SPLITS[split][1])
        assert problems == load_split(split, 60)
        assert problems[:20] == load_split(split, 20)
        assert problems != load_split(split, 60, seed=1)
        assert all(split_of(problem.question) == split for problem in problems)
        assert {len(problem.reference) for problem in problems} == lengths
        assert all(problem.answer == str(problem.reference[-1]) for problem in problems)
        assert len({problem.id for problem in problems}) == 60
    texts = [problem.question for problems in by_split.values() for problem in problems]
    assert len(set(texts)) == len(texts) == 240


def test_most_texts_are_for_pretraining(stories: list[Story]) -> None:
    places = [split_of(story.text) for story in stories]
    assert set(places) == {"pretraining", *SPLITS}
    assert places == [split_of(story.text) for story in stories]
    assert 0.5 < places.count("pretraining") / len(places) < 0.7


@pytest.mark.slow
def test_problem_sets_stay_the_same_across_versions() -> None:
    """A changed hash means that results of other versions are on other problems."""

    def digest(split: str, seed: int) -> str:
        return hashlib.sha256(repr(load_split(split, 60, seed)).encode()).hexdigest()[:16]

    assert [digest("train", 0), digest("test", 0), digest("test", 1), digest("hard", 2)] == [
        "ef732f3f72dbfdd1",
        "597c0f64469421e5",
        "a5c0304b5eb1c98e",
        "ca757ac035a53e29",
    ]


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        load_split("dev", 1)


@pytest.mark.parametrize("count", [-1, 1_000_001, 100_000_000_000])
def test_a_count_that_cannot_be_generated_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"cannot generate {count} problems: ask for at most 1000000 \(--problems.train\)$"):
        load_split("train", count)


# --- solutions and their segmentation ------------------------------------------------------------------------------------


def test_reference_solutions_are_right(stories: list[Story], rich: list[Story]) -> None:
    rng = random.Random(4)
    for story in stories + rich:
        chunks = quick_solution(rng, story, RICH if story in rich else PLAIN)
        assert len(chunks) == len(story.facts) + 1
        assert exact_labels(problem_of(story), chunks) == [True] * len(chunks)
        assert teacher_chunks("".join(chunks)) == chunks
        found = [result for chunk in chunks for result in step_results(chunk)]
        assert found == [("step", value) for value in story.values] + [("answer", story.values[-1])]


def test_teacher_chunks_lose_nothing(stories: list[Story]) -> None:
    rng = random.Random(5)
    pieces = [
        "So now 12 eggs.",
        "12 eggs",
        ".",
        "?",
        "!",
        "\n\n",
        "\n",
        " ",
        "",
        "3.5",
        "3+4=7.",
        "The answer is \\boxed{7}.",
        "<chunk>",
        "</chunk>",
        "ü",
        "\\boxed{",
        "So it is",
        "Now there are 5 marbles. ",
        "\t",
        "\r\n",
        "...",
    ]
    for _ in range(3000):
        text = "".join(rng.choice(pieces) for _ in range(rng.randint(0, 12)))
        assert "".join(teacher_chunks(text)) == text
        assert "".join(sentences(text)) == text
    for story in stories:
        text = "".join(quick_solution(rng, story))
        cut = text[: rng.randint(0, len(text))]  # a solution that was cut off
        assert "".join(teacher_chunks(cut)) == cut


def test_layout_leaves_fragments(stories: list[Story]) -> None:
    """Splitting at blank lines gives more and other pieces than the steps, many of which conclude nothing."""
    rng = random.Random(6)
    pieces = fragments = steps = same = 0
    for story in stories:
        chunks = quick_solution(rng, story)
        split = [piece for piece in "".join(chunks).split("\n\n") if piece.strip()]
        pieces += len(split)
        steps += len(chunks)
        fragments += sum(not step_results(piece) for piece in split)
        same += [piece.strip() for piece in split] == [chunk.strip() for chunk in chunks]
    assert pieces > 1.2 * steps
    assert fragments > 0.3 * pieces
    assert same < 0.1 * len(stories)


# --- planted mistakes ----------------------------------------------------------------------------------------------------

# Tom has 10 apples. +5 → 15, *2 → 30, -8 → 22, /2 → 11
PROBLEM = Problem("p", "…", "11", (15, 30, 22, 11))
RIGHT = [
    "10+5=15. So now 15 apples.\n\n",
    "Double it.\n\n15*2=30.\nThat makes 30 apples. ",
    "30-8=22. So it is 22 apples.\n",
    "22/2=11. Now there are 11 apples.\n\n",
    "The answer is \\boxed{11}.",
]


def labels(*chunks: str) -> list[bool]:
    return exact_labels(PROBLEM, chunks)


def test_right_by_hand() -> None:
    assert labels(*RIGHT) == [True] * 5
    assert labels("Let me think. ", *RIGHT) == [True] * 6  # a chunk that concludes nothing
    assert labels("".join(RIGHT[:2]), *RIGHT[2:]) == [True] * 4  # two steps in one chunk
    assert labels("".join(RIGHT)) == [True]
    assert labels() == []


def test_wrong_arithmetic_carried_on() -> None:
    wrong = [
        RIGHT[0],
        "15*2=32. That makes 32 apples.",
        "32-8=24. So it is 24 apples.",
        "24/2=12. Now there are 12 apples.",
        "The answer is \\boxed{12}.",
    ]
    assert labels(*wrong) == [True, False, False, False, False]
    assert mistake_kind(PROBLEM, wrong, 1) == "arithmetic"
    assert labels("10+5=16. So now 16 apples.", *wrong[1:])[0] is False
    false_equation = [*RIGHT[:2], "30-8=23. So it is 22 apples.", *RIGHT[3:]]  # the conclusion alone is right
    assert labels(*false_equation) == [True, True, False, False, False]


def test_every_operator_is_checked() -> None:
    for wrong in ("2+2=5.", "9-3=5.", "3*4=13.", "9/3=4.", "10/3=3.", "5/0=0."):
        assert labels(wrong) == [False], wrong
    for right in ("2+2=4.", "9-3=6.", "3*4=12.", "9/3=3."):
        assert labels(right) == [True], right


def test_skipped_fact() -> None:
    skipped = [RIGHT[0], "15-8=7. So it is 7 apples.", "7*2=14. So now 14 apples.", "The answer is \\boxed{14}."]
    assert labels(*skipped) == [True, False, False, False]
    jumped = [RIGHT[0], *RIGHT[2:]]  # it copies the right value of the step after next
    assert labels(*jumped) == [True, False, False, False]
    assert mistake_kind(PROBLEM, jumped, 1) == "fact skipped"


def test_missing_last_step() -> None:
    missing = [*RIGHT[:3], "The answer is \\boxed{22}."]
    assert labels(*missing) == [True, True, True, False]
    assert labels(*RIGHT[:3], RIGHT[4]) == [True, True, True, False]  # not even with the right answer
    assert mistake_kind(PROBLEM, missing, 3) == "steps left out at the end"


def test_wrong_final_answer() -> None:
    wrong = [*RIGHT[:4], "So the answer is \\boxed{10}."]
    assert labels(*wrong) == [True, True, True, True, False]
    assert mistake_kind(PROBLEM, wrong, 4) == "wrong answer copied"


def test_repeated_and_superfluous_steps() -> None:
    assert labels(RIGHT[0], *RIGHT) == [True, False, False, False, False, False]
    extra = [*RIGHT[:4], "11+1=12. So now 12 apples.", "The answer is \\boxed{12}."]
    assert labels(*extra) == [True] * 4 + [False, False]
    assert mistake_kind(PROBLEM, extra, 4) == "a step too many"


def test_mistakes_planted_in_stories(stories: list[Story]) -> None:
    rng = random.Random(7)
    for story in stories:
        problem, chunks = problem_of(story), quick_solution(rng, story)
        n = len(chunks) - 1
        at = rng.randrange(n)
        expected = [index < at for index in range(n + 1)]
        value = str(story.values[at])
        miss = [*chunks[:at], chunks[at].replace(f" {value} ", f" {int(value) + 1} "), *chunks[at + 1 :]]  # the conclusion only
        if miss[at] != chunks[at]:
            assert exact_labels(problem, miss) == expected
        assert exact_labels(problem, chunks[:at] + chunks[at + 1 :]) == expected[:-1]
        answer = rng.choice(ANSWERS).format(v=story.values[-1] + 1)
        assert exact_labels(problem, [*chunks[:-1], answer]) == [True] * n + [False]
        assert exact_labels(problem, [*chunks[: n - 1], chunks[-1]]) == [True] * (n - 1) + [False]
