"""Solutions unlike ours, as students might write them, have all points: relations ask for nothing beyond the handouts."""

import pytest

from minisw.course import grade
from minisw.course.assignments import all_assignments
from minisw.course.skeleton import student_file
from minisw.verify.sandbox import missing_layers

pytestmark = pytest.mark.slow  # together half a minute: they start many worker processes

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

def rel_effective(q, alpha=ALPHA, n=BEST_OF):
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
    "a4": r"""
def judge_prompt(template, question, history, chunk, nothing=NOTHING):
    past = ""
    for text in history:
        past = past + text
    if not past.strip():
        past = nothing
    return template.format_map({"question": question, "history": past.strip(), "chunk": chunk.strip()})

def parse_verdict(reply):
    for end in range(len(reply), 0, -1):
        if reply[:end].endswith(POSITIVE):
            return True
        if reply[:end].endswith(NEGATIVE):
            return False

def verdict_prefix(reply):
    for start in reversed(range(len(reply))):
        if reply[start:].startswith((POSITIVE, NEGATIVE)):
            return reply[:start] + BOX

def p_positive(logits, plus, minus):
    return [0.5 * (1 + math.tanh((row[plus] - row[minus]) / 2)) for row in logits]

def vote(verdicts):
    verdicts = list(verdicts)
    if verdicts.count(True) == verdicts.count(False) == 0:
        return None
    return verdicts.count(True) > verdicts.count(False)

def predict(verdicts):
    i = 0
    while i < len(verdicts) and verdicts[i] is True:
        i += 1
    if i == len(verdicts):
        return -1
    return i if verdicts[i] is False else WRONG

def f1_official(labels, predictions):
    hits, counts = [0, 0], [0, 0]
    for label, prediction in zip(labels, predictions):
        counts[label < 0] += 1
        hits[label < 0] += label == prediction
    if 0 in hits:
        return 0
    return 2 / (counts[0] / hits[0] + counts[1] / hits[1])

def f1_by_answer(labels, predictions, final_correct):
    wrong = [i for i in range(len(labels)) if not final_correct[i]]
    right = [i for i in range(len(labels)) if final_correct[i]]
    return harmonic_mean(*(mean([labels[i] == predictions[i] for i in side]) for side in (wrong, right)))

def paired_bootstrap(rows, statistic, seed, resamples=1000, groups=None):
    members = {}
    for i, name in enumerate(groups or range(len(rows))):
        members.setdefault(name, []).append(rows[i])
    members = list(members.values())
    generator = random.Random(seed)
    def difference(sample):
        a, b = zip(*sample)
        return statistic(list(a)) - statistic(list(b))
    drawn = []
    for _ in range(resamples):
        sample = [row for group in generator.choices(members, k=len(members)) for row in group]
        drawn.append(difference(sample))
    drawn.sort()
    low, high = int(0.025 * resamples), min(int(0.975 * resamples), resamples - 1)
    return difference(rows), (drawn[low], drawn[high])

def best_threshold(labels, scores):
    values = {}
    for k in range(1, 50):
        predictions = [predict([s >= k / 50 for s in row]) for row in scores]
        values[k] = f1_official(labels, predictions)
    best = max(values.values())
    longest = []
    for begin in range(1, 50):
        run = []
        while values.get(begin + len(run)) == best:
            run.append(begin + len(run))
        if len(run) > len(longest):
            longest = run
    return longest[len(longest) // 2] / 50, best

def calibration_error(probabilities, outcomes, bins=BINS):
    gaps = [0.0] * bins
    for p, outcome in zip(probabilities, outcomes):
        gaps[bins - 1 if p == 1 else math.floor(p * bins)] += p - outcome
    return sum(map(abs, gaps)) / max(len(probabilities), 1)
""",
    "a5": """
def chunk_reset(problems, propose, judge, tries=TRIES, max_chunks=MAX_CHUNKS):
    chunks = [[] for _ in problems]
    books = [[0, 0, 0] for _ in problems]
    done, ended, failed = [False] * len(problems), [False] * len(problems), [0] * len(problems)
    while not all(done):
        who = [i for i in range(len(problems)) if not done[i]]
        questions, histories = [problems[i] for i in who], [chunks[i][:] for i in who]
        new = propose(questions, histories)
        said = judge(questions, histories, [n[0] for n in new])
        for i, n, (verdict, cost) in zip(who, new, said):
            books[i][0] += n[1]
            books[i][1] += cost
            failed[i] += 1
            if verdict in (True, None) or failed[i] == tries:
                chunks[i].append(n[0])
                failed[i], ended[i] = 0, n[2]
                done[i] = n[2] or len(chunks[i]) == max_chunks
            else:
                books[i][2] += n[1]
    names = ("policy_tokens", "judge_tokens", "rejected_tokens")
    return [dict(zip(names, b), chunks=c, finished=e) for b, c, e in zip(books, chunks, ended)]

def majority(answers, weights=None):
    best, most = None, 0
    for i, text in enumerate(answers):
        if text is None or any(a is not None and same_value(a, text) for a in answers[:i]):
            continue
        sames = [j for j, a in enumerate(answers) if a is not None and same_value(a, text)]
        votes = sum(weights[j] if weights else 1 for j in sames)
        if votes > most:
            best, most = text, votes
    return best

def samples_within(costs, budget):
    counts = [1 for _ in costs]
    left = budget - sum(row[0] for row in costs)
    order = sorted((n, i) for i, row in enumerate(costs) for n in range(1, len(row)))
    for n, i in order:
        left -= costs[i][n]
        if left < 0:
            break
        counts[i] += 1
    return counts

def best_of_n(scores, policy_costs, judge_costs, budget):
    costs = []
    for i in range(len(scores)):
        costs.append([policy_costs[i][j] + judge_costs[i][j] for j in range(len(scores[i]))])
    best = []
    for row, n in zip(scores, samples_within(costs, budget)):
        best.append(row.index(max(row[:n])))
    return best
""",
}


WORDS = {  # words that stand for settings in the solutions
    "GAMMA_RATIO": "rel_ratio.gamma",
    "GAMMA_PROGRESS": "relative_progress.gamma",
    "ALPHA": "rel_effective.alpha",
    "NOTHING": "judge_prompt.nothing",
    "BEST_OF": "rel_effective.n",
    "BINS": "calibration_error.bins",
    "TRIES": "chunk_reset.tries",
    "MAX_CHUNKS": "chunk_reset.max_chunks",
}


@pytest.mark.parametrize("name,variant", [(name, year) for name in SOLUTIONS for year in ("", "2028")])
def test_a_solution_of_another_kind_has_all_points(name, variant):
    assignment = all_assignments()[name]
    settings = {key.split(".", key.count(".") - 1)[-1]: value for key, value in assignment.settings(variant).items()}
    source = SOLUTIONS[name]
    for word, key in WORDS.items():
        source = source.replace(f"={word}", f"={settings.get(key)!r}")
    for seed in range(3):
        texts = {"student.py": student_file(assignment, variant) + source}
        result = grade.grade(assignment, texts, seed, variant)
        assert {part["name"]: part["failed"] for part in result["parts"] if part["name"] != "bugs" and part["failed"]} == {}
        assert result["automatic"] == 60
