"""Solutions unlike ours, as students might write them, have all points: relations ask for nothing beyond the handouts."""

import pytest

from minisw.course import grade
from minisw.course.assignments import all_assignments
from minisw.course.skeleton import student_file
from minisw.verify.sandbox import missing_layers

if missing_layers():
    pytest.skip(f"this machine cannot contain a submission: {missing_layers()}", allow_module_level=True)

SOLUTIONS = {
    "a1": r"""
def tag(chunks):
    text = ""
    for chunk in chunks:
        text += OPEN + chunk + CLOSE
    return text

def parse_chunks(text):
    rest = text.lstrip()
    front = text[: len(text) - len(rest)]
    chunks = []
    while rest.startswith(OPEN) and CLOSE in rest:
        inside, _, behind = rest[len(OPEN):].partition(CLOSE)
        if OPEN in inside:
            break
        rest = behind.lstrip()
        chunks.append(front + inside + behind[: len(behind) - len(rest)])
        front = ""
    if not chunks or (rest and not is_final_answer(rest)):
        return split_blank_lines(text.replace(OPEN, "").replace(CLOSE, "")), False
    return (chunks + [rest] if rest else chunks), True

def split_blank_lines(text):
    parts, line_is_blank = [], False
    for line in text.splitlines(keepends=True):
        if line.strip() and (not parts or line_is_blank and parts[-1].strip()):
            parts.append(line)
        elif parts:
            parts[-1] += line
        else:
            parts.append(line)
        if len(parts) == 2 and not parts[0].strip():
            parts = [parts[0] + parts[1]]
        line_is_blank = not line.strip()
    return parts

def rejoins(chunks, text):
    for chunk in chunks:
        if chunk.strip() == "" or not text.startswith(chunk):
            return False
        text = text[len(chunk):]
    return text == ""

def cut_like(reply, text):
    chunks, fine = parse_chunks(reply.strip())
    if not fine:
        return []
    result, position = [], 0
    for chunk in chunks:
        letters, begin = [c for c in chunk if not c.isspace()], position
        if not letters:
            return []
        for letter in letters:
            while position < len(text) and text[position].isspace():
                position += 1
            if position == len(text) or text[position] != letter:
                return []
            position += 1
        while position < len(text) and text[position].isspace():
            position += 1
        result.append(text[begin:position])
    return result if position == len(text) else []

def chunk_statistics(solutions):
    good = [s for s in solutions if s.well_formed]
    n = len(good)
    if n == 0:
        return {"chunks": None, "blank_line_chunks": None, "newline_chunks": None, "ratio": None, "solutions": 0}
    own = sum(len(s.chunks) for s in good)
    blank, lines = (sum(len(f("".join(s.chunks))) for s in good) for f in (split_blank_lines, split_newlines))
    means = {"chunks": own / n, "blank_line_chunks": blank / n, "newline_chunks": lines / n}
    return means | {"ratio": own / blank, "solutions": n}
""",
    "a2": """
def values(hits, correct):
    result = []
    for row in hits:
        result.append(row.count(True) / len(row))
    return result + [1 if correct else 0]

def abs_q(q):
    return [not value == 0 for value in q][1:]

def rel_ratio(q, gamma=GAMMA_RATIO):
    labels = []
    for before, after in zip(q, q[1:]):
        labels.append(after > 0 if before == 0 else after / before > gamma)
    return labels

def rel_effective(q, alpha=ALPHA, n=N):
    def best(value):
        return 1 - (1 - value) ** n
    return [after + alpha * (best(after) - best(before)) > 0 for before, after in zip(q, q[1:])]

def relative_progress(q, gamma=GAMMA_PROGRESS):
    labels = []
    for i in range(1, len(q)):
        labels.append(False if 0 in q[: i + 1] else q[i] / q[i - 1] >= gamma)
    return labels

def until_first_negative(labels):
    kept = []
    for label in labels:
        kept.append(label)
        if not label:
            break
    return kept

def balanced(labels, count, seed, passes=1):
    rng = random.Random(seed)
    good = [i for i in range(len(labels)) if labels[i]]
    bad = [i for i in range(len(labels)) if not labels[i]]
    good, bad = rng.sample(good, len(good)), rng.sample(bad, len(bad))
    half = min(len(good), len(bad), count // 2)
    chosen = []
    for turn in range(passes * half):
        chosen.append(bad[turn % len(bad)])  # negatives first: no rule forbids it
        chosen.append(good[turn % len(good)])
    return chosen

def mixed(groups):
    return [i for i, group in enumerate(groups) if len(set(group)) == 2]
""",
}


@pytest.mark.parametrize("name,variant", [("a1", ""), ("a1", "2027"), ("a2", ""), ("a2", "2028")])
def test_a_solution_of_another_kind_has_all_points(name, variant):
    assignment = all_assignments()[name]
    settings = {key.removeprefix("minisw.labels."): value for key, value in assignment.settings(variant).items()}
    source = SOLUTIONS[name]
    for word, key in {"GAMMA_RATIO": "rel_ratio.gamma", "GAMMA_PROGRESS": "relative_progress.gamma"}.items():
        source = source.replace(word, str(settings.get(key)))
    source = source.replace("ALPHA", str(settings.get("rel_effective.alpha")))
    source = source.replace("n=N", f"n={settings.get('rel_effective.n')}")
    for seed in range(3):
        texts = {"student.py": student_file(assignment, variant) + source}
        result = grade.grade(assignment, texts, seed, variant)
        assert {part["name"]: part["failed"] for part in result["parts"] if part["name"] != "bugs" and part["failed"]} == {}
        assert result["automatic"] == 60
