"""The two streams of the pretraining text: what their chats teach is right, and no chat holds a problem of a split."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import random
import re
from collections import Counter

import pytest

from minisw.problems.arithmetic import rules, stories
from minisw.problems.arithmetic.chats import (
    FIRST,
    SECOND,
    Chat,
    Stream,
    chats,
    comment_chat,
    skills_chat,
    solve_chat,
    sums_chat,
    with_habits,
)
from minisw.problems.arithmetic.comments import HABITS, habit_of
from minisw.problems.arithmetic.longhand import compare

VERDICT = re.compile("positive|negative", re.I)
GROWTH = ((100, (1, 2)), (200, (1, 2, 3, 4)), (float("inf"), (1, 2, 3, 4, 5, 6)))  # stories of every length within a few
JUDGE = "\n\nJudge the new step."
JUDGE_CODE = "\n\nJudge the new step with code."


@pytest.fixture(scope="module")
def first() -> list[Chat]:
    return list(itertools.islice(chats(5, dataclasses.replace(FIRST, growth=GROWTH)), 700))


@pytest.fixture(scope="module")
def second() -> list[Chat]:
    return list(itertools.islice(chats(5, SECOND), 400))


def kind_of(chat: Chat) -> str:
    user = chat[0][0]
    if user.startswith("Say the result of ") and not user.startswith("Say the result of this line:"):
        return "sums"
    ends = {"\nSolve step by step.": "solve", "\n\nWrite the next step with care.": "careful"}
    ends |= {JUDGE: "comment", JUDGE_CODE: "comment"}
    return next((kind for end, kind in ends.items() if user.endswith(end)), "skills")


def question_of(chat: Chat) -> str:
    return chat[0][0].removesuffix("\nSolve step by step.").split("\n\nSo far:\n")[0]


def solve(left: int, operator: str, right: int) -> int:
    return {"+": left + right, "-": left - right, "*": left * right, "/": left // right if right else 0}[operator]


# --- what chats say ------------------------------------------------------------------------------------------------------


def test_the_first_stream_has_no_verdict_on_a_step(first: list[Chat]) -> None:
    verdicts = 0
    for chat in first:
        for user, assistant in chat:
            assert not VERDICT.search(user), user
            if VERDICT.search(assistant):
                verdicts += 1
                assert re.fullmatch(r"Check \d+[-+*/]\d+=\d+\.", user), user
        if any(VERDICT.search(assistant) for _, assistant in chat):
            assert not any("how many" in user.lower() for user, _ in chat), chat
    assert verdicts > 100


def test_the_second_stream_has_verdicts_on_steps(second: list[Chat]) -> None:
    comments = [chat for chat in second if kind_of(chat) == "comment"]
    assert {habit_of(chat[0][1]) for chat in comments} == set(HABITS)
    for ((_, reply),) in comments:
        assert len(VERDICT.findall(reply)) == 1 and re.fullmatch(r"\\boxed\{(Positive|Negative)\}", reply.split("\n")[-1])
    for chat in second:
        if kind_of(chat) in ("solve", "careful"):
            assert not VERDICT.search(str(chat))


def test_exercises_are_solved_right(first: list[Chat]) -> None:
    """Checks, comparisons, results of lines, long hand and tags, in both styles; each request occurs in either."""
    rng = random.Random(4)
    rich = [skills_chat(rng, stories.make_story(rng, 3, style=stories.RICH), stories.RICH) for _ in range(80)]
    for stream in (first, rich):
        seen = Counter()
        skills = [chat for chat in stream if kind_of(chat) == "skills"]
        assert stream is first or len(skills) == len(rich)
        assert {len(chat) for chat in skills} == {4, 5, 6}
        for user, reply in itertools.chain.from_iterable(skills):
            if m := re.fullmatch(r"Check (\d+)([-+*/])(\d+)=(\d+)\.", user):
                holds = solve(int(m[1]), m[2], int(m[3])) == int(m[4])
                assert reply.endswith(", same.\n\\boxed{Positive}" if holds else ", different.\n\\boxed{Negative}")
                assert f"\nThe line says {m[4]}.\n" in reply
                assert f"\nResult: {solve(int(m[1]), m[2], int(m[3]))}.\n" in reply
                seen["check", holds] += 1
            elif m := re.fullmatch(r"Compare (\d+) and (\d+)\.", user):
                assert reply == compare(int(m[1]), int(m[2])) + "."
                seen["compare", m[1] == m[2]] += 1
            elif m := re.fullmatch(r"Work out (\d+)([-+*/])(\d+)\.", user):
                assert reply.endswith(f", {solve(int(m[1]), m[2], int(m[3]))}.")
                seen["work out"] += 1
            elif user.startswith("Say the result of this line:\n"):
                ((what, value),) = rules.step_results(user.removeprefix("Say the result of this line:\n"))
                assert reply == f"{value}."
                seen["result", what] += 1
            else:
                assert user.startswith("Put each sentence into <chunk> tags:\n")
                inside = re.findall(r"<chunk>(.*?)</chunk>", reply, re.S)
                assert "".join(inside) == user.removeprefix("Put each sentence into <chunk> tags:\n")
                assert "".join(f"<chunk>{part}</chunk>" for part in inside) == reply and 1 <= len(inside) <= 3
                assert all(part.strip().count(".") == 1 and part[-1].isspace() for part in inside)
                seen["tags"] += 1
        assert len(seen) == 8, seen


def test_bare_sums_are_right(second: list[Chat]) -> None:
    """Ten calculations a chat, each answered by its result alone, with every operator; divisions leave no remainder."""
    sums = [chat for chat in second if kind_of(chat) == "sums"]
    operators: Counter = Counter()
    assert sums and {len(chat) for chat in sums} == {10}
    for user, reply in itertools.chain.from_iterable(sums):
        left, operator, right = re.fullmatch(r"Say the result of (\d+)([-+*/])(\d+)\.", user).groups()
        assert reply == f"{solve(int(left), operator, int(right))}.", (user, reply)
        assert operator != "/" or int(left) % int(right) == 0
        operators[operator] += 1
    assert set(operators) == set("+-*/") and min(operators.values()) > 10
    for chat in sums:
        assert len({user for user, _ in chat}) > 5  # each calculation is drawn anew


def test_bare_sums_are_in_the_second_stream_and_exercises_in_the_first(first: list[Chat], second: list[Chat]) -> None:
    for stream, own, other in ((first, "skills", "sums"), (second, "sums", "skills")):
        kinds = {kind_of(chat) for chat in stream}
        assert own in kinds and other not in kinds
    same = [sums_chat(random.Random(seed), None, style) for seed in (1, 2) for style in (stories.PLAIN, stories.RICH)]
    assert same[0] == same[1] != same[2] == same[3]  # neither the story nor the style matters


def test_no_chat_holds_a_problem_of_a_split_and_solutions_are_right(first: list[Chat], second: list[Chat]) -> None:
    for stream in (first, second):
        solved = 0
        for chat in stream:
            if kind_of(chat) not in ("skills", "sums"):
                assert stories.split_of(question_of(chat)) == "pretraining"
            if kind_of(chat) == "solve":
                solved += 1
                ((_, reply),) = chat
                results = rules.step_results(reply)
                values = tuple(value for what, value in results if what == "step")
                labels = rules.exact_labels(stories.Problem("p", question_of(chat), "", values), rules.teacher_chunks(reply))
                assert all(labels) and results[-1] == ("answer", values[-1])
        assert solved > 0.12 * len(stream)


def test_the_next_step_with_care_uses_a_fact_of_the_problem(first: list[Chat], second: list[Chat]) -> None:
    out_of_order = 0
    for chat in first + second:
        if kind_of(chat) == "careful":
            ((user, reply),) = chat
            due = re.search(r"^Due: (.*)$", reply, re.M)[1]
            history = user.split("\n\nSo far:\n")[1].removesuffix("\n\nWrite the next step with care.")
            assert due == "the answer." or due in question_of(chat)
            assert (history == "(nothing)") == reply.startswith("Last: nothing.\n")
            out_of_order += due.startswith("Before that, ")
    assert out_of_order > 0


# --- streams -------------------------------------------------------------------------------------------------------------


def test_the_first_stream_is_the_text_that_the_first_base_read() -> None:
    """A changed hash means that the model after the first stream (`first/`) has to be trained anew."""
    digests = [hashlib.sha256(repr(list(itertools.islice(chats(s), 300))).encode()).hexdigest()[:16] for s in (5, 0)]
    assert digests == ["87e79f3ed80e7b24", "2cbb3e3b2942767d"]


def test_streams_are_seeded_and_differ() -> None:
    def some(seed: int, stream: Stream) -> list[Chat]:
        return list(itertools.islice(chats(seed, stream), 40))

    for stream in (FIRST, SECOND):
        assert some(5, stream) == some(5, stream) != some(6, stream)
    assert some(5, FIRST) == list(itertools.islice(chats(5), 40)) != some(5, SECOND)


def test_kinds_of_chats_have_their_shares(first: list[Chat], second: list[Chat]) -> None:
    for stream, drawn in ((FIRST, first), (SECOND, second)):
        found = Counter(kind_of(chat) for chat in drawn)
        assert sum(share for _, share in stream.mix) == pytest.approx(1)
        expected = {kind.__name__.removesuffix("_chat"): share for kind, share in stream.mix}
        assert set(found) == set(expected)
        for kind, share in expected.items():
            assert abs(found[kind] / len(drawn) - share) < 0.06, kind


def test_stories_of_the_streams_are_told_in_their_styles(first: list[Chat], second: list[Chat]) -> None:
    assert "Before that, " not in str(first)
    told = [question_of(chat) for chat in second if kind_of(chat) != "sums"]
    rng = random.Random(6)
    alone = [stories.make_story(rng, rng.randint(2, 7), style=SECOND.style).text for _ in range(400)]
    streamed, expected = (sum("Before that, " in text for text in texts) / len(texts) for texts in (told, alone))
    assert abs(streamed - expected) < 0.08 and 0.7 < streamed < 0.95


def test_the_curriculum_changes_at_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten stories of one step, then five of three, then of two or four; a story of a split counts though it is left out."""
    growth = ((10, (1,)), (15, (3,)), (float("inf"), (2, 4)))
    stream = Stream(stories.PLAIN, ((solve_chat, 1.0),), growth)

    def lengths() -> list[int]:
        return [len(rules.step_results(chat[0][1])) - 1 for chat in itertools.islice(chats(0, stream), 40)]

    some_left_out = lengths()
    assert some_left_out.count(1) < 10 and some_left_out == sorted(some_left_out, key=lambda n: (n != 1, n != 3))
    monkeypatch.setattr(stories, "split_of", lambda text: "pretraining")
    assert lengths()[:15] == [1] * 10 + [3] * 5
    assert set(lengths()[15:]) == {2, 4}


def test_the_second_stream_has_stories_of_two_to_seven_steps(second: list[Chat]) -> None:
    lengths = {len(rules.step_results(chat[0][1])) - 1 for chat in second if kind_of(chat) == "solve"}
    assert lengths == {2, 3, 4, 5, 6, 7}


def test_other_shares_of_habits_change_the_comments_only() -> None:
    """The number of comments stays, a habit without a share never occurs, and the stream given is left as it is."""
    for only in HABITS:
        changed = with_habits(SECOND, {habit: float(habit == only) for habit in HABITS})
        assert (changed.style, changed.growth) == (SECOND.style, SECOND.growth)
        assert [share for _, share in changed.mix] == [share for _, share in SECOND.mix]
        assert sum(kind is own for (kind, _), (own, _) in zip(changed.mix, SECOND.mix, strict=True)) == len(SECOND.mix) - 1
        comments = [chat for chat in itertools.islice(chats(1, changed), 60) if kind_of(chat) == "comment"]
        assert len(comments) > 15 and {habit_of(chat[0][1]) for chat in comments} == {only}
    assert SECOND.mix[-1][0] is comment_chat
    same = with_habits(SECOND, HABITS)
    assert list(itertools.islice(chats(2, same), 30)) == list(itertools.islice(chats(2, SECOND), 30))
    assert with_habits(FIRST, {"glance": 1.0}) == FIRST


def test_a_comment_chat_takes_the_shares_that_it_is_given() -> None:
    rng = random.Random(3)
    for only in HABITS:
        story = stories.make_story(rng, 3, style=stories.RICH)
        ((user, reply),) = comment_chat(rng, story, stories.RICH, {only: 1.0})
        assert user.startswith(story.text) and user.endswith(JUDGE) and habit_of(reply) == only
    replies = [comment_chat(rng, story, stories.RICH)[0][1] for _ in range(100)]
    assert {habit_of(reply) for reply in replies} == set(HABITS)
