"""The command line: presets, knobs, and one line for every bad input, before anything runs."""

import dataclasses

import pytest

from minisw.cli import LABEL_SOURCES, Command, check, parse, stop
from minisw.presets import PRESETS
from minisw.recipe import MADE, Recipe


def test_presets_and_knobs_are_read():
    arguments = ["--preset", "smoke", "--seed", "7", "--judge.steps=5", "--judge.no-balanced", "--dry-run", "--stage", "search"]
    command = parse(arguments)
    assert (command.judge.steps, command.judge.balanced, command.seed, command.stage) == (5, False, 7, "search")
    assert command.dry_run and command.judge.group == PRESETS["smoke"].judge.group
    assert parse([]) == Command() and Command().judge == Recipe().judge
    assert parse(["--classifier.lrs", "1e-3", "2e-3"]).classifier.lrs == (1e-3, 2e-3)


def test_data_dir_has_a_short_name(tmp_path):
    arguments = ["--preset", "smoke", "--data-dir"]
    assert parse([*arguments, str(tmp_path)]).problems.data_dir == tmp_path
    assert parse([*arguments[:2], f"--data-dir={tmp_path}"]).problems.data_dir == tmp_path


def test_a_study_has_three_seeds_unless_told_otherwise():
    assert (parse([]).study, parse([]).seeds) == ("", 3)
    command = parse(["--study", "habits", "--seeds", "1", "--judge.no-analysis", "--judge.no-balanced"])
    assert (command.study, command.seeds) == ("habits", 1) and not command.judge.analysis and not command.judge.balanced
    assert command.arms == () and parse(["--study", "habits", "--arms", "redo-0", "redo-0.4"]).arms == ("redo-0", "redo-0.4")
    with pytest.raises(ValueError, match="--arms belongs to a study: give --study too"):
        parse(["--arms", "redo-0"])


def test_judges_are_named_as_in_the_registry():
    assert parse(["--judge.judges", "few_shot", "stepwiser"]).judge.judges == ("few_shot", "stepwiser")
    with pytest.raises(ValueError, match="cannot read the command line"):
        parse(["--judge.judges", "referee"])
    with pytest.raises(ValueError, match="--judge.judges lacks stepwiser"):
        parse(["--judge.judges", "discriminative"])
    with pytest.raises(ValueError, match="stepwiser_from_rs starts from rejection_sampled"):
        parse(["--judge.judges", "stepwiser", "stepwiser_from_rs"])


def test_judges_that_select_are_trained_judges():
    flags = ["--select.problems", "9", "--select.judges"]
    assert parse([*flags, "stepwiser_tenth"]).select.judges == ("stepwiser_tenth",)
    assert parse(["--select.judges", "genprm"]).select.problems == 0  # nothing is selected
    with pytest.raises(ValueError, match="--select.judges names genprm, which is not trained: name it in --judge.judges too"):
        parse([*flags, "stepwiser", "genprm"])


def test_exact_labels_are_those_of_the_embedded_task():
    assert parse(["--annotate.source", "exact"]).annotate.source == "exact"
    with pytest.raises(ValueError, match="gsm8k has no exact labels: give --annotate.source rollouts"):
        parse(["--preset", "smoke", "--annotate.source", "exact"])


def test_zeros_that_mean_none_and_extreme_values_are_allowed():
    for preset in ("tiny", "smoke"):
        parse(["--preset", preset, "--seed", "0", "--problems.hard", "0", "--judge.kl", "0"])
    parse(["--seed", "4294967296", "--judge.labels", "10000000", "--judge.group", "2", "--judge.lr", "1"])


BAD = [
    # presets, flags and stages
    (["--preset", "huge"], "unknown preset 'huge'"),
    (["--preset"], "unknown preset"),
    (["--judge.stepz", "3"], "unknown flag --judge.stepz: did you mean --judge.steps?"),
    (["--frobnicate"], "unknown flag --frobnicate"),
    (["--stage", "cook"], "unknown stage 'cook': choose one of segment, annotate"),
    (["--judge.steps", "many"], "cannot read the command line"),
    (["--judge.steps"], "cannot read the command line"),
    (["--judge.steps", "1.5"], "cannot read the command line"),
    (["stray"], "cannot read the command line"),
    (["--model.device", "gpu"], "cannot read the command line"),
    (["--annotate.rule", "my_rule"], "cannot read the command line"),
    (["--out", __file__], "is a file: give a folder"),
    # numbers
    (["--study", "soup"], "cannot read the command line"),
    (["--study", "habits", "--dry-run"], "leave out --stage and --dry-run"),
    (["--study", "ablations", "--stage", "judges"], "leave out --stage and --dry-run"),
    (["--study", "habits", "--seeds", "0"], "--seeds is 0: it must be above 0"),
    (["--seed", "-1"], "--seed is -1: it must be at least 0"),
    (["--judge.rs-samples", "0"], "--judge.rs-samples is 0: it must be above 0"),
    (["--model.slots", "-1"], "--model.slots is -1: it must be above 0"),
    (["--problems.hard", "-1"], "--problems.hard is -1: it must be at least 0"),
    (["--select.problems", "-1"], "--select.problems is -1: it must be at least 0"),
    (["--problems.train", "100000000000"], "--problems.train is 100000000000: it must be at most 10000000"),
    (["--judge.lr", "nan"], "--judge.lr is nan: give a finite number"),
    (["--judge.lr", "0"], "--judge.lr is 0.0: it must be above 0"),
    (["--judge.lr", "5"], "--judge.lr is 5.0: it must be at most 1"),
    (["--segment.training.lr", "inf"], "--segment.training.lr is inf: give a finite number"),
    (["--judge.temperature", "inf"], "--judge.temperature is inf"),
    (["--judge.temperature", "0"], "--judge.temperature is 0.0"),
    (["--policy.temperature", "50"], "--policy.temperature is 50.0: it must be at most 10"),
    (["--judge.kl", "-0.1"], "--judge.kl is -0.1: it must be at least 0"),
    (["--judge.clip-low", "1.5"], "--judge.clip-low is 1.5: it must be at most 1"),
    (["--annotate.gamma", "-1"], "--annotate.gamma is -1.0: it must be above 0"),
    (["--judge.group", "1"], "--judge.group is 1: it must be at least 2"),
    (["--annotate.samples", "1"], "--annotate.samples is 1: it must be at least 2"),
    (["--evaluate.resamples", "1"], "--evaluate.resamples is 1: it must be at least 10"),
    # several values
    (["--classifier.lrs"], "--classifier.lrs is empty"),
    (["--classifier.lrs", "1e-3", "0"], "--classifier.lrs is 0.0"),
    (["--classifier.lrs", "1e-3", "nan"], "--classifier.lrs is nan"),
    (["--classifier.lrs", "1e-3", "1e-3"], "--classifier.lrs has a value twice"),
    (["--evaluate.parts"], "--evaluate.parts is empty"),
    (["--evaluate.parts", "gsm8k", "gsm8k"], "--evaluate.parts has a value twice"),
    # the model
    (["--model.name", ""], "--model.name is empty"),
    (["--model.gguf-file", "a.gguf"], "--model.gguf-file is for another model"),
    (["--model.name", "some/model", "--model.gguf-file", "a.bin"], "is no GGUF file"),
    (["--model.dtype", "fp16", "--model.autocast", "bf16"], "--model.autocast bf16 does not go with --model.dtype fp16"),
    (["--model.dtype", "bf16", "--model.sampling-dtype", "fp16"], "--model.sampling-dtype fp16 does not go with"),
    (["--model.four-bit", "--model.sampling-dtype", "bf16"], "--model.sampling-dtype does not apply to 4-bit"),
    (["--model.dtype", "fp8"], "cannot read the command line"),
    # problems and labels
    (["--problems.source", "gsm8k"], "give --problems.prompts english"),
    (["--problems.source", "math", "--problems.prompts", "english"], "give --segment.teacher prompted or numbered"),
    (["--preset", "smoke", "--problems.hard", "5"], "gsm8k has no harder problems"),
    (["--problems.max-steps", "2"], "--problems.max-steps is not for --problems.source arithmetic"),
    (["--problems.source", "equations"], "--problems.source equations and --problems.prompts equations belong together"),
    (["--preset", "rung-2", "--problems.prompts", "english"], "--problems.prompts stories belong together"),
    (["--preset", "rung-2", "--problems.hard", "5"], "stories has no harder problems"),
    (["--preset", "rung-1", "--annotate.source", "rollouts"], "--annotate.source made and --problems.source equations"),
    (["--annotate.source", "made"], "--annotate.source made and --problems.source equations belong together"),
    (["--preset", "rung-4", "--annotate.source", "exact"], "gsm8k has no exact labels"),
    (["--preset", "smoke", "--data-dir", "no/such/folder"], "--problems.data-dir no/such/folder is no folder"),
    (["--annotate.source", "no/such/file.jsonl"], "--annotate.source no/such/file.jsonl is no file"),
    (["--annotate.source", "/no/such/file"], "--annotate.source /no/such/file is no file"),
    (["--annotate.source", "prm900k"], "give one of rollouts, exact, made, prm800k"),
    (["--annotate.source", ""], "--annotate.source '' is no file"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_bad_command_line_is_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError) as caught:
        parse(arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_label_sources_that_exist_or_may_exist_are_allowed(tmp_path):
    file = tmp_path / "labels.jsonl"
    file.write_text("")
    for source in (*LABEL_SOURCES, str(file), "trl-lib/math_shepherd"):
        recipe = PRESETS["rung-1"] if source == MADE else Recipe()
        check(dataclasses.replace(recipe, annotate=dataclasses.replace(recipe.annotate, source=source)))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("two\n  lines"), "minisw: two lines\n"),
        (OSError(28, "No space left on device"), "minisw: the disk is full: make room and rerun the same command"),
        (PermissionError(13, "Permission denied", "/some/folder"), "minisw: no permission to write /some/folder: give --out"),
    ],
)
def test_errors_are_one_line_and_exit_status_2(error, message, capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SystemExit) as caught:
        stop(error)
    printed = capsys.readouterr().err
    assert caught.value.code == 2 and printed.startswith(message) and printed.count("\n") == 1


def test_errors_name_the_process_that_does_not_write(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(SystemExit):
        stop(ValueError("no"))
    assert capsys.readouterr().err == "minisw: process 3: no\n"


def test_own_problems_need_their_file(tmp_path):
    path = tmp_path / "mine.jsonl"
    arguments = ["--preset", "smoke", "--problems.source", "file", "--problems.max-steps", "0"]
    for given in (arguments, ["--preset", "smoke", "--problems.file", str(path)]):
        with pytest.raises(ValueError, match="--problems.source file and --problems.file FILE belong together: give both"):
            parse(given)
    with pytest.raises(ValueError, match="mine.jsonl is no file: give a JSONL file of problems"):
        parse([*arguments, "--problems.file", str(path)])
    path.write_text('{"question": "1+1?", "answer": 2}\n')
    assert parse([*arguments, "--problems.file", str(path)]).problems.file == path
    with pytest.raises(ValueError, match="file needs prompts in English"):
        parse([*arguments, "--problems.file", str(path), "--problems.prompts", "arithmetic"])
