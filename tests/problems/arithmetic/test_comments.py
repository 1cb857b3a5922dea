"""Comments on steps: the steps are right or wrong as they claim, and each habit gives the verdict that its own work says."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from minisw.problems.arithmetic import comments
from minisw.problems.arithmetic.comments import (
    FLAWS,
    HABITS,
    Step,
    attention,
    careful_step,
    check_equations,
    comment,
    flawed_step,
    glance,
    habit_of,
    redo,
    rework,
    right_step,
)
from minisw.problems.arithmetic.facts import Fact
from minisw.problems.arithmetic.rules import exact_labels, mistake_kind, step_results, teacher_chunks
from minisw.problems.arithmetic.stories import PLAIN, RICH, Story, make_story, quick_solution
from minisw.prompts import ARITHMETIC, NEGATIVE, POSITIVE
from minisw.records import Problem

Case = tuple[Story, int, str, Step]  # story, steps done, flaw ("" for a right step), step


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    rng = random.Random(1)
    return [make_story(rng, 1 + i % 7, style=(RICH, RICH, PLAIN)[i % 3]) for i in range(120)]


@pytest.fixture(scope="module")
def cases(stories: list[Story]) -> list[Case]:
    """A right step and a step of every possible flaw after every number of steps of the stories."""
    rng, made = random.Random(2), []
    for story in stories:
        for done in range(len(story.facts) + 1):
            made.append((story, done, "", right_step(rng, story, done, RICH)))
            for flaw in FLAWS:
                if step := flawed_step(rng, story, done, flaw, RICH):
                    made.append((story, done, flaw, step))
    return made


def problem_of(story: Story) -> Problem:
    return Problem("p", story.text, str(story.values[-1]), story.values)


def true(left: int, sign: str, right: int, result: int) -> bool:
    return {"+": left + right, "-": left - right, "*": left * right, "/": left / right}[sign] == result


def due(story: Story, done: int) -> int:
    return (*story.values, story.values[-1])[done]


# --- steps ---------------------------------------------------------------------------------------------------------------


def test_right_steps_are_right_and_flawed_ones_wrong_by_the_exact_rules(cases: list[Case]) -> None:
    rng = random.Random(3)
    for story, done, flaw, step in cases:
        history = quick_solution(rng, story, RICH)[:done]
        assert exact_labels(problem_of(story), [*history, step.text]) == [True] * done + [not flaw], (flaw, step)
        assert (step.stated != due(story, done)) == bool(flaw)


def test_a_step_knows_what_its_text_says(cases: list[Case]) -> None:
    """Its equations are those in its text, its value is the one that the text concludes, and it is one chunk."""
    for story, done, flaw, step in cases:
        found = re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", step.text)
        assert step.equations == tuple((int(a), sign, int(b), int(c)) for a, sign, b, c in found)
        is_answer = done == len(story.facts) or flaw == "ended early"
        assert step_results(step.text) == [("answer" if is_answer else "step", step.stated)]
        assert bool(step.equations) != is_answer
        assert teacher_chunks(step.text) == [step.text]


def test_every_flaw_occurs_and_is_what_it_says(cases: list[Case]) -> None:
    """Only a wrong result makes an equation false; what the others calculate with is wrong in their own way."""
    counts = Counter((flaw, done == len(story.facts)) for story, done, flaw, _ in cases if flaw)
    assert min(counts[flaw, at_the_end] for flaw in FLAWS for at_the_end in (True, False)) >= 50
    in_order = 0
    for story, done, flaw, step in cases:
        false = [not true(*equation) for equation in step.equations]
        earlier = (story.start_value, *story.values)[: done + 1]
        if done == len(story.facts):
            assert flaw != "wrong number carried on" or step.stated in earlier[:-1]
            continue
        fact = story.facts[done]
        signs, own_signs = ([e[1] for e in some] for some in (step.equations, fact.equations))
        if flaw == "wrong result":
            assert sum(false) == 1 and signs == own_signs
            at = false.index(True)
            assert step.equations[:at] == fact.equations[:at] and step.equations[at][:3] == fact.equations[at][:3]
            if at == 0 and len(false) == 2 and story.facts[done].kind in ("twice_more", "half_more", "half_and_take"):
                assert step.equations[1][0] == step.equations[0][3]  # it goes on from the wrong result
                in_order += 1
            continue
        assert not any(false)
        if flaw == "ended early":
            assert done > 0 and step.stated == earlier[-1]
        elif flaw == "fact skipped":
            skipped = story.facts[done + 1]
            assert signs == [e[1] for e in skipped.equations] and skipped.unit in step.text
            assert any(earlier[-1] in equation for equation in step.equations)
        elif flaw == "wrong number carried on":
            assert done > 0 and signs == own_signs
            assert any(set(earlier[:-1]) & {left, right} for left, _, right, _ in step.equations)
        elif flaw == "misread number":
            assert signs == own_signs
            assert any(earlier[-1] in equation for equation in step.equations) or len(step.equations) == 2
    assert in_order > 3


def test_where_a_flaw_cannot_be_there_is_no_step(stories: list[Story]) -> None:
    rng = random.Random(4)
    for story in stories:
        end = len(story.facts)
        assert flawed_step(rng, story, 0, "ended early", RICH) is None
        assert flawed_step(rng, story, 0, "wrong number carried on", RICH) is None
        assert flawed_step(rng, story, end - 1, "fact skipped", RICH) is None
        if story.facts[0].kind == "dozen":  # it states no number but the first one
            assert flawed_step(rng, story, 0, "misread number", RICH) is None


def test_no_step_ends_early_with_the_right_answer(stories: list[Story]) -> None:
    """A value that happens to be the final one, or the next one, would make the early answer no mistake to tell from another."""
    rng = random.Random(5)
    fact = Fact("add", "Tom gets 5 more eggs.", ("Add 5.",), ((20, "+", 5, 25),), "eggs")
    back = Fact("take", "Tom loses 5 eggs.", ("Take 5.",), ((25, "-", 5, 20),), "eggs")
    story = Story("Tom has 20 eggs.", 20, "eggs", (fact, back, fact, back), "How many?", ())
    assert flawed_step(rng, story, 2, "ended early", RICH) is None  # 20 now, and 20 in the end
    assert flawed_step(rng, story, 1, "ended early", RICH) is not None
    same = Fact("times", "One times.", ("Once.",), ((25, "*", 1, 25),), "eggs")
    story = Story("Tom has 20 eggs.", 20, "eggs", (fact, same, back), "How many?", ())
    assert flawed_step(rng, story, 1, "ended early", RICH) is None  # 25 now, and 25 due
    assert flawed_step(rng, story, 2, "ended early", RICH) is not None
    for flaw in FLAWS[:4]:  # 20 carried on into 20 + 5 is the right number
        twice = Story("Tom has 20 eggs.", 20, "eggs", (fact, back), "How many?", ())
        step = flawed_step(rng, twice, 2, flaw, RICH)
        assert step is None or step.stated != 20


def test_a_misread_number_is_misread_in_the_restatement_too() -> None:
    fact = Fact("add", "Tom gets 57 more eggs.", ("Add 57.",), ((120, "+", 57, 177),), "eggs")
    story = Story("Tom has 120 eggs.", 120, "eggs", (fact,), "How many?", ())
    restated = 0
    for seed in range(60):
        step = flawed_step(random.Random(seed), story, 0, "misread number", RICH)
        if step:
            ((left, _, read, _),) = step.equations
            assert left == 120 and read != 57 and "57." not in step.text.split("=")[0]
            restated += f"Add {read}." in step.text
    assert 10 < restated < 55


def test_a_fact_worked_from_other_numbers() -> None:
    def fact(*equations: tuple[int, str, int, int]) -> Fact:
        return Fact("k", "t", ("r",), equations, "eggs")

    two = fact((20, "*", 2, 40), (40, "+", 7, 47))
    assert rework(two, {20: 30}).equations == ((30, "*", 2, 60), (60, "+", 7, 67))
    assert rework(two, {7: 9}).equations == ((20, "*", 2, 40), (40, "+", 9, 49))
    assert rework(two, {}).equations == two.equations
    numbers = {20: 30}
    rework(two, numbers)
    assert numbers == {20: 30}  # the caller's table stays as it is
    assert rework(fact((40, "-", 30, 10)), {40: 33}).value == 3
    assert rework(fact((40, "-", 30, 10)), {40: 32}) is None  # 2 is too small
    assert rework(fact((40, "*", 3, 120)), {40: 3333}).value == 9999
    assert rework(fact((40, "+", 3, 43)), {40: 9997}) is None  # 10000 is too large
    assert rework(fact((40, "/", 4, 10)), {40: 24}).value == 6
    assert rework(fact((40, "/", 4, 10)), {40: 23}) is None  # not whole
    assert rework(fact((40, "/", 4, 10)), {4: 0}) is None


# --- verdicts ------------------------------------------------------------------------------------------------------------


def test_a_glance_gives_the_same_verdict_whatever_the_step(cases: list[Case]) -> None:
    verdicts = Counter()
    for seed, (_, _, _, step) in enumerate(cases):
        reply = glance(random.Random(seed % 400), step)
        other = glance(random.Random(seed % 400), cases[0][3])
        said, verdict = reply.split("\n")
        assert said == f"The step says {step.stated}." and verdict == other.split("\n")[1]
        assert verdict in (POSITIVE, NEGATIVE) and habit_of(reply) == "glance"
        verdicts[verdict] += seed < 400
    assert abs(verdicts[POSITIVE] / 400 - comments.GLANCE_POSITIVE) < 0.06


def test_a_check_of_equations_rejects_exactly_the_steps_with_a_false_equation(cases: list[Case]) -> None:
    seen = Counter()
    for _, _, _, step in cases:
        reply, holds = check_equations(step), [true(*equation) for equation in step.equations]
        assert reply.endswith(POSITIVE if all(holds) else NEGATIVE)
        assert POSITIVE not in reply[:-20] and NEGATIVE not in reply[:-20]
        assert habit_of(reply) == "equation"
        looked_at = holds.index(False) + 1 if False in holds else len(holds)
        seen[len(holds), holds.count(False), looked_at] += 1
        assert reply.count("The step says") == max(1, looked_at)
        said = reply.split("\nThe step says ")[1:]
        for at, (left, sign, right, result) in enumerate(step.equations[:looked_at]):
            assert said[at].startswith(f"{result}.\n")
            assert f"{left}{sign}{right}: " in reply or f"{right}{sign}{left}: " in reply
        if not holds:
            assert reply == f"No equation.\nThe step says {step.stated}.\n{POSITIVE}"
    assert {(0, 0, 0), (1, 0, 1), (1, 1, 1), (2, 0, 2), (2, 1, 1), (2, 1, 2)} <= set(seen)


def test_the_last_equation_is_compared_with_the_conclusion() -> None:
    sums = ((20, "+", 5, 25), (25, "+", 7, 32))
    assert check_equations(Step("", sums, 32)).endswith(POSITIVE)
    assert check_equations(Step("", sums, 33)).endswith("32 and 33: 3=3, 2#3, different.\n" + NEGATIVE)


def test_doing_the_step_anew_accepts_exactly_the_value_that_is_due(cases: list[Case]) -> None:
    seen = Counter()
    for story, done, flaw, step in cases:
        reply, right = redo(story, done, step), step.stated == due(story, done)
        assert reply.startswith(
            careful_step(story, done) + f"\nThe step says {step.stated}.\n{due(story, done)} and {step.stated}: "
        )
        assert reply.endswith(f", same.\n{POSITIVE}" if right else f", different.\n{NEGATIVE}")
        assert habit_of(reply) == "redo"
        seen[right, done == len(story.facts)] += 1
        assert right == (not flaw)
    assert len(seen) == 4


def test_a_habit_is_known_by_its_words() -> None:
    assert habit_of("The step says 12.") == "glance"
    assert habit_of("No equation.\nThe step says 12.") == "equation"
    assert habit_of("The step says 12.\n12 and 12: 1=1, 2=2, same.") == "equation"
    assert habit_of("Last: nothing.\nDue: the answer.\nResult: 5.") == "redo"
    for text in ("", POSITIVE, "eggs and plates", "No equation.", "Result: 5."):
        assert habit_of(text) == "other"


def test_the_next_step_with_care(stories: list[Story]) -> None:
    for story in stories:
        for done, fact in enumerate(story.facts):
            text = careful_step(story, done)
            assert text.endswith(f"\nResult: {story.values[done]}.")
            assert f"Due: {fact.told}\n" in text
            assert text.startswith(f"Last: {story.facts[done - 1].told}\n" if done else "Last: nothing.\n")
            worked = re.findall(r"^(\d+)([-+*/])(\d+): .* (\d+)\.$", text, re.M)
            assert len(worked) == len(fact.equations)
            assert all(true(int(a), op, int(b), int(c)) for a, op, b, c in worked)
            assert int(worked[-1][3]) == story.values[done]
        text = careful_step(story, len(story.facts))
        assert text == f"Last: {story.facts[-1].told}\nDue: the answer.\nResult: {story.values[-1]}."


# --- comments ------------------------------------------------------------------------------------------------------------


def parts(request: str, story: Story) -> tuple[str, str]:
    """History and step of a request to judge."""
    question, rest = request.split("\n\nSo far:\n")
    history, rest = rest.split("\n\nNew step:\n")
    assert question == story.text and rest.endswith("\n\nJudge the new step.")
    return history, rest.removesuffix("\n\nJudge the new step.")


def is_right(request: str, story: Story) -> bool:
    history, step = parts(request, story)
    labels = exact_labels(problem_of(story), [history, step])
    assert labels[0]  # the history is right
    return labels[1]


def test_a_comment_says_what_its_habit_finds_in_the_step(stories: list[Story]) -> None:
    """Every reply is the one that its habit gives on the step of the request, after the history of the request."""
    seen = Counter()
    for seed, story in enumerate(stories):
        for habit in HABITS:
            request, reply = comment(random.Random(seed), story, RICH, {habit: 1.0})
            history, text = parts(request, story)
            done = len(step_results(history))
            assert history == "(nothing)" or done
            equations = tuple((int(a), s, int(b), int(c)) for a, s, b, c in re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", text))
            step = Step(text, equations, step_results(text)[0][1])
            right = is_right(request, story)
            assert right == (step.stated == due(story, done))
            assert request == ARITHMETIC.for_judge(story.text, () if not done else (history,), text)
            if habit == "redo":
                assert reply == redo(story, done, step)
            elif habit == "equation":
                assert reply == check_equations(step)
            else:
                assert reply.startswith(f"The step says {step.stated}.\n\\boxed{{")
            seen[habit, right, done == 0, done == len(story.facts)] += 1
    assert len(seen) == 3 * 2 * 3


def test_the_habit_depends_on_the_place_of_the_step_only(stories: list[Story]) -> None:
    """Stories with as many facts get the same habit from the same random numbers, whatever happens in them."""
    for seed in range(100):
        story = stories[seed % len(stories)]
        alike = [other for other in stories if len(other.facts) == len(story.facts)][:3]
        rng = random.Random(seed)
        shares = attention(HABITS, rng.randint(0, len(story.facts)) == 0)
        expected = rng.choices(list(shares), list(shares.values()))[0]
        assert {habit_of(comment(random.Random(seed), other, RICH)[1]) for other in [story, *alike]} == {expected}


def test_attention_wanes_and_habits_keep_their_shares_over_whole_solutions() -> None:
    for habits in (HABITS, {"glance": 3.0, "equation": 1.0, "redo": 1.0}, {"glance": 0.2, "equation": 0.0, "redo": 0.8}):
        total = sum(habits.values())
        first, later = attention(habits, True), attention(habits, False)
        assert sum(first.values()) == pytest.approx(1) and sum(later.values()) == pytest.approx(1)
        assert first["glance"] == pytest.approx(0.3 * habits["glance"] / total) and later["glance"] > first["glance"]
        for shares in (first, later):  # the others keep their ratio
            assert shares["redo"] * habits["equation"] == pytest.approx(shares.get("equation", 0.0) * habits["redo"])
    for habit, share in HABITS.items():  # solutions of two to seven facts have three to eight steps
        means = [(attention(HABITS, True)[habit] + n * attention(HABITS, False)[habit]) / (n + 1) for n in range(2, 8)]
        assert abs(sum(means) / len(means) - share) < 0.02
    assert attention({"glance": 1.0, "redo": 0.0}, True) == {"glance": 1.0}
    assert attention({"glance": 0.0, "redo": 0.5}, True) == {"redo": 1.0}


def test_a_comment_with_code_says_the_same_and_its_code_prints_what_it_says(stories: list[Story]) -> None:
    printed = Counter()
    for seed, story in enumerate(stories):
        request, reply = comment(random.Random(seed), story, RICH)
        with_code, other = comment(random.Random(seed), story, RICH, with_code=True)
        assert with_code == request.replace("Judge the new step.", "Judge the new step with code.")
        assert habit_of(other) == habit_of(reply) and other.splitlines()[-1] == reply.splitlines()[-1]
        lines = other.splitlines()
        for line, output in zip(lines, lines[1:], strict=False):
            if call := re.fullmatch(r"print\((\d+)(\+|-|\*|//)(\d+)\)", line):
                left, sign, right = int(call[1]), call[2], int(call[3])
                value = {"+": left + right, "-": left - right, "*": left * right, "//": left // right}[sign]
                assert output == f"Output: {value}"
                printed[sign] += 1
        assert not re.search(r"^\d+[-+*/]\d+: ", other, re.M)  # no long hand
    assert len(printed) == 4


def test_a_habit_without_a_share_never_occurs(stories: list[Story]) -> None:
    rng = random.Random(6)
    for left_out in HABITS:
        habits = {habit: 0.0 if habit == left_out else 0.5 for habit in HABITS}
        found = Counter(habit_of(comment(rng, story, RICH, habits)[1]) for story in stories)
        assert set(found) == set(HABITS) - {left_out}
        assert min(found.values()) > 0.33 * len(stories)


@pytest.mark.slow
def test_habits_have_their_shares_and_say_nothing_about_the_step() -> None:
    """Half of the steps are right, whatever the habit; so are half of the steps that a glance accepts, or rejects."""
    rng = random.Random(7)
    stories = [make_story(rng, rng.randint(2, 7), style=RICH) for _ in range(400)]
    seen = Counter()
    count = 4000
    for i in range(count):
        story = stories[i % len(stories)]
        request, reply = comment(rng, story, RICH)
        seen[habit_of(reply), is_right(request, story), reply.endswith(POSITIVE)] += 1

    def total(habit: str | None = None, right: bool | None = None, positive: bool | None = None) -> int:
        asked = (habit, right, positive)
        return sum(n for key, n in seen.items() if all(a is None or a == k for a, k in zip(asked, key, strict=True)))

    assert abs(total(right=True) / count - comments.RIGHT_STEPS) < 0.03
    for habit, share in HABITS.items():
        assert abs(total(habit) / count - share) < 0.03
        assert abs(total(habit, right=True) / total(habit) - comments.RIGHT_STEPS) < 0.06
    for right in (True, False):
        assert abs(total("glance", right, True) / total("glance", right) - comments.GLANCE_POSITIVE) < 0.04
    for right in (True, False):  # redo is always right, a check of equations only when it accepts a right step or finds a slip
        assert total("redo", right, not right) == 0
    assert total("equation", True, False) == 0
    assert 0.1 < total("equation", False, False) / total("equation", False) < 0.6


def test_all_kinds_of_mistake_that_the_report_counts_are_commented_on(cases: list[Case]) -> None:
    rng, kinds = random.Random(8), set()
    for story, done, flaw, step in cases:
        if flaw:
            history = quick_solution(rng, story, RICH)[:done]
            kinds.add(mistake_kind(problem_of(story), [*history, step.text], done))
    assert {"arithmetic", "steps left out at the end", "wrong answer copied", "wrong number carried on"} <= kinds
    assert any(kind.startswith("fact skipped") for kind in kinds)
