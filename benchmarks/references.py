"""How reliable is the comparison of answers? On every published reference answer of GSM8K and MATH-500:

- does it equal itself, also by algebra alone?
- does it differ from all answers that are slightly changed?

    python -m benchmarks.references --data-dir FOLDER
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

from minisw.problems import gsm8k, math
from minisw.verify import algebra
from minisw.verify.answers import number, verify


def changed(answer: str) -> Iterator[str]:
    """Slightly different answers: one digit increased, the sign changed, a factor x added, a letter added to a word."""
    for i, letter in enumerate(answer):
        if letter.isdigit():
            yield answer[:i] + str((int(letter) + 1) % 10) + answer[i + 1 :]
    if re.search(r"\d|[xyz]", answer) and number(answer) != 0:
        yield answer[1:] if answer.startswith("-") else "-" + answer
    if number(answer):
        yield answer + "x"
    word = re.fullmatch(r"(?:\\text\{)?\(?([A-Za-z ]+)\)?\}?", answer)  # words only: a unit after a number is formatting
    if word:
        yield answer.replace(word[1], word[1] + "s", 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with gsm8k/ and math500/")
    parser.add_argument("--out", type=Path, default=Path("data/results/references.json"))
    given = parser.parse_args()
    sets = {
        "GSM8K train": [p.answer for p in gsm8k.read(given.data_dir, "train")],
        "GSM8K test": [p.answer for p in gsm8k.read(given.data_dir, "test")],
        "MATH-500": [p.answer for p in math.problems(math.read(given.data_dir, "math500"), "math500")],
    }
    result = {}
    for name, answers in sets.items():
        begin = time.perf_counter()
        not_itself = [a for a in answers if not verify(a, a)]
        by_algebra = [a for a in answers if number(a) is None and not algebra.equal(a, a)]
        pairs = [(a, other) for a in answers for other in changed(a)]
        wrong = [pair for pair in pairs if verify(*pair)]
        result[name] = {
            "references": len(answers),
            "plain_numbers": sum(number(a) is not None for a in answers),
            "not_equal_to_itself": not_itself,
            "not_equal_to_itself_by_algebra_alone": by_algebra,
            "changed": len(pairs),
            "changed_taken_for_equal": wrong,
            "seconds": round(time.perf_counter() - begin, 1),
        }
        shown = {k: len(v) if isinstance(v, list) else v for k, v in result[name].items()}
        print(name, json.dumps(shown), flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
