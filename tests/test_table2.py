"""Tables 1 and 2 from records whose answers are known, and the files of a results folder."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from factories import make_record
from matplotlib.collections import PathCollection

from deformlib.paper.table2 import (
    caption,
    draw_confusion,
    draw_cost,
    draw_table1,
    held_out_ratio,
    side_by_side,
    sources,
    table1,
    table2,
    table_texts,
    titles,
    write_tables,
)
from deformlib.records import load_records, write_record
from deformlib.tables import runs_table

RESULTS = Path(__file__).parent.parent / "results"


@pytest.fixture
def records() -> list[dict]:
    """Three seeds of plain and deformable under the released code's split."""
    counts = {"plain": (4, 5, 6), "deformable": (5, 7, 6)}
    return [make_record(model, "by_copy", seed, right) for model in counts for seed, right in enumerate(counts[model])]


def with_classes(records: list[dict], count: int = 17) -> list[dict]:
    """The same runs on a corpus of so many classes; the paper's has 17."""
    classes = [f"class {number}" for number in range(count)]
    return [run | {"corpus": run["corpus"] | {"classes": classes}} for run in records]


@pytest.fixture
def rows(records: list[dict]) -> list[dict]:
    """Two rows of Table 2 and two models of other studies beside them; mbmic trains no network."""
    more = [("fdcnn", 3), ("mbmic", 2), ("steps_even", 6), ("my_own", 1)]
    others = [make_record(model, "by_copy", seed, right) for model, right in more for seed in range(3)]
    others.append(make_record("mbmic", "by_actor", 0, 1))
    for run in others:
        if run["experiment"]["model"] == "mbmic":
            run |= {"multiply_adds": None, "settings": {"copies": 8, "clip": [32, 112, 112]}}
    return records + others


def test_every_name_stands_once_in_one_table():
    """No two models have one title; a source or a reason for every row."""
    table = sources()
    assert list(table) == ["title", "source", "known", "ours"] and table.index.is_unique
    assert table["title"].is_unique and (table[["title", "source", "ours"]] != "").all(axis=None)
    assert titles()["majority_class"] == "majority class"


def test_table1_has_a_row_for_each_split_and_model(records: list[dict]):
    """And below them the difference in pairs."""
    records += [make_record("plain", "by_actor", 0, 2), make_record("deformable", "by_actor", 0, 1)]
    table = table1(runs_table(with_classes(records)), {"plain": "the plain one"}).set_index(["split", "model"])
    assert table["accuracy"]["by_copy", "the plain one"] == pytest.approx(50)
    assert table["accuracy"]["by_actor", "difference, in pairs"] == pytest.approx(-10)
    assert table["test clips"]["by_copy", "deformable"] == 30


@pytest.mark.parametrize("count", [2, 10, 17])
def test_the_papers_numbers_stand_in_no_row_of_other_data(rows: list[dict], count: int):
    """Nor in a caption; that they are for GEMEP is said where rows of the paper's Table 2 are, for as many classes."""
    texts = table_texts(with_classes(rows, count))
    assert not any(number in text for text in texts.values() for number in ("98.8", "96.38", "95.4", "94.6", "95.9"))
    assert ("for GEMEP and stands in no row" in texts["table2.md"]) == (count == 17)


def test_clips_under_test_are_counted_for_each_in_training():
    """50 videos: 10 tested, 40 trained, then 2 and 48; all seeds together. Copies are cut at 80 %."""
    runs = [make_record("plain", "by_actor", seed, 1, of=tested) for seed, tested in enumerate((10, 2))]
    assert held_out_ratio(runs, "by_actor") == pytest.approx(12 / 88) and held_out_ratio(runs[:1], "by_actor") == 0.25
    assert held_out_ratio([make_record("plain", "by_copy", 0, 1, of=2)], "by_copy") == 0.25
    assert held_out_ratio(runs, "by_clip") == 0.25  # without a record


@pytest.mark.parametrize(
    ("folder", "split", "ratio"),
    [
        ("example-claims", "by_actor", 145 / 580),
        ("example-motion", "by_actor", 188 / 562),
        ("example-words", "by_actor", 24 / 120),
        ("example-motion", "by_clip", 29 / 121),
        ("example-motion", "by_copy", 0.25),
    ],
)
def test_the_ratios_of_the_committed_splits(folder: str, split: str, ratio: float):
    """Two of ten actors, two of eight, one of six: no factor is good for all."""
    assert held_out_ratio(load_records(RESULTS / folder), split) == pytest.approx(ratio)


def test_the_caption_says_what_the_data_is(records: list[dict]):
    """Corpus, chance level, machines; actors where they are known."""
    assert "toy (50 videos, 2 classes, 5 actors): made up." in caption(records)
    assert "Chance level: 50.0 %" in caption(records) and caption(records).endswith("Ran on: CPU.")
    records[0]["corpus"]["actors"] = 0
    assert "toy (50 videos, 2 classes): made up." in caption(records)
    records[-1]["device"] = "a GPU"  # one row has run elsewhere
    assert caption(records).endswith(f"Ran on: CPU; a GPU ({records[-1]['experiment']['model']}).")


def test_table2_has_every_model_in_order(rows: list[dict]):
    """Ours first, as methods.csv has them, others at the end."""
    table = table2(runs_table(with_classes(rows)))
    assert list(table["row"]) == [titles().get(model, "my own") for model in table["model"]]
    assert list(table["model"]) == ["deformable", "plain", "fdcnn", "mbmic", "mbmic", "steps_even", "my_own"]
    assert table["accuracy"].tolist() == pytest.approx([60, 50, 30, 10, 20, 60, 10])
    wide = side_by_side(table).set_index("row")
    assert wide.loc["MBMIC", "toy, by_copy"] == "20.0 ± 0.0 (3)" and wide.loc["MBMIC", "toy, by_actor"] == "10.0 (1)"
    assert wide.loc["FDCNN (image)", "million multiply-adds"] == 2.5 and np.isnan(
        wide.loc["MBMIC", "million multiply-adds"]
    )
    assert "difference frame" in wide.loc["MBMIC", "known"] and "blocks" in wide.loc["MBMIC", "our reconstruction"]
    elsewhere = [run | {"corpus": run["corpus"] | {"name": "other"}} for run in rows]
    assert {"toy, by_copy", "other, by_copy"} <= set(side_by_side(table2(runs_table(rows + elsewhere))).columns)


def test_the_figures_show_every_run_and_the_chance_level(records: list[dict]):
    """A dot for each run at its accuracy, the line where it belongs; a confusion matrix as shares of its rows."""
    for chance in (50, 5.9):
        ax = draw_table1(runs_table(records), plt.subplots()[1], chance=chance)
        dots = [y for dots in ax.collections if isinstance(dots, PathCollection) for _, y in dots.get_offsets()]
        assert sorted(dots) == pytest.approx([40, 50, 50, 60, 60, 70])
        assert [line.get_ydata()[0] for line in ax.lines if line.get_label() == "chance level"] == [chance]
    ax = draw_confusion(np.array([[3, 1], [0, 0]]), ["calm", "glad"], plt.subplots()[1])
    assert ax.images[0].get_array().tolist() == [[0.75, 0.25], [0, 0]]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true")
    plt.close("all")


def test_the_cost_figure_has_every_row(rows: list[dict]):
    """A point for each row at its seconds and accuracy, and names that do not lie on each other."""
    table = table2(runs_table([run for run in rows if run["experiment"]["split"] == "by_copy"]))
    ax = draw_cost(table, plt.subplots()[1])
    assert {text.get_text(): tuple(text.xy) for text in ax.texts} == {
        cell.row: (cell.seconds, cell.accuracy) for cell in table.itertuples()
    }
    heights = np.sort([text.xyann[1] for text in ax.texts])
    assert np.diff(heights).min() > 0.059 and heights.max() <= 1
    plt.close("all")


@pytest.mark.parametrize(
    ("models", "base", "tests"),
    [
        (("plain", "deformable"), None, 0),
        (("deformable", "fdcnn", "mbmic"), "deformable", 2),  # by_actor, nothing is there to compare mbmic with
        (("fdcnn", "mbmic"), "fdcnn", 1),
        (("deformable", "steps_even"), "deformable", 1),
    ],
)
def test_records_get_the_tables_that_they_allow(
    rows: list[dict], models: tuple[str, ...], base: str | None, tests: int
):
    """Table 2 only with other models, its remarks only for rows that are there, Table 1 only with the two networks."""
    chosen = with_classes([run for run in rows if run["experiment"]["model"] in models])
    texts = table_texts(chosen)
    names = {"table1.md", "table1.csv", "table1.tex", "recall.csv"} if "deformable" in models else set()
    assert set(texts) == names | ({"table2.md", "table2.csv", "table2.tex"} if base else set())
    assert all("made up" in text for text in texts.values())  # no table without the name of its data
    if base:
        text = texts["table2.md"]
        assert ("five emotions, not 17" in text) == ("8 copies of each" in text) == ("mbmic" in models)
        assert f"Paired tests against {base}" in text and text.count("\n| by_") == tests


def test_a_results_folder_gets_texts_and_figures(rows: list[dict], tmp_path: Path):
    """Each file whole, as table_texts has it, and Table 1 comes back."""
    chosen = [run for run in rows if run["experiment"]["split"] == "by_copy"]
    for run in chosen:
        write_record(tmp_path / f"{run['name']}.json", run)
    assert write_tables(tmp_path).equals(table1(runs_table(chosen), titles()))
    made = {path.name: path for path in tmp_path.iterdir() if path.suffix != ".json"}
    texts = table_texts(load_records(tmp_path))
    assert set(made) == set(texts) | {"table1.png", "confusion.png", "table2.png"}
    assert all(made[name].read_text(encoding="utf-8") == text for name, text in texts.items())
    assert all(plt.imread(path).shape[0] > 100 for path in made.values() if path.suffix == ".png")
    assert len(pd.read_csv(made["table2.csv"])) == len(table2(runs_table(chosen))) and not plt.get_fignums()


@pytest.mark.parametrize("folder", sorted(RESULTS.glob("example-*")), ids=lambda folder: folder.name)
def test_committed_tables_are_built_from_the_committed_records(folder: Path):
    """No number is typed by hand: built again, every table has the same bytes."""
    texts = table_texts(load_records(folder))
    assert texts and set(texts) == {path.name for path in folder.iterdir() if path.suffix in (".md", ".csv", ".tex")}
    for name, text in texts.items():
        assert (folder / name).read_text(encoding="utf-8") == text, name
