"""Anyone's verdicts on solutions with known labels: JSON Lines, one object for each solution.

    {"id": "gsm8k-0", "verdicts": [true, false, null]}           a verdict for each step; null: it could not be read
    {"id": "gsm8k-0", "verdicts": [[true, true], [false, null]]} several votes for each step, equally many
    {"id": "gsm8k-0", "scores": [0.93, 0.12]}                    P(right) of each step; a threshold decides
    {"id": "gsm8k-0", "prediction": 1}                           index of the first wrong step, -1: none, null: unreadable

`verdicts` may come with `scores`, which are then used for calibration only. `tokens` is what the judge sampled: a list
with one number for each step, or one number for the solution. Without published items a line also has its `label` (index
of the first wrong step, -1 if all are right) and, if known, `part`, `question`, `steps` (texts) and `final_answer_correct`;
`problem` may stand for `question`, and ids such as "gsm8k-0" name their part. Other fields are ignored.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minisw.evaluate.metrics import best_threshold, part_of
from minisw.problems import files, processbench
from minisw.records import BenchItem, Judgment
from minisw.verdicts import vote

GIVEN = ("verdicts", "scores", "prediction")  # what a judge may say
FIELDS = ("id", "part", "question", "problem", "steps", "label", "final_answer_correct", *GIVEN, "tokens")
NO_PART = ""
MOST_TOKENS = 10**9


@dataclass(frozen=True)
class Line:
    """One line of a predictions file. `where` is FILE:NUMBER."""

    where: str
    values: dict

    def wrong(self, field: str, message: str) -> ValueError:
        return ValueError(f"{self.where}: {field}: {message}")

    @property
    def id(self) -> str:
        return str(self.values["id"])

    @property
    def given(self) -> tuple[str, ...]:
        return tuple(name for name in GIVEN if name in self.values)


@dataclass(frozen=True)
class Predictions:
    """A predictions file: `lines[i]` is about the i-th of `items`, whose keys are the ids in the file."""

    path: Path
    lines: list[Line]
    items: dict[str, BenchItem]  # `BenchItem.id` is the part and a number, as `metrics.part_of` reads it
    knows_answers: bool  # whether each final answer is right is known for all

    @property
    def given(self) -> tuple[str, ...]:
        """What the lines have: those of GIVEN."""
        return self.lines[0].given

    @property
    def judges_steps(self) -> bool:
        """Whether each step is judged, and not only the solution as a whole."""
        return self.given != ("prediction",)

    @property
    def counts_tokens(self) -> bool:
        return "tokens" in self.lines[0].values


# --- lines ---------------------------------------------------------------------------------------------------------------


def read_lines(path: Path) -> list[Line]:
    """The lines of a predictions file. Raises ValueError, in one line with its number, for one that cannot be used."""
    try:
        texts = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
    lines = [_line(f"{path}:{number}", text) for number, text in enumerate(texts, 1) if text.strip()]
    if not lines:
        raise ValueError(f"{path} is empty: write one JSON object for each solution, one a line")
    seen: dict[str, Line] = {}
    for line in lines:
        if line.id in seen:
            raise line.wrong("id", f"{line.id!r} was also at {seen[line.id].where}: keep one line for each solution")
        seen[line.id] = line
        if line.given != lines[0].given:
            here, first = (" and ".join(own.given) for own in (line, lines[0]))
            raise line.wrong(here, f"the first line has {first}: give the same in all lines")
        if ("tokens" in line.values) != ("tokens" in lines[0].values):
            raise line.wrong("tokens", "some lines have it and some do not: give it in all lines or in none")
    return lines


def _line(where: str, text: bytes) -> Line:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{where}: not JSON in UTF-8: write one JSON object a line") from None
    if not isinstance(values, dict):
        raise ValueError(f'{where}: no JSON object: write one a line, such as {{"id": "a", "verdicts": [true, false]}}')
    line = Line(where, values)
    for name in values:
        near = difflib.get_close_matches(name, FIELDS, 1, 0.8)
        if name not in FIELDS and near and near[0] not in values:
            raise line.wrong(name, f"no such field: did you mean {near[0]}?")
    if not isinstance(values.get("id"), str | int) or isinstance(values["id"], bool) or values["id"] == "":
        raise line.wrong("id", "missing or no string: give each solution an id of its own")
    if not line.given:
        raise line.wrong("verdicts", "missing: add verdicts, scores or prediction")
    if "prediction" in line.given and len(line.given) > 1:
        raise line.wrong("prediction", f"there are {line.given[0]} too: keep one of them")
    return line


# --- solutions -----------------------------------------------------------------------------------------------------------


def published(path: Path) -> dict[str, BenchItem]:
    """Solutions with labels, by id, from a file in ProcessBench's form or from all published files in a folder.

    Raises ValueError, in one line, if there is none or if a row is damaged.
    """
    paths = [path]
    if path.is_dir():
        folders = (path, path / "processbench")
        paths = [folder / f"{part}.json" for folder in folders for part in processbench.PARTS]
        paths = [file for file in paths if file.is_file()]
        if not paths:
            raise ValueError(f"{path} holds none of {', '.join(part + '.json' for part in processbench.PARTS)}: name the file")
    items: dict[str, BenchItem] = {}
    for file in paths:
        for item in processbench.from_rows(files.read(file), str(file)):
            where = Line(f"{file}, {item.id!r}", {})
            if not isinstance(item.id, str) or item.id in items:
                raise where.wrong("id", "no string, or used twice: is it the published file?")
            if not isinstance(item.question, str):
                raise where.wrong("problem", "no string: is it the published file?")
            _check_label(where, item.label, len(item.chunks))
            items[item.id] = _in_part(item, _published_part(item.id), len(items))
    return items


def read(path: Path, known: Predictions | Mapping[str, BenchItem] | None = None, own_labels: bool = False) -> Predictions:
    """A predictions file. The solutions are those of `known` in its order; without it, lines have their own labels.

    With `own_labels`, the lines' own labels come first: `known` is used only if the first line has none.

    Raises ValueError, in one line, for a line that cannot be used or an id that is not known.
    """
    lines = read_lines(path)
    if known is None or (own_labels and "label" in lines[0].values):
        items = {line.id: _own_item(line, position) for position, line in enumerate(lines)}
        parts = {id: part_of(item) for id, item in items.items()}
        for line in lines:
            if not parts[line.id] and any(parts.values()):
                raise line.wrong("part", "missing, but other solutions have one: give it in all lines or in none")
        return Predictions(path, lines, items, all("final_answer_correct" in line.values for line in lines))
    found = known.items if isinstance(known, Predictions) else known
    for line in lines:
        if line.id not in found:
            raise line.wrong("id", f"no solution {line.id!r} is known, only such as {next(iter(found))!r}: use their ids")
        label, other = line.values.get("label"), found[line.id].label
        if "label" in line.values and label != other:
            raise line.wrong("label", f"{label!r}, but the known one is {other}: leave it out (steps count from 0)")
    by_id = {line.id: line for line in lines}
    items = {id: item for id, item in found.items() if id in by_id}
    knows_answers = known.knows_answers if isinstance(known, Predictions) else True
    return Predictions(path, [by_id[id] for id in items], items, knows_answers)


def require_all(predictions: Predictions, known: Mapping[str, BenchItem], remedy: str) -> None:
    """Raises ValueError, in one line, if the predictions lack one of the `known` solutions."""
    missing = [id for id in known if id not in predictions.items]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{predictions.path} has no line for {missing[0]!r}{more}: {remedy}")


def in_parts_of(predictions: Predictions, known: Mapping[str, BenchItem]) -> dict[str, BenchItem]:
    """The solutions of `known` in those parts of which the predictions have a solution."""
    parts = {part_of(item) for item in predictions.items.values()}
    return {id: item for id, item in known.items() if part_of(item) in parts}


def _own_item(line: Line, position: int) -> BenchItem:
    """The solution that a line describes itself."""
    values = line.values
    question = values.get("question", values.get("problem", line.id))
    part = values.get("part", _published_part(line.id))
    for name, value in (("question", question), ("part", part)):
        if not isinstance(value, str):
            raise line.wrong(name, "no string")
    if not isinstance(values.get("final_answer_correct", False), bool):
        raise line.wrong("final_answer_correct", "give true or false, or leave it out in all lines")
    if "steps" in values:
        steps = values["steps"]
        if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
            raise line.wrong("steps", "no list of texts: give one string for each step")
    elif "prediction" in values:
        raise line.wrong("steps", "missing: add the list of steps, or take labels from published files with --items")
    else:
        entries = values[line.given[0]]
        steps = [""] * (len(entries) if isinstance(entries, list) else 0)
        if not steps:
            raise line.wrong(line.given[0], "no list of values: give one for each step")
    if "label" not in values:
        raise line.wrong("label", "missing: add the index of the first wrong step (-1: none), or use --items")
    _check_label(line, values["label"], len(steps))
    item = BenchItem(line.id, question, tuple(steps), values["label"], values.get("final_answer_correct", False))
    return _in_part(item, part, position)


def _check_label(line: Line, label: object, steps: int) -> None:
    if not isinstance(label, int) or isinstance(label, bool) or not -1 <= label < steps:
        raise line.wrong("label", f"{label!r} is no index of {steps} steps: count from 0; -1 if no step is wrong")


def _published_part(id: str) -> str:
    """The part of ProcessBench that an id such as "gsm8k-12" belongs to; `NO_PART` for others."""
    part = id.rpartition("-")[0]
    return part if part in processbench.PARTS else NO_PART


def _in_part(item: BenchItem, part: str, number: int) -> BenchItem:
    return dataclasses.replace(item, id=f"{part}-{number}")


# --- judgments -----------------------------------------------------------------------------------------------------------


def judge(predictions: Predictions, threshold: float | None = None) -> list[list[Judgment]]:
    """What the lines say: [items][steps]. A step that has a score alone is right if this is at least `threshold`.

    Raises ValueError, in one line, for a value that cannot be used, and if a threshold is missing or has no use.
    """
    path, given, lines = predictions.path, predictions.given, predictions.lines
    if given == ("scores",) and threshold is None:
        raise ValueError(f"{path} has scores alone: give a threshold, or validation data that choose it; see --help")
    if given != ("scores",) and threshold is not None:
        raise ValueError(f"{path} has {given[0]}: a threshold is for scores alone, leave it out")
    items = predictions.items.values()
    judgments = [_judgments(line, len(item.chunks), threshold) for line, item in zip(lines, items, strict=True)]
    votes = [len(own[0].votes) or 1 for own in judgments]
    for line, count in zip(lines, votes, strict=True):
        if count != votes[0]:
            raise line.wrong("verdicts", f"{count} votes for each step, {votes[0]} at {lines[0].where}: give equally many")
    return judgments


def _judgments(line: Line, steps: int, threshold: float | None) -> list[Judgment]:
    """The judgments of a line on a solution of so many steps."""
    tokens = _tokens(line, steps)
    if "prediction" in line.values:
        return [Judgment(verdict, tokens=count) for verdict, count in zip(_up_to(line, steps), tokens, strict=True)]
    scores = scores_of(line, steps) if "scores" in line.values else [None] * steps
    if "verdicts" in line.values:
        votes = _votes(line, steps)
    else:
        votes = [(score >= threshold,) for score in scores]
    return [
        Judgment(vote(own), "", _share(own) if score is None else score, count, own if len(own) > 1 else ())
        for own, score, count in zip(votes, scores, tokens, strict=True)
    ]


def _up_to(line: Line, steps: int) -> list[bool | None]:
    """Verdicts that say the same as the line's prediction; one that is no step counts as unreadable."""
    prediction = line.values["prediction"]
    if prediction is not None and (not isinstance(prediction, int) or isinstance(prediction, bool)):
        raise line.wrong("prediction", "no index: give the first wrong step, -1 if none is wrong, null if unreadable")
    if prediction is None or not -1 <= prediction < steps:
        return [None] * steps
    return [i != prediction for i in range(steps)]


def _each(line: Line, field: str, steps: int) -> list:
    """The values of a field that has one for each step."""
    values = line.values[field]
    if not isinstance(values, list):
        raise line.wrong(field, "no list: give one value for each step")
    if len(values) != steps:
        stopped = "; a judge that stops at the first wrong step gives prediction, its index" if field != "tokens" else ""
        raise line.wrong(field, f"{len(values)} values for {steps} steps: give one for each{stopped}")
    return values


def scores_of(line: Line, steps: int) -> list[float]:
    """The scores of a line. Raises ValueError if one is no number from 0 to 1."""
    scores = _each(line, "scores", steps)
    for i, score in enumerate(scores):
        if not _is_number(score) or not 0 <= score <= 1:
            raise line.wrong("scores", f"{score!r} for step {i} is no probability: give numbers from 0 to 1")
    return [float(score) for score in scores]


def _votes(line: Line, steps: int) -> list[tuple[bool | None, ...]]:
    verdicts = _each(line, "verdicts", steps)
    votes = [tuple(own) if isinstance(own, list) else (own,) for own in verdicts]
    for i, own in enumerate(votes):
        if len(own) != len(votes[0]) or not own:
            found = f"{len(own)} votes for step {i}, {len(votes[0])} for step 0"
            raise line.wrong("verdicts", f"{found}: give 1 or more, equally many")
        for value in own:
            if value is not None and not isinstance(value, bool):
                raise line.wrong("verdicts", f"{value!r} for step {i}: give true, false or, if unreadable, null")
    return votes


def _share(votes: Sequence[bool | None]) -> float:
    """The share of readable votes that are Positive; 0.5 if none is readable."""
    readable = [own for own in votes if own is not None]
    return sum(readable) / len(readable) if readable else 0.5


def _tokens(line: Line, steps: int) -> list[int]:
    """Tokens of each step; those of a whole solution are put on its first step, which leaves means as they are."""
    tokens = line.values.get("tokens", 0)
    values = _each(line, "tokens", steps) if isinstance(tokens, list) else [tokens, *[0] * (steps - 1)]
    if not all(_is_number(value) and 0 <= value <= MOST_TOKENS for value in values):
        raise line.wrong("tokens", f"no count: give one number, or one for each step, from 0 to {MOST_TOKENS:,}")
    return values


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# --- a threshold -----------------------------------------------------------------------------------------------------------


def threshold_from(validation: Predictions) -> tuple[float, float]:
    """The threshold with the best official F1 on validation solutions, and that F1.

    Raises ValueError, in one line, if a line has no scores or if the solutions cannot choose a threshold.
    """
    lines, items = validation.lines, list(validation.items.values())
    if "scores" not in validation.given:
        raise lines[0].wrong("scores", "missing: validation data need the scores of each step")
    if len({item.label < 0 for item in items}) < 2:
        raise ValueError(f"{validation.path} cannot choose a threshold: it needs solutions with an error and without")
    scores = [scores_of(line, len(item.chunks)) for line, item in zip(lines, items, strict=True)]
    return best_threshold([item.label for item in items], scores)
