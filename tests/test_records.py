"""The schema of a record: what fits is kept to the letter, what does not is named, what is older is migrated."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from factories import make_record

from deformlib.files import DeformlibError
from deformlib.paper.migrate import migrate, migrate_folder
from deformlib.records import ResultsError, load_records, read_record, write_record

RESULTS = Path(__file__).parent.parent / "results"
OLD = {  # a run as the version before the schema wrote it
    "name": "tiny-removed_offsets-by_clip-0",
    "experiment": {"corpus": "toy", "split": "by_clip", "model": "removed_offsets", "seed": 0, "recipe": "tiny"},
    "corpus": {
        "name": "toy",
        "source": "made up",
        "key": "k",
        "videos": 10,
        "classes": ["calm", "glad"],
        "actors": 0,
        "size": 32,
    },
    "split": {"name": "by_clip", "seed": 0, "train": 992, "val": 2, "held_out": None, "siblings": [0, 3]},
    "parameters": 1234,
    "settings": {
        "network": {"length": 8, "defects": ["double_softmax"]},
        "offsets": "removed",
        "code": "d6ab2fd80bd06759",
    },
    "accuracy": 0.5,
    "validation": {
        "clip": ["a.avi", "b.avi"],
        "frames": [4, 5],
        "copy": [-1, -1],
        "label": [0, 1],
        "predicted": [0, 0],
    },
    "history": [{"epoch": 1, "watched": 0.5, "loss": 0.7}],
    "seconds": 1.5,
    "device": "CPU",
    "python": "3.12.1",
    "versions": {"torch": "2.9.0"},
}


@pytest.fixture
def record() -> dict:
    """A whole record."""
    return make_record("plain", "by_copy", 0, right=4, robustness={"rotate": [[0, 0.4], [15, 0.2]]})


def test_a_record_comes_back_as_it_was_written(record: dict, tmp_path: Path):
    """Also what not every record has; a line for each key, in the order of the dict; nothing else in the folder."""
    path = tmp_path / f"{record['name']}.json"
    write_record(path, record)
    assert read_record(path) == record and list(read_record(path)) == list(record)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line.split(":")[0].strip('"') for line in lines[1:-1]] == list(record)
    record["corpus"]["sampled"] = {"by number": 50, "by time": 0}
    del record["robustness"]
    write_record(path, record)
    assert read_record(path) == record and [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        ("accuracy", float("nan"), "finite"),
        ("accuracy", 1.5, "less than or equal to 1"),
        ("seconds", -1.0, "greater than or equal to 0"),
        ("seconds", "36", "valid number"),
        ("parameters", 10**30, "less than"),
        ("parameters", True, "valid integer"),
        ("experiment/seed", -1, "greater than or equal to 0"),
        ("experiment/temper", "mild", "not permitted"),
        ("corpus/classes", [], "at least 1"),
        ("corpus/sampled", {"by number": "all"}, "valid integer"),
        ("split/copies_in_training", [1], "at least 2"),
        ("validation/label", [0] * 9, "differ in length"),
        ("validation/predicted", [2] * 10, "class that is not there"),
        ("validation/copy", [-2] * 10, "greater than or equal to -1"),
        ("history", [{"loss": float("inf")}], "finite"),
        ("robustness/rotate", [[0]], "at least 2"),
        ("note\udcff", 1, "unicode"),
        ("device", None, "valid string"),
    ],
)
def test_what_breaks_the_schema_is_named(record: dict, tmp_path: Path, place: str, value: object, problem: str):
    """Written or read: one sentence with the file, the place, the problem and the remedy, and no file is left."""
    path, inner = tmp_path / "run.json", record
    *keys, last = place.split("/")
    for key in keys:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(ResultsError, match=problem) as refused:
        write_record(path, record)
    assert not list(tmp_path.iterdir()) and isinstance(refused.value, DeformlibError)
    path.write_text(json.dumps(record))
    with pytest.raises(ResultsError) as again:
        read_record(path)
    said = str(again.value)
    assert said == str(refused.value) and said.startswith(f"{path}: ") and "delete it" in said and "\n" not in said
    assert said.isprintable() and (keys[0] if keys else "record") in said


@pytest.mark.parametrize("field", ["name", "experiment", "validation", "history", "python"])
def test_a_missing_field_is_named(record: dict, tmp_path: Path, field: str):
    """Also one that the migration looks for."""
    del record[field]
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(ResultsError, match=f"record/{field}.*required"):
        read_record(tmp_path / "run.json")


@pytest.mark.parametrize("text", ["{half", "[" * 100_000, "", "null", "[]"])
def test_what_is_no_record_is_named(tmp_path: Path, text: str):
    """A file broken off, something else."""
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ResultsError, match=r"run\.json: no .* delete it"):
        read_record(tmp_path / "run.json")


def test_an_older_record_is_brought_to_the_schema(tmp_path: Path):
    """Each key that was renamed, and what a record did not have to say; the older dict itself stays."""
    before = deepcopy(OLD)
    expected = OLD | {
        "name": "tiny-offsets_zeroed_at_test-by_clip-0",
        "experiment": OLD["experiment"] | {"model": "offsets_zeroed_at_test"},
        "split": {"name": "by_clip", "seed": 0, "train": 992, "val": 2, "held_out": None, "copies_in_training": [0, 3]},
        "settings": {
            "network": {"length": 8},
            "offsets": "zeroed_at_test",
            "code": "16aa0431ba830712",
            "defects": ["double_softmax"],
        },
        "history": [{"epoch": 1, "val_accuracy": 0.5, "loss": 0.7}],
        "multiply_adds": None,
        "commit": None,
    }
    assert migrate(OLD) == expected == migrate(expected) and before == OLD
    assert list(migrate(OLD)["history"][0]) == ["epoch", "val_accuracy", "loss"]  # in their place
    (tmp_path / "run.json").write_text(json.dumps(OLD))
    with pytest.raises(ResultsError, match="python -m deformlib migrate"):
        read_record(tmp_path / "run.json")
    chance = OLD | {"name": "tiny-chance-by_clip-0", "experiment": OLD["experiment"] | {"model": "chance"}}
    assert migrate(chance)["name"] == "tiny-majority_class-by_clip-0"
    usual = OLD | {"settings": {"network": {"length": 8, "defects": []}, "offsets": "frozen", "code": None}}
    assert migrate(usual)["settings"] == {"network": {"length": 8}, "offsets": "frozen", "code": None}


def test_a_folder_is_migrated_with_its_weights(record: dict, tmp_path: Path):
    """Files of a renamed model get its name; of the others nothing changes but words; a second time nothing does."""
    (tmp_path / f"{OLD['name']}.json").write_text(json.dumps(OLD))
    (tmp_path / f"{OLD['name']}.safetensors").write_bytes(b"weights")
    (tmp_path / ".1-2.half.json").write_text("{half")
    write_record(tmp_path / f"{record['name']}.json", record)
    for renamed in (["tiny-offsets_zeroed_at_test-by_clip-0"], []):
        assert migrate_folder(tmp_path) == renamed
        names = {path.name for path in tmp_path.iterdir()}
        new = "tiny-offsets_zeroed_at_test-by_clip-0"
        assert names == {f"{record['name']}.json", f"{new}.json", f"{new}.safetensors", ".1-2.half.json"}
        assert json.loads((tmp_path / f"{new}.json").read_text()) == migrate(OLD)
        assert read_record(tmp_path / f"{record['name']}.json") == record


def test_a_folder_is_of_one_corpus_and_recipe_and_holds_each_run_once(record: dict, tmp_path: Path):
    """Sorted by file; a name with a dot in front was never finished; some models only, if asked."""
    with pytest.raises(ResultsError, match="no run record"):
        load_records(tmp_path)
    other = make_record("mbmic", "by_copy", 0, right=3)
    write_record(tmp_path / "2.json", record)
    write_record(tmp_path / "1.json", other)
    (tmp_path / ".123-4.3.json").write_text("{half")
    assert load_records(tmp_path) == [other, record]
    assert load_records(tmp_path, {"plain", "deformable"}) == [record] and load_records(tmp_path, ["fdcnn"]) == []
    for change in (
        {"corpus": other["corpus"] | {"key": "l"}},
        {"experiment": other["experiment"] | {"recipe": "paper"}},
    ):
        write_record(tmp_path / "1.json", other | change)
        with pytest.raises(ResultsError, match="mixes records"):
            load_records(tmp_path)
    write_record(tmp_path / "1.json", record)
    with pytest.raises(ResultsError, match="2 records of plain by_copy 0"):
        load_records(tmp_path)


def test_committed_records_fit_the_schema_and_their_names():
    """All of them, as they stand: nothing is left to migrate, and no weights without a record."""
    paths = sorted(RESULTS.glob("example-*/*.json"))
    assert len(paths) >= 406
    for path in paths:
        stored = json.loads(path.read_text(encoding="utf-8"))
        assert read_record(path) == stored == migrate(stored), path
        experiment = stored["experiment"]
        assert path.stem == stored["name"] == "{recipe}-{model}-{split}-{seed}".format(**experiment), path
    assert all(path.with_suffix(".json").exists() for path in RESULTS.glob("example-*/*.safetensors"))
