"""Tables from records whose answers are known."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from deformlib.results import (
    ResultsError,
    caption,
    confusion,
    difference,
    draw_table1,
    interval,
    load_records,
    recall,
    runs_table,
    table1,
    to_markdown,
    write_tables,
)

ROOT = Path(__file__).parent.parent


def record(model: str, split: str, seed: int, right: int, of: int = 10) -> dict:
    """A record with so many right predictions; the wrong ones say class 1 for class 0."""
    return {
        "name": f"{model}-{split}-{seed}",
        "experiment": {"model": model, "split": split, "seed": seed, "recipe": "tiny"},
        "corpus": {"name": "toy", "source": "made up", "key": "k", "videos": 50, "classes": ["calm", "glad"], "actors": 5},
        "split": {"val": of},
        "parameters": 123,
        "accuracy": right / of,
        "validation": {"label": [0] * of, "predicted": [0] * right + [1] * (of - right)},
        "seconds": 1.5,
        "device": "CPU",
        "commit": "0123456789",
    }


@pytest.fixture
def records() -> list[dict]:
    """Three seeds of each model under the paper's split."""
    counts = {"plain": (4, 5, 6), "deformable": (5, 7, 6)}
    return [record(model, "by_copy", seed, right) for model, rights in counts.items() for seed, right in enumerate(rights)]


def test_interval_is_students():
    """Against numbers from a printed t table: 4.303 for two degrees of freedom, 2.776 for four."""
    mean, half = interval([40, 44, 48])
    assert mean == 44 and half == pytest.approx(4.3027 * 4 / np.sqrt(3), rel=1e-4)
    mean, half = interval([1, 2, 3, 4, 5])
    assert mean == 3 and half == pytest.approx(2.7764 * np.sqrt(2.5) / np.sqrt(5), rel=1e-4)
    assert interval([7])[0] == 7 and np.isnan(interval([7])[1])


def test_differences_are_taken_within_a_seed(records: list[dict]):
    """+10, +20 and 0 points; a seed that one model lacks is left out."""
    mean, half, pairs = difference(runs_table(records), "by_copy")
    assert (mean, pairs) == (pytest.approx(10), 3) and half == pytest.approx(4.3027 * 10 / np.sqrt(3), rel=1e-4)
    mean, _, pairs = difference(runs_table(records[:-1]), "by_copy")
    assert (mean, pairs) == (pytest.approx(15), 2)


def test_table1_keeps_the_papers_numbers_apart(records: list[dict]):
    """They stand in their own column, beside the paper's split and nowhere else."""
    records += [record("plain", "by_actor", 0, 2), record("deformable", "by_actor", 0, 1)]
    table = table1(runs_table(records))
    reported = table.set_index(["split", "model"])["paper (GEMEP, authors' report)"]
    assert reported["by_copy"].round(2).tolist() == [96.38, 98.8, 2.42]
    assert reported["by_actor"].isna().all()
    means = table.set_index(["split", "model"])["accuracy"]
    assert means["by_copy", "normal ConvLSTM"] == pytest.approx(50)
    assert means["by_actor", "difference, in pairs"] == pytest.approx(-10)


def test_confusion_counts_and_recall(records: list[dict]):
    """Rows are what was acted; both models are kept apart."""
    counts = confusion(records, "plain", "by_copy")
    assert counts.tolist() == [[15, 15], [0, 0]]
    rows = recall(counts, ["calm", "glad"])
    assert rows["recall"][0] == 50 and np.isnan(rows["recall"][1]) and rows["clips"].tolist() == [30, 0] and rows["taken for"][0] == "glad"


def test_markdown_and_caption_say_what_the_data_is(records: list[dict]):
    """Corpus, split, chance, seeds; no nan in the text."""
    text = to_markdown(pd.DataFrame({"a": [1.25, float("nan")], "b": ["x", pd.NA], "paper": [96.38, 98.8]}))
    assert text == "| a | b | paper |\n| --- | --- | --- |\n| 1.2 | x | 96.38 |\n|  |  | 98.8 |\n"
    assert "toy (50 videos, 2 classes, 5 actors): made up." in caption(records) and "Chance: 50.0 %" in caption(records)
    records[0]["corpus"]["actors"] = 0
    assert "toy (50 videos, 2 classes): made up." in caption(records)


def test_broken_and_missing_records_are_named(tmp_path: Path, records: list[dict]):
    """One sentence with the file and the remedy."""
    with pytest.raises(ResultsError, match="holds no run record"):
        load_records(tmp_path)
    (tmp_path / "half.json").write_text(json.dumps(records[0])[:50])
    with pytest.raises(ResultsError, match=r"half\.json: no valid JSON .* delete it"):
        load_records(tmp_path)


def test_unfinished_and_mixed_records_do_not_count(tmp_path: Path, records: list[dict]):
    """A name with a dot in front was never finished; two corpora or recipes in one folder are an error."""
    (tmp_path / "one.json").write_text(json.dumps(records[0]))
    (tmp_path / ".123-4.two.json").write_text("{half")
    assert load_records(tmp_path) == [records[0]]
    for change in ({"corpus": records[1]["corpus"] | {"key": "other"}}, {"experiment": records[1]["experiment"] | {"recipe": "paper"}}):
        (tmp_path / "two.json").write_text(json.dumps(records[1] | change))
        with pytest.raises(ResultsError, match="mixes records"):
            load_records(tmp_path)


def test_the_figure_shows_every_run_and_chance(records: list[dict]):
    """A dot for each run at its accuracy, the chance line where it belongs."""
    _, ax = plt.subplots()
    draw_table1(runs_table(records), ax, chance=50)
    dots = [y for dots in ax.collections if isinstance(dots, PathCollection) for _, y in dots.get_offsets()]
    assert sorted(dots) == pytest.approx([40, 50, 50, 60, 60, 70])
    assert [line.get_ydata()[0] for line in ax.lines if line.get_label() == "chance"] == [50]
    draw_table1(runs_table(records), ax := plt.subplots()[1], chance=5.9)
    assert [line.get_ydata()[0] for line in ax.lines if line.get_label() == "chance"] == [5.9]
    plt.close("all")


@pytest.mark.parametrize("folder", sorted(ROOT.glob("results/example-*")), ids=lambda folder: folder.name)
def test_committed_tables_are_built_from_the_committed_records(folder: Path, tmp_path: Path):
    """No number is typed by hand: built again, every table has the same bytes."""
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_tables(tmp_path)
    for name in ("table1.md", "table1.csv", "recall.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
