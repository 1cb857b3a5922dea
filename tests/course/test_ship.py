"""The run that ships: what a slim copy holds, what it refuses, and that data/run is read back as a run."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import minisw
from minisw import saved_run
from minisw.course import __main__, ship
from minisw.presets import PRESETS
from minisw.records import flat, write_json

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "data" / "run"
COPIED = {
    *("recipe.json", "run.json", "claims.json", "segment/metrics.json", "judges/stepwiser-curve.json", "search/trace.json"),
    *("evaluate/showcase.json", "evaluate/stepwiser.jsonl", "evaluate/stepwiser-sampled.jsonl", "evaluate/untrained-pass.jsonl"),
    *("annotate/questions.json", "annotate/train.jsonl", "segment/taught.jsonl", "search/random-tries.jsonl"),
}
LEFT_OUT = {
    *(".lock", "report.html", "judges/rejection_sampled-replies.json", "judges/stepwiser_hundredth/adapter_config.json"),
    *("annotate/train.jsonl.parts/00000.jsonl", "judges/stepwiser.checkpoint"),
}
VALUES = torch.tensor([1.0, 1.001, -3.14159])


@pytest.fixture
def run(tmp_path) -> Path:
    """A folder with the files of a run; every adapter has one small tensor."""
    folder = tmp_path / "run"
    for name in COPIED | LEFT_OUT:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("0123456789")
    write_json(folder / "recipe.json", PRESETS["tiny"].to_json())
    for name in (*ship.ADAPTERS, "judges/stepwiser_hundredth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        save_file({"a.lora_A.weight": VALUES}, folder / name / ship.WEIGHTS)
        write_json(folder / name / "adapter_config.json", {"base_model_name_or_path": "/home/maker/base", "r": 32})
        (folder / name / "minisw.json").write_text("{}")
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_copy_has_results_records_and_the_adapters_of_the_course(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert __main__.main(["ship", str(run), str(out)]) == 0
    adapters = {f"{name}/{file}" for name in ship.ADAPTERS for file in (ship.WEIGHTS, "adapter_config.json", "minisw.json")}
    assert names(out) == COPIED | adapters
    assert {(out / name).read_bytes() == (run / name).read_bytes() for name in COPIED} == {True}
    assert capsys.readouterr().out == f"{out}: 0.0 MB\n"
    assert ship.size(out) == sum((out / name).stat().st_size for name in names(out))


def test_adapters_are_rounded_to_bf16_and_name_no_folder_of_their_maker(run, tmp_path):
    ship.ship(run, tmp_path / "out")
    for name in ship.ADAPTERS:
        tensor = load_file(tmp_path / "out" / name / ship.WEIGHTS)["a.lora_A.weight"]
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, VALUES.to(torch.bfloat16))
        config = json.loads((tmp_path / "out" / name / "adapter_config.json").read_text())
        assert config == {"base_model_name_or_path": "embedded", "r": 32}


def test_a_base_with_a_name_of_its_own_keeps_it(run, tmp_path):
    values = json.loads((run / "recipe.json").read_text())
    values["model"]["name"] = "some/model"
    write_json(run / "recipe.json", values)
    ship.ship(run, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "segment" / "policy" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "/home/maker/base"


def test_a_copy_that_is_too_large_loses_its_sampled_judgments_last(run, tmp_path, monkeypatch):
    ship.ship(run, tmp_path / "all")
    whole = ship.size(tmp_path / "all")  # each of the files that may go has 10 bytes
    kept = {}
    for limit in (whole, whole - 1, whole - 10, whole - 11, whole - 20):
        monkeypatch.setattr(ship, "LIMIT", limit)
        assert ship.ship(run, tmp_path / str(limit)) == ship.size(tmp_path / str(limit)) <= limit
        kept[whole - limit] = {name for name in names(tmp_path / str(limit)) if "-pass" in name or "-sampled.jsonl" in name}
    sampled = {"evaluate/stepwiser-sampled.jsonl"}
    assert kept == {0: sampled | {"evaluate/untrained-pass.jsonl"}, 1: sampled, 10: sampled, 11: set(), 20: set()}
    monkeypatch.setattr(ship, "LIMIT", whole - 21)
    with pytest.raises(ValueError, match=f"would have {whole - 20} bytes, more than {whole - 21}: ship a smaller run"):
        ship.ship(run, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_cannot_be_shipped_is_one_line(run, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    assert __main__.main(["ship", str(run), str(tmp_path / "full")]) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'full'} is not empty: choose another folder\n"
    assert names(tmp_path / "full") == {"file"}
    assert __main__.main(["ship", str(tmp_path), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"{tmp_path} holds no run: it has no recipe.json\n"
    (run / "judges" / "stepwiser" / ship.WEIGHTS).unlink()
    assert __main__.main(["ship", str(run), str(tmp_path / "out")]) == 2
    assert "has no adapter judges/stepwiser: ship a finished run of --preset tiny\n" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- data/run --------------------------------------------------------------------------------------------------------------


def test_without_a_folder_the_run_that_ships_is_opened(tmp_path, monkeypatch):
    monkeypatch.delenv("MINISW_RUN", raising=False)
    assert minisw.open_run().folder == SHIPPED
    monkeypatch.setenv("MINISW_RUN", str(tmp_path))
    with pytest.raises(ValueError, match=f"{tmp_path} holds no run"):
        minisw.open_run()
    assert minisw.open_run(SHIPPED).folder == SHIPPED  # a folder that is given counts more
    write_json(tmp_path / "recipe.json", PRESETS["tiny"].to_json())
    assert minisw.open_run().folder == tmp_path


def test_an_installed_package_has_the_run_inside_it(tmp_path, monkeypatch):
    package = tmp_path / "site" / "minisw"
    monkeypatch.setattr(saved_run, "__file__", str(package / "saved_run.py"))
    with pytest.raises(ValueError, match=r"the run that ships \(data/run\) is missing: get a complete checkout or wheel"):
        saved_run.shipped_folder()
    for folder in (package / "data" / "run", tmp_path / "site" / "data" / "run"):  # a checkout's own counts more
        folder.mkdir(parents=True)
        (folder / "recipe.json").write_text("{}")
        assert saved_run.shipped_folder() == folder


def test_the_results_of_a_study_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.delenv("MINISW_STUDY", raising=False)
    package = tmp_path / "site" / "minisw"
    monkeypatch.setattr(saved_run, "__file__", str(package / "saved_run.py"))
    assert saved_run.study_results("search") is None
    for number, folder in enumerate((package / "data" / "results" / "study", tmp_path / "site" / "data" / "results" / "study")):
        for name in ("search", "habits"):
            (folder / name).mkdir(parents=True)
            write_json(folder / name / "results.json", {"study": name, "rows": [number]})
        assert saved_run.study_results("search") == {"study": "search", "rows": [number]}  # a checkout's own count more
    own = tmp_path / "own"
    monkeypatch.setenv("MINISW_STUDY", str(own))
    with pytest.raises(ValueError, match=f"MINISW_STUDY names {own}, which is no folder"):
        saved_run.study_results("search")
    own.mkdir()
    write_json(own / "results.json", {"study": "search", "rows": ["own"]})
    assert saved_run.study_results("search")["rows"] == ["own"] and saved_run.study_results("habits") is None


def test_kept_results_are_found_in_a_checkout_and_in_an_installed_package(tmp_path, monkeypatch):
    assert saved_run.shipped_results("gsm8k-0.5b") == SHIPPED.parent / "results" / "gsm8k-0.5b"
    package = tmp_path / "site" / "minisw"
    monkeypatch.setattr(saved_run, "__file__", str(package / "saved_run.py"))
    with pytest.raises(ValueError, match="the results of own are missing: get a complete checkout or wheel"):
        saved_run.shipped_results("own")
    for folder in (package / "data" / "results" / "own", tmp_path / "site" / "data" / "results" / "own"):
        folder.mkdir(parents=True)
        write_json(folder / "run.json", {})
        assert saved_run.shipped_results("own") == folder


def test_the_run_that_ships_is_small_and_is_read_back():
    run = minisw.open_run(SHIPPED)
    assert ship.size(SHIPPED) <= ship.LIMIT
    assert (run.recipe.preset, run.recipe.seed, run.recipe.judge.start) == ("tiny", 0, "base")
    for stage in ("segment", "annotate", "judges", "evaluate", "search"):
        assert run.metrics(stage)
    lists = [str(path.relative_to(SHIPPED).with_suffix("")) for path in SHIPPED.glob("*/*.jsonl")]
    for name in set(lists) - {"annotate/stepwise"}:  # those are TRL's records
        assert run.records(name), name
    items = run.items()
    steps = sum(len(item.chunks) for item in items)
    assert len(items) == run.metrics("evaluate")["items"]
    assert sum(item.label >= 0 for item in items) == run.metrics("evaluate")["with_error"]
    assert len(run.records("evaluate/stepwiser")) == len(run.records("evaluate/untrained")) == steps
    assert all(judgment.analysis for name in ("stepwiser", "untrained") for judgment in run.records(f"evaluate/{name}"))
    assert {*ship.ADAPTERS} == {str(path.parent.relative_to(SHIPPED)) for path in SHIPPED.glob("*/*/adapter_config.json")}


def test_the_run_that_ships_names_no_folder_of_a_machine():
    for path in SHIPPED.rglob("*"):
        if path.suffix in (".json", ".jsonl", ".md"):
            text = path.read_text(encoding="utf-8")
            assert [word for word in ('"/', "/tmp/", "/home/", "/root/") if word in text] == [], path


@pytest.mark.slow
def test_the_judge_that_ships_gives_the_verdicts_of_the_full_run():
    run = minisw.open_run(SHIPPED)
    steps = flat([item.steps() for item in run.items()[:3]])
    then = run.records("evaluate/stepwiser")[: len(steps)]
    now = run.judge("stepwiser").judge(steps, seed=0, probabilities=True)
    assert [j.verdict for j in now] == [j.verdict for j in then]
    assert {j.verdict for j in now} == {True, False}
    assert max(abs(a.p_positive - b.p_positive) for a, b in zip(now, then, strict=True)) < 0.05
    assert all(p.dtype == torch.float32 for p in run.lm.adapter_parameters("stepwiser").values())


def test_a_run_without_exact_labels_has_no_items(monkeypatch):
    run = minisw.open_run(SHIPPED)
    run.task = dataclasses.replace(run.task, exact_labels=None)
    with pytest.raises(ValueError, match="the task 'arithmetic' has no exact labels"):
        run.items()
