"""Assignment 1: wrong versions of its functions, each a mistake that has been made.

Counterexamples hold no tags, because a variant changes them; so only functions without tags are offered as bugs to be found.
"""

from minisw.course.mutants import Mutant

LINES = r"\n\s*\n(?=\s*\S)"
MATCH = "_CHUNK.match(text, position)"
FAITHFUL = '"".join("".join(chunks).split()) != "".join(text.split())'
JOINED = '"".join(chunks) == text'
RATIO = 'counts["chunks"] / blank if blank else None'

MUTANTS = [
    Mutant("chunks stripped", "tag", "{chunk}", "{chunk.strip()}", ([" a"],)),
    Mutant("joined by newlines", "tag", '"".join', '"\\n".join', (["a", "b"],)),
    Mutant(
        "one pair of tags",
        "tag",
        '"".join(f"{OPEN}{chunk}{CLOSE}" for chunk in chunks)',
        'OPEN + "".join(chunks) + CLOSE',
        (["a", "b"],),
    ),
    Mutant("tags turned round", "tag", "{OPEN}{chunk}{CLOSE}", "{CLOSE}{chunk}{OPEN}", (["a"],)),
    Mutant("no line breaks inside", "parse_chunks", MATCH, "re.compile(_CHUNK.pattern).match(text, position)"),
    Mutant("greedy", "parse_chunks", MATCH, 're.compile(_CHUNK.pattern.replace(".*?", ".*"), re.S).match(text, position)'),
    Mutant("white space behind a tag lost", "parse_chunks", "match[1] + match[2]", "match[1]"),
    Mutant("white space in front lost", "parse_chunks", "text[:begin] + chunks[0]", "chunks[0]"),
    Mutant("tail lost", "parse_chunks", "chunks + ([tail] if tail else [])", "chunks"),
    Mutant("empty tail a chunk", "parse_chunks", "[tail] if tail else []", "[tail]"),
    Mutant(
        "tail part of the last chunk", "parse_chunks", "chunks + ([tail] if tail else [])", "[*chunks[:-1], chunks[-1] + tail]"
    ),
    Mutant("broken accepted", "parse_chunks", '.replace(CLOSE, "")), False', '.replace(CLOSE, "")), True', ("a",)),
    Mutant("text before the first tag accepted", "parse_chunks", "len(text) - len(text.lstrip())", "max(text.find(OPEN), 0)"),
    Mutant("nested tag accepted", "parse_chunks", "if OPEN in match[1]:", "if not match:"),
    Mutant("stray close tag accepted", "parse_chunks", "is_final_answer(tail)", 'is_final_answer(tail.replace(CLOSE, ""))'),
    Mutant("any tail accepted", "parse_chunks", "(tail and not is_final_answer(tail))", "CLOSE in tail or OPEN in tail"),
    Mutant("no tail accepted", "parse_chunks", "(tail and not is_final_answer(tail))", "tail"),
    Mutant("tags of a broken text stay", "parse_chunks", 'text.replace(OPEN, "").replace(CLOSE, "")', "text"),
    Mutant("no blank line with spaces", "split_blank_lines", LINES, r"\n\n(?=\s*\S)", ("a\n \nb",)),
    Mutant("every newline", "split_blank_lines", LINES, r"\n\s*(?=\S)", ("a\nb",)),
    Mutant(
        "separator dropped",
        "split_blank_lines",
        ", text)",
        ", text) and [p for p in re.split(r'\\n\\s*\\n', text) if p]",
        ("a\n\nb",),
    ),
    Mutant(
        "blank line with the next part", "split_blank_lines", r"(?:\n\s*\n(?=\s*\S)|\Z)", r"(?:(?=\n\s*\n\s*\S)|\Z)", ("a\n\nb",)
    ),
    Mutant("white space ignored", "rejoins", JOINED, '"".join("".join(chunks).split()) == "".join(text.split())', (["a"], "a ")),
    Mutant("blank chunks pass", "rejoins", "chunk.strip() for", "chunk for", ([" ", "a"], " a")),
    Mutant("empty chunks pass", "rejoins", " and all(chunk.strip() for chunk in chunks)", "", (["", "a"], "a")),
    Mutant("joined by spaces", "rejoins", '"".join', '" ".join', (["a", "b"], "ab")),
    Mutant("a prefix is enough", "rejoins", JOINED, 'text.startswith("".join(chunks))', (["a"], "ab")),
    Mutant("any order", "rejoins", JOINED, 'sorted("".join(chunks)) == sorted(text)', (["b", "a"], "ab")),
    Mutant("one good chunk is enough", "rejoins", "all(chunk", "any(chunk", (["", "a"], "a")),
    Mutant("teacher's white space kept", "cut_like", "return [text[start:end]", "return chunks or [text[start:end]"),
    Mutant("cut one late", "cut_like", "visible[end] for", "visible[end] + 1 for"),
    Mutant("white space with the next chunk", "cut_like", "visible[end] for", "visible[end - 1] + 1 for"),
    Mutant("other words accepted", "cut_like", FAITHFUL, 'sum(sizes) != len("".join(text.split()))'),
    Mutant("only the same white space", "cut_like", FAITHFUL, '"".join(chunks) != text'),
    Mutant("blank chunk accepted", "cut_like", " or 0 in sizes", ""),
    Mutant("broken copy accepted", "cut_like", "not well_formed or ", "", ("a", "a")),
    Mutant(
        "mean of ratios",
        "chunk_statistics",
        RATIO,
        "sum(len(s.chunks) / len(split_blank_lines(s.text)) for s in kept) / len(kept) if kept else None",
    ),
    Mutant("badly formed counted", "chunk_statistics", "if s.well_formed", "if s.chunks"),
    Mutant("ratio upside down", "chunk_statistics", RATIO, 'blank / counts["chunks"] if blank else None'),
    Mutant("sums for means", "chunk_statistics", "total / len(kept) if kept", "total if kept"),
    Mutant("ratio of lines", "chunk_statistics", 'blank = counts["blank_line_chunks"]', 'blank = counts["newline_chunks"]'),
    Mutant("zero for nothing", "chunk_statistics", "total / len(kept) if kept else None", "total / len(kept) if kept else 0"),
]
