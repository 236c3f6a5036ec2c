"""The check of a GPU: its whole path on a CPU, in small; what it refuses, and that a part that fails stops no other."""

import json
from pathlib import Path

import pytest
import torch

from deformlib.paper import gpu_check
from deformlib.paper.commands import main
from deformlib.paper.device import untrained
from deformlib.paper.gpu_check import (
    EPOCHS,
    PARTS,
    SMALL,
    check,
    check_step,
    describe_check,
    failures,
    naive_network,
    protocol_minutes,
    rounded,
)

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def code_of(*words: object) -> int:
    """The exit code of a command."""
    try:
        return main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code)


@without_gpu
def test_without_a_gpu_it_says_so_and_leaves_with_2(tmp_path: Path, capsys: pytest.CaptureFixture):
    """One sentence with the remedy, and no record; the other way round as well."""
    assert code_of("gpu-check", tmp_path) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no GPU" in said and "--device cpu --small" in said
    assert code_of("gpu-check", tmp_path, "--device", "mps") == 2 and not list(tmp_path.iterdir())


@pytest.mark.slow  # the page has operator and memory
@without_gpu
def test_the_whole_path_in_small_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture):
    """All parts, one after the other: ratios, memory counted and measured, a run that was killed and went on."""
    assert code_of("gpu-check", tmp_path, "--device", "cpu", "--small") == 0
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    assert path.stem == record["name"] == "check-cpu-small" and record["small"] and record["gpu"] == {}
    parts = record["parts"]
    assert list(parts) == list(PARTS) and not any("failed" in found for found in parts.values())
    assert [row["input"][1] for row in parts["operator"]] == list(SMALL.channels)
    assert all(row["difference"] < 1e-5 and row["both_ms"] > 0 for row in parts["operator"])
    assert [row["batch"] for row in parts["step"]] == [4, 4, 2, 4] and parts["step"][0]["times_better"] == 1
    assert parts["step"][3]["first_step_seconds"] > 0 and failures(record) == []
    memory = parts["memory"]
    assert abs(memory["counted_gb"] / memory["measured_gb"] - 1) < 0.1 and memory["batch_found"] == 4
    run = parts["run"]
    assert 1 <= run["went_on_from"] < run["steps"] == 4 and [row["epoch"] for row in run["history"]] == [1, 2]
    assert all(len(row["offsets"]) == 3 for row in run["history"])
    said = capsys.readouterr().out
    assert describe_check(record) == path.with_suffix(".md").read_text() and describe_check(record) in said
    assert "check-cpu-small.json and .md are written" in said and "pull request" not in said


@without_gpu
def test_a_part_that_fails_is_recorded_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What it said stands in the record and in the table; the command leaves with 1."""

    def fails(device: torch.device, size: gpu_check.Size) -> list:
        raise torch.OutOfMemoryError("no room\nand much more")

    def surprises(device: torch.device, size: gpu_check.Size) -> list:
        raise AssertionError("of a library")

    parts = {"first": fails, "second": surprises, "third": lambda device, size: {"ms": 1 / 3}}
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    record = check(tmp_path, "cpu", small=True)
    assert failures(record) == ["OutOfMemoryError: no room", "AssertionError: of a library"]
    assert record["parts"]["first"] == {"failed": "OutOfMemoryError: no room"}
    assert record["parts"]["third"] == {"ms": 0.3333}
    assert "no room" in (tmp_path / "check-cpu-small.md").read_text()
    assert code_of("gpu-check", tmp_path, "--device", "cpu", "--small") == 1


def test_a_card_that_the_compiler_does_not_know(monkeypatch: pytest.MonkeyPatch):
    """The other steps keep their times; the row of the compiled one says what was refused, and counts as a failure."""

    def refuses(device: torch.device, size: gpu_check.Size) -> dict:
        raise RuntimeError("this card is too old\nfor the compiler")

    monkeypatch.setattr(gpu_check, "compiled_step", refuses)
    *others, compiled = check_step(torch.device("cpu"), SMALL)
    assert len(others) == 3 and all(row["ms"] > 0 for row in others)
    assert compiled == {"network": "ours, compiled", "in": "no", "batch": 4} | {
        "failed": "RuntimeError: this card is too old"
    }
    assert failures({"parts": {"step": [*others, compiled]}}) == [compiled["failed"]]


def test_what_may_break_the_card_comes_last():
    """A batch that is too large for a kernel can leave a process without its GPU."""
    assert list(PARTS)[-1] == "memory" and set(PARTS) == {"operator", "step", "run", "memory"}


def test_the_batch_is_found_downwards(monkeypatch: pytest.MonkeyPatch):
    """Full memory at twelve clips: with ten that should fit, eleven are the most that do."""

    def measured(device: torch.device, recipe: str, batch: int) -> int:
        if batch >= 12:
            raise torch.OutOfMemoryError("full")
        return batch

    monkeypatch.setattr(gpu_check, "measured_memory", measured)
    found = gpu_check.check_memory(torch.device("cpu"), gpu_check.replace(SMALL, batch=10))
    assert found["batch_found"] == 11 and found["refused"] == {"12": "full"}


def test_the_usual_network_gives_the_same_answers():
    """With offsets of about a pixel, so that its deformable steps count."""
    ours = untrained("tiny", "deformable").double().eval()
    for name, weight in ours.named_parameters():
        if "offset_branch.bias" in name:
            torch.nn.init.normal_(weight)
    usual = naive_network(ours.config).double().eval()
    usual.load_state_dict(ours.state_dict())
    clips = torch.rand(2, 1, 8, 32, 32, dtype=torch.float64)
    plain = untrained("tiny", "plain").double().eval()(clips)
    torch.testing.assert_close(usual(clips), ours(clips), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(ours(clips), plain, rtol=0, atol=1e-7)


def test_minutes_and_digits():
    """Fifty epochs of 7242 clips, and a third of the time for 1810 others; four digits are kept."""
    assert protocol_minutes(2.0, 2) == pytest.approx(EPOCHS * (7242 + 1810 / 3) / 60)
    assert rounded({"a": [1.23456, float("inf")], "b": (1, "x")}) == {"a": [1.235, float("inf")], "b": [1, "x"]}
