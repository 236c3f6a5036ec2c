"""The benchmarks run, on a small scale, and what they write holds together; how long things took is not asserted."""

import gc
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import benchmark_network
import benchmark_training
import pytest

RESULTS = Path(__file__).parent.parent / "results"


def quick(benchmark: ModuleType, folder: Path) -> dict[str, list[dict]]:
    """What `--quick` writes as JSON, a list of rows for each name; the committed files stay as they are."""
    before = {path: path.stat().st_mtime_ns for path in (RESULTS / "benchmarks").iterdir()}
    gc.freeze()  # or every measurement would look through all that other tests have imported
    try:
        benchmark.main(["--quick", "--folder", str(folder)])
    finally:
        gc.unfreeze()
    assert before == {path: path.stat().st_mtime_ns for path in (RESULTS / "benchmarks").iterdir()}
    name = benchmark.__name__.removeprefix("benchmark_")
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.json", f"{name}.md"]
    record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    found = {key: rows for key, rows in record.items() if isinstance(rows, list)}
    text = (folder / f"{name}.md").read_text(encoding="utf-8")
    assert record["versions"]["torch"] and f"commit {record['commit']}" in text and text.count("\n\n|") >= 2
    assert all(number >= 0 and math.isfinite(number) for number in numbers(found))
    return found


def numbers(value: object) -> Iterator[float]:
    """All numbers in lists and dicts."""
    if isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers(item)
    elif isinstance(value, (int, float)):
        yield value


@pytest.mark.slow
def test_the_training_benchmark_runs(tmp_path: Path):
    """The tiny recipe: its steps, what follows from their seconds, and a profile whose shares make one."""
    found = quick(benchmark_training, tmp_path)
    (recipe,), (rates,), parts = found["recipes"], found["rates"], found["profile"]
    assert (recipe["recipe"], recipe["batch"], recipe["steps"]) == ("tiny", 4, 8) and recipe["seconds"] > 0 < recipe[
        "mb"
    ]
    assert recipe["clips_per_second"] == pytest.approx(4 / recipe["seconds"], rel=1e-2)
    assert recipe["minutes"] == pytest.approx(8 * recipe["seconds"] / 60, rel=1e-2)
    assert recipe["arithmetic_minutes"] > 0 < recipe["memory_minutes"] and min(rates["matrix"], rates["copy"]) > 0
    assert [part["part"] for part in parts[-3:]] == ["linear", "optimiser", "data"] and len(parts) == 12
    assert sum(part["share"] for part in parts) == pytest.approx(1, abs=1e-2)


@pytest.mark.slow
def test_the_network_benchmark_runs(tmp_path: Path):
    """A small network in every form, each checked against the naive one on the way: rows for all, with their ratios."""
    found = quick(benchmark_network, tmp_path)
    assert {row["move"] for row in found["stack"]} >= set(benchmark_network.MOVES[:-1])  # bfloat16 where it is quick
    assert [row["network"] for row in found["step"]][:4] == [
        "naive",
        "ours, memory not kept",
        benchmark_network.KEPT,
        "ours",
    ]
    assert len(found["conv3d"]) == 1 + 2 * len(benchmark_network.kinds("cpu"))
    for name in ("stack", "conv3d", "step"):
        first = found[name][0]
        assert first["time"] == first["memory"] == 1 and all(row["seconds"] > 0 for row in found[name])
    assert len({(row["length"], row["size"], row["batch"]) for row in found["scaling"]}) == len(found["scaling"]) >= 4
    assert len(found["stages"]) == 10 and all(row["floor_minutes"] > 0 for row in found["floor"])
