"""Features where the answer is known, votes, copies, the cache, and every row of Table 2 on a tiny corpus."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from factories import moving_squares

from deformlib.corpus import Corpus, Video
from deformlib.make.figures import plan_corpus
from deformlib.make.films import SOURCE
from deformlib.make.gestures import plan_tasks
from deformlib.network import NetworkConfig, paper_steps
from deformlib.paper import methods
from deformlib.paper.methods import (
    BASELINES,
    COPIES,
    FEATURES,
    TABLE2,
    BidirectionalNet,
    ClassicMethod,
    FrameNet,
    SupportNeighbors,
    block_codes,
    difference_frames,
    draw_copies,
    features,
    frame_accuracy,
    hog_klt,
    mean_frame,
    model_size,
    orientations,
    r2plus1d,
    source_hash,
    track,
    vote_shares,
)
from deformlib.paper.pretraining import MOTION, PRETRAINED
from deformlib.paper.study import (
    METHODS,
    STUDIES,
    Experiment,
    NetworkMethod,
    StudyError,
    fill_defaults,
    make_split,
    run,
)
from deformlib.paper.table2 import titles
from deformlib.splits import by_actor, by_copy

RESULTS = Path(__file__).parent.parent / "results"
TINY = NetworkConfig(
    classes=3, length=8, size=32, conv3d=(8, 8, 16), hidden=(8, 8, 8), conv2d=(16, 16, 16), deform_steps=paper_steps(4)
)
CLASSIC = [name for name, method in BASELINES.items() if isinstance(method, ClassicMethod)]


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Twelve clips of a moving square."""
    return moving_squares(tmp_path_factory.mktemp("squares"))


def square(*places: tuple[int, int]) -> np.ndarray:
    """A bright square of 20 pixels on gray, its upper left corner at each (y, x) in turn, uint8 [T, 112, 112]."""
    clip = np.full((len(places), 112, 112), 60, dtype=np.uint8)
    for frame, (y, x) in zip(clip, places, strict=True):
        frame[y : y + 20, x : x + 20] = 200
    return clip


def test_differences_are_absolute_and_without_noise():
    """Up and down count alike; 19 is noise, 20 is not."""
    clip = np.array([[[100, 100, 100, 100]], [[190, 10, 119, 120]]], dtype=np.uint8)
    assert difference_frames(clip).tolist() == [[[90, 90, 0, 20]]]


@pytest.mark.parametrize("blocks", [(6, 6), (3, 12)])
def test_a_difference_in_one_block_is_one_code(blocks: tuple[int, int]):
    """Two corners span the box; a third change lies in one block, and only its number joins theirs."""
    rows, columns = blocks
    for row, column in ((1, 2), (rows - 2, columns - 3)):
        clip = np.zeros((2, 112, 112), dtype=np.uint8)
        clip[1, 20, 30] = clip[1, 20 + 12 * rows - 1, 30 + 5 * columns - 1] = 50  # blocks of 12 x 5 pixels
        clip[1, 20 + 12 * row : 20 + 12 * row + 12, 30 + 5 * column : 30 + 5 * column + 5] = 120
        clip[1, 20 + 12 * row + 4, 30 + 5 * column + 2] = 220  # the largest counts
        code = block_codes(clip, blocks).reshape(blocks)
        expected = np.zeros(blocks)
        expected[0, 0] = expected[-1, -1] = 50
        expected[row, column] = 220
        assert np.array_equal(code, expected)


def test_codes_do_not_know_the_place_and_a_still_pair_is_zero():
    """The same motion elsewhere has the same code."""
    here, there = square((30, 20), (33, 25), (33, 25)), square((50, 60), (53, 65), (53, 65))
    assert np.array_equal(block_codes(here), block_codes(there))
    assert block_codes(here)[0].any() and not block_codes(here)[1].any()


@pytest.mark.parametrize("shift", [(3, 5), (-4, 2), (0, -6)])
def test_a_moved_square_gives_its_displacement(shift: tuple[int, int]):
    """Every corner, in the order (dy, dx), also in the pooled features."""
    clip = square((45, 45), (45 + shift[0], 45 + shift[1]))
    starts, ends = track(clip[0], clip[1], difference_frames(clip)[0])
    assert len(starts) >= 4 and np.abs(ends - starts - shift).max() < 0.1
    corners = np.array([[45, 45], [45, 64], [64, 45], [64, 64]])
    assert all(np.abs(starts - corner).max(1).min() <= 1 for corner in corners)
    assert np.abs(hog_klt(clip)[0, 36:38] - shift).max() < 0.1


def test_corners_are_found_only_where_something_moves():
    """A second square that stands still has none; a still pair has none at all."""
    clip = square((20, 20), (23, 25))
    clip[:, 80:100, 80:100] = 200
    starts, _ = track(clip[0], clip[1], difference_frames(clip)[0])
    assert len(starts) and starts.max() < 60
    starts, ends = track(clip[0], clip[0], difference_frames(clip[[0, 0]])[0])
    assert starts.shape == ends.shape == (0, 2)


@pytest.mark.parametrize("bin_", range(9))
def test_a_gradient_gives_its_orientation_bin(bin_: int):
    """A ramp at the middle of a bin, in every one of the four cells."""
    y, x = np.mgrid[-12:12, -12:12]
    angle = np.radians(20 * bin_ + 10)
    ramp = (128 + 7 * (x * np.cos(angle) + y * np.sin(angle))).round().astype(np.uint8)
    cells = orientations(ramp, np.array([[12.0, 12.0]])).reshape(4, 9)
    assert (cells.argmax(1) == bin_).all()


def test_patches_lie_around_their_points():
    """An edge is seen from its own place and not from elsewhere; points on the border work; none gives none."""
    image = np.zeros((112, 112), dtype=np.uint8)
    image[60:, :] = 200
    found = orientations(image, np.array([[60.0, 30.0], [20.0, 30.0], [0.0, 0.0], [111.0, 111.0]]))
    assert found.shape == (4, 36) and found[0].any() and not found[1:].any()
    assert orientations(image, np.zeros((0, 2))).shape == (0, 36)


def test_an_opencv_without_hog_is_named_when_it_is_needed(monkeypatch: pytest.MonkeyPatch):
    """OpenCV 5 beside 4 in one folder: what other packages bring. The other features go on."""
    clip = square((20, 20), (30, 40), (40, 60))
    assert hog_klt(clip).shape == (1, 86)
    monkeypatch.delattr(cv2, "HOGDescriptor")
    monkeypatch.setattr(cv2, "__version__", "5.0.0")
    with pytest.raises(StudyError, match=r"OpenCV 5\.0\.0 has no HOG.*opencv-python-headless<5"):
        hog_klt(clip)
    assert block_codes(clip).any() and mean_frame(clip).shape == (1, 784)


def test_pooling_is_mean_and_deviation_over_pairs():
    """There and back: no mean displacement, and a deviation of one step. A still clip is all zeros."""
    row = hog_klt(square((45, 45), (48, 50), (45, 45)))[0]
    assert np.abs(row[36:38]).max() < 0.1 and np.abs(row[79:81] - (3, 5)).max() < 0.1
    assert row.shape == (86,) and not hog_klt(square((45, 45), (45, 45))).any()
    assert mean_frame(square((28, 28), (28, 28))).reshape(28, 28)[9, 9] == 200


def test_votes_count_rows_that_are_not_zero():
    """A clip without any has no opinion."""
    first = SimpleNamespace(predict=lambda rows: rows[:, 0])  # a classifier that says the first number of a row
    rows = np.array([[[1, 5], [2, 0], [2, 1], [0, 0]], [[0, 0]] * 4])
    expected = np.array([[0, 1 / 3, 2 / 3], [1 / 3] * 3])
    assert np.allclose(vote_shares(first, rows, 3), expected, atol=1e-5)


def test_support_neighbours_keep_only_support_vectors():
    """Two far groups: what lies deep inside them is forgotten, and the answers stay right."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(-3, 1, (200, 2)), rng.normal(3, 1, (200, 2))])
    labels = np.repeat([4, 9], 200)
    model = SupportNeighbors().fit(rows, labels)
    assert model_size(model) < len(rows) and model.predict([[-3, -3], [3, 3]]).tolist() == [4, 9]


def test_copies_are_drawn_by_the_seed(squares: Corpus):
    """Eight of each training clip, all from the training side, others for another seed; fewer where there are fewer."""
    split = by_actor(squares, 0)
    pairs = draw_copies(split, 0)
    assert np.bincount(pairs[:, 0], minlength=12)[np.unique(split.train[:, 0])].tolist() == [COPIES] * 9
    assert set(map(tuple, pairs.tolist())) <= set(map(tuple, split.train.tolist()))
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    assert np.array_equal(pairs, draw_copies(split, 0)) and not np.array_equal(pairs, draw_copies(split, 1))
    assert (
        len(draw_copies(by_actor(squares, 0, copies=3), 0)) == 3 * 9 and len(draw_copies(split, 0, copies=2)) == 2 * 9
    )


def test_features_come_from_the_cache(squares: Corpus):
    """The second call computes nothing; a damaged file is made anew; other pairs or another seed are other features."""
    calls = []

    def average(clip: np.ndarray) -> np.ndarray:
        calls.append(clip.shape)
        return clip.mean(0).reshape(1, -1)

    pairs, before = np.array([[0, -1], [3, 5]]), set(squares.cache.glob("features-*.npz"))
    first, seconds = features(average, squares, pairs, 0)
    assert first.shape == (2, 1, 112 * 112) and seconds > 0 and calls == [(32, 112, 112)] * 2
    again, told = features(average, squares, pairs, 0)
    assert np.array_equal(again, first) and told == seconds and len(calls) == 2
    (file,) = set(squares.cache.glob("features-*.npz")) - before
    file.write_bytes(file.read_bytes()[:100])
    assert np.array_equal(features(average, squares, pairs, 0)[0], first) and len(calls) == 4
    assert np.array_equal(features(average, squares, pairs[::-1], 0)[0], first[::-1]) and len(calls) == 6
    assert not np.array_equal(features(average, squares, pairs, 1)[0][1], first[1]) and len(calls) == 8


def test_features_of_another_decoder_are_made_again(squares: Corpus, monkeypatch: pytest.MonkeyPatch):
    """One that read frames wrongly must not live on in the features."""
    counts = []
    for decoder in ("one", "one", "another"):
        monkeypatch.setattr(methods, "DECODER", decoder)
        features(mean_frame, squares, np.array([[0, -1]]), 3)
        counts.append(len(list(squares.cache.glob("features-*.npz"))))
    assert counts[1] == counts[0] == counts[2] - 1


def test_the_hash_of_a_feature_is_of_what_changes_its_numbers(monkeypatch: pytest.MonkeyPatch):
    """Another function, option or constant; no comment, docstring or layout. A lambda inside a line counts as text."""

    def one(clip: np.ndarray) -> np.ndarray:
        """Some words."""
        return clip[:1]  # and a comment

    first, hashes = one, {source_hash(feature) for feature in FEATURES.values()}

    def one(clip: np.ndarray) -> np.ndarray:
        return clip[:1]

    assert source_hash(first) == source_hash(one) and len(hashes) == len(FEATURES)
    others = {
        "two": lambda clip: clip[:2],
        "three": lambda clip: clip[:3],
        "blocks": partial(block_codes, blocks=(2, 3)),
    }
    assert len({source_hash(each) for each in (one, *others.values())} - hashes) == 4
    for name, value in (("THRESHOLD", 30), ("LENGTH", 8), ("SIZE", 96)):
        with monkeypatch.context() as changed:
            changed.setattr(methods, name, value)
            assert not hashes & {source_hash(feature) for feature in FEATURES.values()}


def test_the_settings_of_a_classic_row_are_all_that_fixes_it(squares: Corpus):
    """Feature and its hash, classifier with its options, copies, seed and split: a change of one is another setting."""
    experiments = [Experiment(str(squares.folder), "by_actor", "any", seed, "tiny") for seed in (0, 1)]
    splits = [make_split(experiment, squares) for experiment in experiments]
    method = ClassicMethod("mbmic", "forest")
    found = method.run_config(experiments[0], squares, splits[0])
    assert found == method.run_config(experiments[0], squares, splits[0]) and json.loads(json.dumps(found)) == found
    assert found["code"] == source_hash(FEATURES["mbmic"]) and "RandomForest" in found["classifier"]
    others = [
        replace(method, copies=2).run_config(experiments[0], squares, splits[0]),
        replace(method, classifier="svm").run_config(experiments[0], squares, splits[0]),
        replace(method, feature="mean_frame").run_config(experiments[0], squares, splits[0]),
        method.run_config(experiments[1], squares, splits[0]),
        method.run_config(experiments[0], squares, splits[1]),
        ClassicMethod(None, "forest").run_config(experiments[0], squares, splits[0]),
    ]
    assert found not in others and others[-1]["code"] is None


def test_a_classic_record_of_other_settings_is_refused(squares: Corpus, tmp_path: Path):
    """A changed feature has another hash, and is not given the old result; a record from before the hash counts."""
    experiment = Experiment(str(squares.folder), "by_actor", "mean_frame", 0, "tiny")
    (record,) = run([experiment], tmp_path, squares.cache, methods=BASELINES)
    path = tmp_path / f"{experiment.name}.json"
    path.write_text(json.dumps(record | {"settings": record["settings"] | {"code": "of another source"}}))
    with pytest.raises(StudyError, match=r"tiny-mean_frame-by_actor-0\.json.*other settings"):
        run([experiment], tmp_path, squares.cache, methods=BASELINES)
    del record["settings"]["code"]
    path.write_text(json.dumps(record))
    assert run([experiment], tmp_path, squares.cache, methods=BASELINES) == [record]


def test_network_rows_say_which_network(squares: Corpus):
    """One configuration builds several networks; their settings tell them apart, and their seed their first weights."""
    experiments = [Experiment(str(squares.folder), "by_actor", "any", seed, "tiny") for seed in (0, 1)]
    split = make_split(experiments[0], squares)
    rows = [METHODS["deformable"], BASELINES["fdcnn"], BASELINES["conv3d_convlstm"]]
    found = [method.run_config(experiments[0], squares, split) for method in rows]
    assert [settings.get("build") for settings in found] == [None, "FrameNet", "BidirectionalNet"]
    first, other = (NetworkMethod(build=FrameNet).network(experiment, 3).layers[0].weight for experiment in experiments)
    assert not torch.equal(first, other)


def test_frames_are_averaged_after_the_softmax():
    """In training one frame of each clip is seen, and not always the same one."""
    torch.manual_seed(0)
    net, clips = FrameNet(TINY), torch.rand(2, 1, 8, 32, 32)
    whole = net.eval()(clips).softmax(1)
    assert torch.allclose(whole, net.frame_logits(clips).softmax(2).mean(1), atol=1e-6)
    single = {tuple(row.tolist()) for row in net.frame_logits(clips)[0].detach().round(decimals=4)}
    seen = {tuple(net.train()(clips)[0].detach().round(decimals=4).tolist()) for _ in range(40)}
    assert seen <= single and len(seen) > 4


def test_frame_accuracy_counts_frames(squares: Corpus):
    """A network that always says class 0 is right on the frames of clips of class 0."""
    net = FrameNet(TINY)
    with torch.no_grad():
        net.layers[-1].weight.zero_()
        net.layers[-1].bias.copy_(torch.tensor([1.0, 0, 0]))
    pairs = np.array([[clip, -1] for clip in range(len(squares))])
    assert frame_accuracy(net.eval(), squares, pairs, 0) == pytest.approx((squares.labels == 0).mean())


def test_the_bidirectional_network_is_as_published():
    """At the paper's widths: 64, 128, 256, 256; 256 and 384 a direction; 768 into 128, 256, 256; 4x4 maps; classes."""
    with torch.device("meta"):
        net = BidirectionalNet(NetworkConfig())
    shapes = [tuple(p.shape[:2]) for name, p in net.named_parameters() if name.startswith("conv") and p.ndim > 1]
    assert shapes == [(64, 1), (128, 64), (256, 128), (256, 256), (128, 768), (256, 128), (256, 256)]
    assert [layer.state_conv.weight.shape[1] for layer in (*net.forwards, *net.backwards)] == [256, 384, 256, 384]
    assert tuple(net.linear.weight.shape) == (17, 256 * 4 * 4)


def test_the_bidirectional_network_reads_both_ways_and_drops_weights():
    """Both chains alike, a clip played backwards has mirrored maps, so the same mean; DropConnect only in training."""
    torch.manual_seed(0)
    net, clips = BidirectionalNet(TINY).double(), torch.rand(2, 1, 8, 32, 32).double()
    net.backwards.load_state_dict(net.forwards.state_dict())
    swap = torch.cat([torch.arange(24, 48), torch.arange(24)])  # the maps of the two directions
    mirrored = BidirectionalNet(TINY).double()
    mirrored.load_state_dict(net.state_dict())
    for model in (net, mirrored):  # a 3D part that does not know the direction of time
        for weight in model.conv3d.parameters():
            if weight.ndim == 5:
                weight.data = (weight.data + weight.data.flip(2)) / 2
    mirrored.conv2d[0].weight.data = mirrored.conv2d[0].weight.data[:, swap]
    net.eval(), mirrored.eval()
    assert torch.allclose(net(clips), mirrored(clips.flip(2)), rtol=0, atol=1e-12)
    assert not torch.allclose(net(clips), net(clips.flip(2)), rtol=0, atol=1e-8)
    net.train()
    for module in net.modules():
        if "BatchNorm" in type(module).__name__:
            module.eval()
    assert not torch.equal(net(clips), net(clips))


def test_r2plus1d_takes_gray_clips():
    """torchvision's network, but for its first kernel and its classes."""
    with torch.device("meta"):
        net = r2plus1d(TINY).eval()
        assert net.stem[0].weight.shape == (45, 1, 1, 7, 7) and net.config.length == 8
        assert net(torch.rand(1, 1, 8, 32, 32)).shape == (1, 3)


def test_every_model_of_a_study_has_a_title_and_a_method(squares: Corpus):
    """One line each in methods.csv, and none too many; Table 2 lists each row once under two splits."""
    models = {model for study in (TABLE2, *(STUDIES | MOTION).values()) for model in study.models}
    assert set(titles()) == models == set(METHODS | BASELINES | PRETRAINED)
    experiments = TABLE2.experiments(squares, range(2))
    assert len({experiment.name for experiment in experiments}) == len(experiments) == 2 * 2 * len(TABLE2.models)
    assert {experiment.split for experiment in experiments} == {"by_actor", "by_copy"}


@pytest.mark.slow
def test_all_rows_run_in_a_study(squares: Corpus, tmp_path: Path):
    """Classic rows, floors and the small networks leave records; R(2+1)D is left out for its size."""
    fewer = {name: replace(BASELINES[name], copies=2) for name in CLASSIC}
    names = [name for name in BASELINES if name != "r2plus1d"]
    experiments = [Experiment(str(squares.folder), "by_actor", name, 0, "tiny") for name in names]
    found = run(experiments, tmp_path, squares.cache, methods=BASELINES | fewer)
    records, split = dict(zip(names, found, strict=True)), make_split(experiments[0], squares)
    for name in names:
        assert len(records[name]["validation"]["predicted"]) == len(split.val)
        assert (records[name]["multiply_adds"] is None) == (name in CLASSIC) and records[name]["parameters"] > 0
    assert len(set(records["majority_class"]["validation"]["predicted"])) == 1
    assert 0 <= records["fdcnn"]["history"][-1]["frame_accuracy"] <= 1
    assert records["hog_klt"]["settings"]["copies"] == 2


def test_the_average_picture_sees_the_leak(squares: Corpus):
    """Where other copies of a clip were trained on, a picture without order in time is enough."""
    split = by_copy(squares, copies=10)
    result = BASELINES["mean_frame"](Experiment(str(squares.folder), "by_copy", "mean_frame", 0), squares, split, None)
    assert (result.probabilities.argmax(1) == squares.labels[split.val[:, 0]]).mean() > 0.8
    assert np.allclose(result.probabilities.sum(1), 1)


class Listed:
    """A corpus of which only names, labels and actors are known: what a split asks."""

    def __init__(self, folder: Path):
        records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
        told = records[0]["corpus"]
        labels = {}
        for answers in (record["validation"] for record in records):
            labels |= dict(zip(answers["clip"], answers["label"], strict=True))
        if told["source"].startswith("procedural gesture"):  # one of six actors is never held out
            labels = {film.name: 0 for film in plan_tasks()} | labels
        elif told["source"] == SOURCE:  # nor is every actor where one seed was run
            labels = {clip.name: 0 for clip in plan_corpus(cast=told["actors"])} | labels
        names = sorted(labels)
        actors = [
            next(part for part in Path(name).stem.split("_") if part[0] == "a" or part[0].isupper()) for name in names
        ]
        assert (len(names), len(set(actors))) == (told["videos"], told["actors"])
        self.name, self.classes, self.records = told["name"], told["classes"], records
        self.labels = np.array([labels[name] for name in names])
        self.videos = [Video(Path(name), labels[name], actor, 0) for name, actor in zip(names, actors, strict=True)]

    def __len__(self) -> int:
        return len(self.videos)


LONG = ("example-claims", "example-motion", "example-table2")  # with many records
FOLDERS = [
    pytest.param(folder, marks=[pytest.mark.slow] * (folder.name in LONG), id=folder.name)
    for folder in sorted(RESULTS.glob("example-*"))
]


@pytest.mark.parametrize("folder", FOLDERS)
def test_committed_records_still_count_as_done(folder: Path):
    """Each has the settings that its method has today, to the word: a study takes it and trains nothing."""
    corpus, splits = Listed(folder), {}
    for record in corpus.records:
        experiment = Experiment(**record["experiment"])
        key = experiment.split, experiment.seed
        if key not in splits:
            splits[key] = make_split(experiment, corpus)
        wanted = (METHODS | BASELINES)[experiment.model].run_config(experiment, corpus, splits[key])
        assert fill_defaults(record["settings"], wanted) == wanted, record["name"]
