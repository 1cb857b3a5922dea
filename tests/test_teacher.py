"""The teacher's segmentations: by rules, by copies with tags, and by paragraph numbers."""

import random

import pytest
from fakes import PROMPTS, FakeLM, FakeSampler, fake_task

from minisw import chunks, teacher
from minisw.policy import Policy
from minisw.problems import load_task
from minisw.problems.arithmetic import stories
from minisw.recipe import PolicyKnobs, ProblemKnobs, SegmentKnobs

TEXTS = ["Add 3.\n\nThen 4.", "One one.\nTwo.\nThree.\nFour."]


def base_with(script) -> Policy:
    lm = FakeLM("policy")
    return Policy(lm, FakeSampler(lm, script), PROMPTS, PolicyKnobs(temperature=0.7), None)


def test_rules_give_one_chunk_per_step_of_a_story():
    rng = random.Random(1)
    texts = ["".join(stories.quick_solution(rng, stories.make_story(rng, 4))) for _ in range(20)]
    base = base_with(None)
    offers = teacher.segmentations(base, load_task(ProblemKnobs()), texts, SegmentKnobs(teacher="rules", tries=3), 0)
    assert not base.sampler.calls and all(len(offer) == 1 for offer in offers)
    segmentations = [offer[0] for offer in offers]
    assert all("".join(parts) == text and len(parts) == 5 for parts, text in zip(segmentations, texts, strict=True))
    blank = [len(chunks.split_blank_lines(text)) for text in texts]
    assert sum(map(len, segmentations)) < 0.8 * sum(blank)  # fewer chunks than blank lines give: something to learn


def test_rules_go_through_the_filter_too():
    task = fake_task({}, teacher=lambda text: text.split("\n"))
    assert teacher.segmentations(base_with(None), task, ["a\nb", "c"], SegmentKnobs(teacher="rules"), 0) == [[], [["c"]]]


def test_blank_lines_cut_at_every_blank_line_without_the_model():
    base = base_with(None)
    offers = teacher.segmentations(base, fake_task({}), TEXTS, SegmentKnobs(teacher="blank_lines", tries=3), 0)
    assert offers == [[["Add 3.\n\n", "Then 4."]], [[TEXTS[1]]]] and not base.sampler.calls


def test_a_prompted_teacher_copies_each_text_at_the_policys_temperature():
    replies = {"Add 3.": "Add 3.</chunk><chunk>Then 4.</chunk>", "One ": "One one. Two.</chunk>\n<chunk>Three. Four.</chunk>"}
    base = base_with(lambda text, sample: next(reply for start, reply in replies.items() if start in text))
    offers = teacher.segmentations(base, fake_task({}), TEXTS, SegmentKnobs(teacher="prompted", tries=2), 6)
    assert offers == [[["Add 3.\n\n", "Then 4."]], [["One one.\nTwo.\n", "Three.\nFour."]]]
    (call,) = base.sampler.calls
    assert call.adapter is None and call.seed == 6 and call.counts == [2, 2]
    assert call.texts == [f"<user>SEGMENT {text}<reply><chunk>" for text in TEXTS]
    assert call.sampling.temperature == 0.7
    assert call.sampling.max_new_tokens > 1.5 * max(map(len, TEXTS))  # room for a copy with tags


def test_a_numbered_teacher_lists_the_units_that_begin_a_chunk():
    base = base_with(lambda text, sample: " 2, 3" if "One" in text else " 2")
    offers = teacher.segmentations(base, fake_task({}), TEXTS, SegmentKnobs(teacher="numbered", tries=1), 6)
    assert offers == [[["Add 3.\n\n", "Then 4."]], [["One one.\n", "Two.\n", "Three.\nFour."]]]
    (call,) = base.sampler.calls
    assert call.adapter is None and call.seed == 6 and call.sampling.temperature == 0.7
    assert call.texts == [
        "<user>NUMBER [1] Add 3.\n\n[2] Then 4.<reply>1,",
        "<user>NUMBER [1] One one.\n[2] Two.\n[3] Three.\n[4] Four.<reply>1,",
    ]


def test_every_distinct_valid_segmentation_of_all_tries_is_used():
    copies = [
        "Add 3. Then 4.</chunk>",
        "Add 5.</chunk><chunk>Then 4.</chunk>",  # not faithful
        "Add 3.</chunk><chunk>Then 4.</chunk>",
        "Add 3.  </chunk>\n<chunk>Then 4.</chunk>",  # the same segmentation again
        "Add</chunk><chunk>3. Then 4.</chunk>",
    ]
    base = base_with(lambda text, sample: copies[sample])
    (offer,) = teacher.segmentations(base, fake_task({}), TEXTS[:1], SegmentKnobs(teacher="prompted", tries=5), 0)
    assert offer == [["Add 3.\n\nThen 4."], ["Add 3.\n\n", "Then 4."], ["Add ", "3.\n\nThen 4."]]


def test_a_missing_teacher_is_an_error_that_names_the_knob():
    numberless = fake_task({}, prompts=load_task(ProblemKnobs()).prompts)
    for task, source, remedy in ((fake_task({}), "rules", "prompted or numbered"), (numberless, "numbered", "prompted")):
        with pytest.raises(ValueError, match=f"--segment.teacher {remedy}") as caught:
            teacher.segmentations(base_with(None), task, TEXTS, SegmentKnobs(teacher=source), 0)
        assert "\n" not in str(caught.value)
