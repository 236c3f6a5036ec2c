"""The report: question and answer first, from whatever records there are; nothing typed, missing studies named."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from factories import make_large, small_study, warped_record, write_records

from deformlib import __main__
from deformlib.paper.answer import find_large
from deformlib.paper.curves import UNCHANGED
from deformlib.paper.report import (
    LARGE,
    info_sheet,
    plan_section,
    repeat_table,
    report,
    robustness_lines,
    runs_for,
    separation,
    write_report,
)
from deformlib.paper.small_studies import MAIN, PARTS, headlines, read_studies, small_page
from deformlib.paper.study import STUDIES, WARPS
from deformlib.paper.table2 import escape_markdown
from deformlib.records import ResultsError

PAGES = (report, small_page, info_sheet)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder with one study, in which deformable has 0, 1, -1, 1, 0 clips more right."""
    write_records(tmp_path / "results" / MAIN, small_study((0, 1, -1, 1, 0)))
    return tmp_path / "results"


# The first page


def fill(folder: Path, gains: tuple[int, ...]) -> Path:
    """A results folder with a plan, and plain and deformable of the study `large` with such gains in clips."""
    write_records(
        folder / "large",
        [
            make_large(model, seed, 950 + 10 * (seed % 3) + gain * (model == "deformable"))
            for seed, gain in enumerate(gains)
            for model in ("plain", "deformable")
        ],
    )
    (folder / "large" / "PLAN.md").write_text(
        "# Plan\n\n## What counts as what\n\n| better | above 0 |\n\n## What will not be concluded\n\n"
        "- Nothing of GEMEP.\n"
    )
    return folder


STATES = {
    "nothing is run": ((), "**Not run yet: 0 of 10 pairs"),
    "some are run": ((40, 50, 45), "**Not decided yet: 3 of 10 pairs of runs are there (missing seeds: plain 3 to 9"),
    "better": ((40, 50, 45, 60, 44, 52, 41, 48, 47, 55), "**Better: on people that neither network has met"),
    "worse": ((-40, -50, -45, -60, -44, -52, -41, -48, -47, -55), "**Worse: on people that neither network has met"),
    "equivalent": (
        (3, -5, 8, 2, -7, 4, -2, 1, 6, -3),
        "**Equivalent by the interval, while the control that PLAN-3 asks for is not run: on people",
    ),
    "undecided": ((0, 40, 2, 38, 1, 39, 3, 37, 20, 20), "**Undecided: on people that neither network has met"),
}


@pytest.mark.parametrize("state", STATES)
def test_the_page_opens_with_the_answer_in_every_state(results: Path, state: str):
    """The answer stands above everything else; rules and limits are the plan's; no gap is left empty or nan."""
    gains, answer = STATES[state]
    text = report(fill(results, gains))
    opening = text[: text.index("## The numbers" if gains else "## What counts as what")]
    assert (
        answer in opening
        and ("chosen with plain networks only" in opening) == (len(gains) == 10)
        and ("report/answer.png" in opening) == bool(gains)
    )
    assert "| better | above 0 |" in text and "- Nothing of GEMEP." in text
    assert not re.search(r"\bnan\b", text) and "{{" not in text and "None is seen in the records" in text
    assert ("| normal ConvLSTM | 10 | 1360 |" in text) == (len(gains) == 10)
    sheet = info_sheet(results)
    assert f"from {2 * len(gains)} runs of the study `large`" in sheet and not re.search(r"\bnan\b", sheet)


def test_the_page_changes_its_mind_with_one_folder_of_records(results: Path):
    """A seed that is taken away takes the verdict back."""
    fill(results, STATES["better"][0])
    assert "**Better: on people" in report(results)
    for path in (results / "large").glob("*-9.json"):
        path.unlink()
    assert "missing seeds: plain 9; deformable 9" in report(results)


def test_controls_splits_and_warps_wait_for_their_records(results: Path):
    """Each study beside `large` that was run has a heading with its question and a table; others are not run."""
    fill(results, STATES["equivalent"][0])
    text = report(results)
    for name, study in STUDIES.items():
        if name.startswith("large_"):
            assert f"| {study.question} | 0 | not run | `python -m deformlib study {name}" in text
            assert f"### {study.question}" not in text
    wide = [make_large("matched_plain", seed, 960) for seed in range(5)]
    copies = [make_large(model, seed, 1300, "by_copy") for model in ("plain", "deformable") for seed in range(3)]
    write_records(results / "large", wide)
    write_records(results / "large_splits", copies)
    text = report(results)
    assert "| plain, as many parameters | 5 | 70.6 |" in text and "| by_copy | 3 | 95.6 | 95.6 |" in text
    assert f"### {STUDIES['large_controls'].question}" in text and "96.38 |" not in text
    assert len(runs_for("large_controls", find_large(results))) == 5
    assert "| 6 | 0.75 | `python -m deformlib study large_splits` |" in text
    assert "The plan asks for 10 seeds of each split; fewer decide nothing." in text


@pytest.mark.slow
def test_robustness_is_told_where_clips_were_warped(results: Path):
    """Deformable loses 0.1 less by each warp; where nothing was warped nothing is drawn."""
    fill(results, STATES["equivalent"][0])
    assert "robustness.png" not in report(results)
    records = find_large(results)["large"]
    for record in records:
        fall = 0.2 if record["experiment"]["model"] == "plain" else 0.1
        record["robustness"] = {
            kind: [[amount, record["accuracy"] - fall * (UNCHANGED[kind] != amount)] for amount in amounts]
            for kind, amounts in WARPS.items()
        }
    write_records(results / "large", records)
    text = write_report(results).read_text()
    assert "report/robustness.png" in text and (results / "report" / "robustness.png").exists()
    assert any("loses less than plain by the warp: +10.00 points" in line for line in robustness_lines(records))


def test_the_papers_numbers_stand_in_no_row(results: Path):
    """They are of GEMEP: in sentences, and in the rules of the plan, never in a row beside other data."""
    fill(results, STATES["better"][0])
    rows = [line for page in PAGES for line in page(results).splitlines() if line.startswith("|")]
    assert rows and not [line for line in rows if re.search(r"96\.38|98\.8", line)]


def test_a_section_of_the_plan_is_given_word_for_word(results: Path):
    fill(results, ())
    assert plan_section(results, "What will not be concluded") == "- Nothing of GEMEP."
    assert "has no section 'Runs'" in plan_section(results, "Runs")
    for heading in ("What counts as what", "What will not be concluded"):
        assert len(plan_section(Path(__file__).parent.parent / "results", heading)) > 200  # the committed plan has them


# Whatever records there are


def test_every_number_comes_from_the_records(results: Path):
    """Other accuracies, seconds, sizes and machines: no line with such a number stays as it was."""
    kept = {line for page in PAGES for line in page(results).splitlines()}
    for path in (results / MAIN).glob("*.json"):
        changed = json.loads(path.read_text())
        changed["seconds"], changed["parameters"], changed["multiply_adds"] = 777.0, 4321, 9_000_000
        changed["device"], changed["python"], changed["versions"] = "CPU, other", "3.13.0", {"torch": "2.10.0"}
        changed["split"] |= {
            "train": 401,
            "copies_in_training": [n and n - 7 for n in changed["split"]["copies_in_training"]],
        }
        changed["settings"]["training"]["lr"] = 0.1
        changed["settings"]["network"]["length"] = 8
        said, label = changed["validation"]["predicted"], changed["validation"]["label"]
        said[-1] = label[-1] if changed["experiment"]["model"] == "plain" else said[-1]
        changed["accuracy"] = float(np.mean(np.equal(said, label)))
        path.write_text(json.dumps(changed))
    fresh = {line for page in PAGES for line in page(results).splitlines()}
    stale = r"\b0\.3\b|1,234|0.0015|16 frames|CPU, toy|3.12.1|2.9.0|81 to 99|400|\+1.0 points"
    for number in stale.split("|"):
        assert any(re.search(number, line) for line in kept), number
        assert not any(re.search(number, line) for line in fresh), number


def test_missing_studies_are_named(results: Path):
    """Missing folders, in the headlines and in the table of commands; and a folder without any is an error."""
    page, said = small_page(results), headlines(read_studies(results))
    assert [line for line in said if line.endswith(": not run.")] == [
        f"{name}: not run." for name in ("example-motion", "example-words", "example-styles")
    ]
    lines = [line for line in info_sheet(results).splitlines() if "| not run | `python -m deformlib study" in line]
    assert len(lines) == 3 + len(LARGE)
    assert "*Are the offsets aligned with the body?* not run." in page and "nan" not in page
    with pytest.raises(
        ResultsError, match="has no records in large or in any of example-claims, .*name another folder or run"
    ):
        report(results / "nothing")
    (results / MAIN / "broken.json").write_text("{")
    with pytest.raises(ResultsError, match=r"broken\.json: no valid JSON"):
        report(results)


def test_runs_that_were_not_tested_on_warped_clips_are_enough_for_the_rest(results: Path):
    """Records of the study leakage alone: no robustness, said so, and the figure is still drawn."""
    records = [
        {name: value for name, value in each.items() if name != "robustness"} for each in small_study((0, 1, -1))
    ]
    write_records(results / MAIN, records)
    for path in (results / MAIN).glob("*-[34].json"):
        path.unlink()
    for path in (results / MAIN).glob("*.json"):
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"multiply_adds": None})
        )  # as older records, and classifiers
    assert "million multiply-adds a clip: none." in info_sheet(results)
    write_report(results)
    assert (
        "*Robustness.* deformable minus plain, on changed clips: not tested"
        in (results / "SMALL_STUDIES.md").read_text()
    )


def test_rows_of_other_studies_in_a_folder_do_not_count(results: Path):
    """The folder of motion capture also holds rows of Table 2, classifiers without any network among them."""
    pages = [page(results) for page in PAGES]
    forest = warped_record("hog_klt", "by_actor", 0, 20) | {"settings": {"feature": "hog_klt", "copies": 8}}
    write_records(results / MAIN, [forest, warped_record("majority_class", "by_copy", 0, 20) | {"settings": {}}])
    assert [page(results) for page in PAGES] == pages


@pytest.mark.parametrize(
    "damage",
    [
        {"settings": None},
        {"versions": []},
        {"robustness": {"rotate": [[0]]}},
        {"python": 3},
        {"split": {"name": "by_actor"}},
    ],
)
def test_a_damaged_record_is_named(results: Path, damage: dict):
    """In one sentence, whatever of it is wrong; `make fuzz` breaks many more."""
    whole = small_study((0,))[0]
    write_records(
        results / MAIN,
        [
            whole | damage | {"split": whole["split"] | {"copies_in_training": "none"}}
            if "split" in damage
            else whole | damage
        ],
    )
    for page in PAGES:
        with pytest.raises(ResultsError, match=rf"{whole['name']}\.json: no whole record .*delete it"):
            page(results)


def test_commands_and_costs_are_those_of_the_records(results: Path):
    """30 runs of 36 seconds are 0.3 hours; recipe and seeds stand in the command where they are not the study's own."""
    table = repeat_table(read_studies(results))
    assert len(table) == len(PARTS)
    leakage = table.iloc[1]
    assert (leakage["runs"], leakage["hours"]) == (30, "0.3")
    assert (
        leakage["command"] == "`python -m deformlib study leakage --recipe classroom --results results/example-claims`"
    )
    write_records(results / "example-words", small_study((0, 1), "words"))
    words = repeat_table(read_studies(results)).iloc[5]
    assert (
        words["command"]
        == "`python -m deformlib study tasks --corpus data/tasks/words --seeds 2 --results results/example-words`"
    )
    assert words["runs"] == 4  # by_clip and by_copy are no part of that study


def test_separation_counts_copies_and_actors(results: Path):
    """Zero by actor, the records' counts by copy; each seed once, however many models it has."""
    table = separation(read_studies(results)[MAIN]).set_index("split")
    assert table["copies in training"].to_dict() == {"by_actor": "0", "by_clip": "0", "by_copy": "81 to 99"}
    assert table.loc["by_actor", "actors held out"] == "5, 5 different" and set(table["seeds"]) == {5}


@pytest.mark.slow
def test_names_cannot_break_the_page(tmp_path: Path):
    """A folder may be called anything; what comes from a record is shown literally, in tables too."""
    assert escape_markdown("a|b *c* _d_ e_f\n<g>") == r"a\|b \*c\* \_d\_ e_f \<g\>"
    write_records(tmp_path / MAIN, small_study((0, 1, -1), "my|films*$x$"))
    strange = make_large("plain", 0, 950)
    strange["corpus"]["name"] = strange["corpus"]["source"] = "my|films*$x$"
    write_records(tmp_path / "large", [strange])
    for text in (page(tmp_path) for page in PAGES):
        for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
        assert "my|films" not in text and r"my\|films\*\$x\$" in text
    write_report(tmp_path)  # titles of figures as well


def test_pages_are_written_beside_and_renamed(results: Path, monkeypatch: pytest.MonkeyPatch):
    """What lies there afterwards is whole, and a stop in between leaves the old page and no rubbish."""
    path = write_report(results)
    assert path.read_text(encoding="utf-8") == report(results)
    assert (results / "INFO_SHEET.md").read_text(encoding="utf-8") == info_sheet(results)
    assert (results / "SMALL_STUDIES.md").read_text(encoding="utf-8") == small_page(results)
    assert sorted(file.name for file in (results / "report").iterdir()) == ["splits.png", "tests.png"]
    old = path.read_bytes()
    write_records(results / MAIN, small_study((5, 6, 5, 6, 5)))

    def full(self: Path, *words: object, **more: object) -> None:
        self.write_bytes(b"half a page")
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        write_report(results)
    assert path.read_bytes() == old and not list(results.rglob(".*"))


def test_the_command_line_writes_and_prints_it(results: Path, capsys: pytest.CaptureFixture):
    """python -m deformlib report FOLDER; one sentence and 1 where there is nothing."""
    assert __main__.main(["report", str(results)]) == 0
    assert (results / "REPORT.md").read_text(encoding="utf-8") in capsys.readouterr().out
    assert __main__.main(["report", str(results / "nothing")]) == 1
    assert "error:" in (said := capsys.readouterr().err) and "has no records" in said
