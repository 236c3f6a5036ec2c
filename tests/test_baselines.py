"""Features where the answer is known, votes, copies, the cache, and every row of Table 2 on a tiny corpus."""

from dataclasses import replace
from functools import partial, wraps
from pathlib import Path

import json
import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier

from deformlib import baselines
from deformlib.baselines import (
    BASELINES,
    COPIES,
    FEATURES,
    SOURCES,
    TABLE2,
    BidirectionalNet,
    ClassicFitter,
    FrameNet,
    SupportNeighbors,
    block_codes,
    differences,
    draw_copies,
    features,
    frame_accuracy,
    hog_klt,
    kept,
    mean_frame,
    orientations,
    r2plus1d,
    track,
    votes,
)
from deformlib.corpus import Corpus, by_actor, by_copy
from deformlib.network import NetworkConfig, paper_steps
from deformlib.study import FITTERS, Experiment, NetworkFitter, StudyError, make_split, run

TINY = NetworkConfig(classes=3, length=8, size=32, conv3d=(8, 8, 16), hidden=(8, 8, 8), conv2d=(16, 16, 16), deform_steps=paper_steps(4))
CLASSIC = [name for name, fitter in BASELINES.items() if isinstance(fitter, ClassicFitter)]


def square(*places: tuple[int, int]) -> np.ndarray:
    """A bright square of 20 pixels on gray, its upper left corner at each (y, x) in turn, uint8 [T, 112, 112]."""
    clip = np.full((len(places), 112, 112), 60, dtype=np.uint8)
    for frame, (y, x) in zip(clip, places):
        frame[y : y + 20, x : x + 20] = 200
    return clip


def test_differences_are_absolute_and_without_noise():
    """Up and down count alike; 19 is noise, 20 is not."""
    clip = np.array([[[100, 100, 100, 100]], [[190, 10, 119, 120]]], dtype=np.uint8)
    assert differences(clip).tolist() == [[[90, 90, 0, 20]]]


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
    starts, ends = track(clip[0], clip[1], differences(clip)[0])
    assert len(starts) >= 4 and np.abs(ends - starts - shift).max() < 0.1
    corners = np.array([[45, 45], [45, 64], [64, 45], [64, 64]])
    assert all(np.abs(starts - corner).max(1).min() <= 1 for corner in corners)
    assert np.abs(hog_klt(clip)[0, 36:38] - shift).max() < 0.1


def test_corners_are_found_only_where_something_moves():
    """A second square that stands still has none; a still pair has none at all."""
    clip = square((20, 20), (23, 25))
    clip[:, 80:100, 80:100] = 200
    starts, _ = track(clip[0], clip[1], differences(clip)[0])
    assert len(starts) and starts.max() < 60
    starts, ends = track(clip[0], clip[0], differences(clip[[0, 0]])[0])
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


def test_pooling_is_mean_and_deviation_over_pairs():
    """There and back: no mean displacement, and a deviation of one step. A still clip is all zeros."""
    row = hog_klt(square((45, 45), (48, 50), (45, 45)))[0]
    assert np.abs(row[36:38]).max() < 0.1 and np.abs(row[79:81] - (3, 5)).max() < 0.1
    assert row.shape == (86,) and not hog_klt(square((45, 45), (45, 45))).any()
    assert mean_frame(square((28, 28), (28, 28))).reshape(28, 28)[9, 9] == 200


def test_votes_count_rows_that_are_not_zero():
    """A clip without any has no opinion."""

    class Echo:
        def predict(self, rows: np.ndarray) -> np.ndarray:
            return rows[:, 0]

    rows = np.array([[[1, 5], [2, 0], [2, 1], [0, 0]], [[0, 0]] * 4])
    assert votes(Echo(), rows, 3).round(3).tolist() == pytest.approx(np.array([[0, 1 / 3, 2 / 3], [1 / 3] * 3]).round(3))


def test_support_neighbours_keep_only_support_vectors():
    """Two far groups: what lies deep inside them is forgotten, and the answers stay right."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(-3, 1, (200, 2)), rng.normal(3, 1, (200, 2))])
    labels = np.repeat([4, 9], 200)
    model = SupportNeighbors().fit(rows, labels)
    assert kept(model) < len(rows) and model.predict([[-3, -3], [3, 3]]).tolist() == [4, 9]


def test_copies_are_drawn_by_the_seed(corpus: Corpus):
    """Eight of each training clip, all from the training side, others for another seed; fewer where there are fewer."""
    split = by_actor(corpus, 0, held_out=2)
    pairs = draw_copies(split, 0)
    assert np.bincount(pairs[:, 0], minlength=len(corpus))[np.unique(split.train[:, 0])].tolist() == [COPIES] * 24
    assert set(map(tuple, pairs.tolist())) <= set(map(tuple, split.train.tolist())) and len(np.unique(pairs, axis=0)) == len(pairs)
    assert np.array_equal(pairs, draw_copies(split, 0)) and not np.array_equal(pairs, draw_copies(split, 1))
    assert len(draw_copies(by_actor(corpus, 0, copies=3, held_out=2), 0)) == 3 * 24


def test_features_come_from_the_cache(corpus: Corpus, monkeypatch: pytest.MonkeyPatch):
    """The second call computes nothing; a damaged file is made anew; other pairs or another seed are other features."""
    pairs, calls, real = np.array([[0, -1], [3, 5]]), [], baselines.gray_clip
    monkeypatch.setattr(baselines, "getsource", lambda function: function.__name__)  # of the spy too
    monkeypatch.setattr(baselines, "gray_clip", wraps(real)(lambda *words: calls.append(words) or real(*words)))
    first, seconds = features("mean_frame", corpus, pairs, 0)
    assert first.shape == (2, 1, 784) and seconds > 0 and len(calls) == 2
    again, said = features("mean_frame", corpus, pairs, 0)
    assert np.array_equal(again, first) and said == seconds and len(calls) == 2
    (file,) = (path for path in corpus.cache.glob("features-*.npz") if np.array_equal(np.load(path)["rows"], first))
    file.write_bytes(file.read_bytes()[:100])
    assert np.array_equal(features("mean_frame", corpus, pairs, 0)[0], first) and len(calls) == 4
    assert np.array_equal(features("mean_frame", corpus, pairs[::-1], 0)[0], first[::-1]) and len(calls) == 6
    assert not np.array_equal(features("mean_frame", corpus, pairs, 1)[0][1], first[1]) and len(calls) == 8


def test_features_of_another_decoder_are_made_again(corpus: Corpus, monkeypatch: pytest.MonkeyPatch):
    """One that read frames wrongly must not live on in the features."""
    pairs = np.array([[0, -1]])
    features("mean_frame", corpus, pairs, 3)
    before = set(corpus.cache.glob("features-*.npz"))
    features("mean_frame", corpus, pairs, 3)
    assert set(corpus.cache.glob("features-*.npz")) == before
    monkeypatch.setattr("deformlib.baselines.DECODER", "another")
    features("mean_frame", corpus, pairs, 3)
    assert len(set(corpus.cache.glob("features-*.npz")) - before) == 1


def test_a_changed_function_or_constant_finds_no_old_features(corpus: Corpus, monkeypatch: pytest.MonkeyPatch):
    """The function put in its place is asked, with its own words; a constant counts where it is used, in a helper too."""
    pairs = np.array([[0, -1], [3, 5]])
    first, codes = features("mean_frame", corpus, pairs, 0)[0], features("mbmic", corpus, pairs, 0)[0]
    monkeypatch.setitem(FEATURES, "mean_frame", lambda clip: np.zeros((1, 784), np.float32))
    assert first.any() and not features("mean_frame", corpus, pairs, 0)[0].any()
    monkeypatch.setitem(FEATURES, "mbmic", partial(block_codes, blocks=(2, 3)))
    assert features("mbmic", corpus, pairs, 0)[0].shape == (2, 31, 6)
    monkeypatch.undo()
    assert np.array_equal(features("mean_frame", corpus, pairs, 0)[0], first)
    monkeypatch.setattr(baselines, "THRESHOLD", 255)
    assert codes.any() and not features("mbmic", corpus, pairs, 0)[0].any()
    monkeypatch.setattr(baselines, "LENGTH", 8)
    assert features("mbmic", corpus, pairs, 0)[0].shape == (2, 7, 36)


def test_classic_records_of_other_settings_are_refused(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Fewer copies, another option of the classifier, another classifier: the old record is not taken for the new result."""
    experiment = Experiment(str(corpus.folder), "by_actor", "chance", 0, "tiny")
    (record,) = run([experiment], tmp_path, corpus.cache, fitters=BASELINES)
    assert run([experiment], tmp_path, corpus.cache, fitters=BASELINES) == [record]
    refused = pytest.raises(StudyError, match=r"tiny-chance-by_actor-0\.json: a record of the same name with other settings")
    with refused:
        run([experiment], tmp_path, corpus.cache, fitters={"chance": ClassicFitter(None, "forest")})
    monkeypatch.setitem(baselines.CLASSIFIERS, "prior", lambda seed: DummyClassifier(strategy="stratified", random_state=seed))
    with refused:
        run([experiment], tmp_path, corpus.cache, fitters=BASELINES)
    monkeypatch.undo()
    monkeypatch.setattr(baselines, "COPIES", 2)
    with refused:
        run([experiment], tmp_path, corpus.cache, fitters=BASELINES)
    monkeypatch.undo()


def test_a_changed_feature_is_not_given_the_old_result(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another threshold or another function changes the hash that the record keeps; a record from before the hash is taken."""
    experiment = Experiment(str(corpus.folder), "by_actor", "mean_frame", 0, "tiny")
    (record,) = run([experiment], tmp_path, corpus.cache, fitters=BASELINES)
    for name, value in (("THRESHOLD", 30), ("FEATURES", baselines.FEATURES | {"mean_frame": baselines.block_codes})):
        with monkeypatch.context() as changed, pytest.raises(StudyError, match="with other settings"):
            changed.setattr(baselines, name, value)
            run([experiment], tmp_path, corpus.cache, fitters=BASELINES)
    path = tmp_path / "tiny-mean_frame-by_actor-0.json"
    del record["settings"]["code"]
    path.write_text(json.dumps(record))
    assert run([experiment], tmp_path, corpus.cache, fitters=BASELINES) == [record]


def test_network_rows_say_which_network(corpus: Corpus):
    """The same configuration builds several networks; their settings tell them apart, and their seed their first weights."""
    experiments = [Experiment(str(corpus.folder), "by_actor", "any", seed, "tiny") for seed in (0, 1)]
    split = make_split(experiments[0], corpus)
    fitters = [FITTERS["deformable"], BASELINES["fdcnn"], BASELINES["conv3d_convlstm"]]
    found = [fitter.settings(experiments[0], corpus, split) for fitter in fitters]
    assert [settings.get("build") for settings in found] == [None, "FrameNet", "BidirectionalNet"]
    first, other = (NetworkFitter(build=FrameNet).network(experiment, 3).layers[0].weight for experiment in experiments)
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


def test_frame_accuracy_counts_frames(corpus: Corpus):
    """A network that always says class 0 is right on the frames of clips of class 0."""
    net = FrameNet(TINY)
    with torch.no_grad():
        net.layers[-1].weight.zero_()
        net.layers[-1].bias.copy_(torch.tensor([1.0, 0, 0]))
    pairs = np.array([[clip, -1] for clip in range(len(corpus))])
    assert frame_accuracy(net.eval(), corpus, pairs, 0) == pytest.approx((corpus.labels == 0).mean())


def test_the_bidirectional_network_is_as_published():
    """At the paper's widths: 64, 128, 256, 256; 256 and 384 a direction; 768 into 128, 256, 256; 4x4 maps into the classes."""
    with torch.device("meta"):
        net = BidirectionalNet(NetworkConfig())
    shapes = [tuple(p.shape[:2]) for name, p in net.named_parameters() if name.startswith("conv") and p.ndim > 1]
    assert shapes == [(64, 1), (128, 64), (256, 128), (256, 256), (128, 768), (256, 128), (256, 256)]
    assert [layer.state_conv.weight.shape[1] for layer in (*net.ahead, *net.back)] == [256, 384, 256, 384]
    assert tuple(net.linear.weight.shape) == (17, 256 * 4 * 4)


def test_the_bidirectional_network_reads_both_ways_and_drops_weights():
    """With both chains alike, a clip played backwards has the same maps mirrored, so the same mean; DropConnect only in training."""
    torch.manual_seed(0)
    net, clips = BidirectionalNet(TINY).double(), torch.rand(2, 1, 8, 32, 32).double()
    net.back.load_state_dict(net.ahead.state_dict())
    swap = torch.cat([torch.arange(24, 48), torch.arange(24)])  # the maps of the two directions
    mirrored = BidirectionalNet(TINY).double()
    mirrored.load_state_dict(net.state_dict())
    for model in (net, mirrored):  # a 3D part that does not know the direction of time
        for name, weight in model.conv3d.named_parameters():
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
    net = r2plus1d(TINY).eval()
    assert net.stem[0].weight.shape == (45, 1, 1, 7, 7) and net.config.length == 8
    with torch.no_grad():
        assert net(torch.rand(1, 1, 8, 32, 32)).shape == (1, 3)


def test_every_row_has_a_source_and_a_fitter(corpus: Corpus):
    """Table 2 lists each row once under a clean split and the released code's."""
    assert set(SOURCES) == set(BASELINES) | {"plain", "deformable"} and set(SOURCES) <= set(FITTERS | BASELINES)
    experiments = TABLE2.experiments(corpus, range(2))
    assert len({experiment.name for experiment in experiments}) == len(experiments) == 2 * 2 * len(SOURCES)
    assert {experiment.split for experiment in experiments} == {"by_actor", "by_copy"}


def test_all_rows_run_in_a_study(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Classic rows, floors and the small networks leave records; R(2+1)D is left out for its size."""
    monkeypatch.setattr(baselines, "COPIES", 2)
    names = [name for name in BASELINES if name != "r2plus1d"]
    experiments = [Experiment(str(corpus.folder), "by_actor", name, 0, "tiny") for name in names]
    records = {record["experiment"]["model"]: record for record in run(experiments, tmp_path, corpus.cache, fitters=BASELINES)}
    split = make_split(experiments[0], corpus)
    for name in names:
        assert len(records[name]["validation"]["predicted"]) == len(split.val)
        assert (records[name]["multiply_adds"] is None) == (name in CLASSIC) and records[name]["parameters"] > 0
    assert len(set(records["chance"]["validation"]["predicted"])) == 1
    assert 0 <= records["fdcnn"]["history"][-1]["frame_accuracy"] <= 1
    assert records["hog_klt"]["settings"]["copies"] == 2


def test_the_average_picture_sees_the_leak(corpus: Corpus):
    """Where sister copies are in training it recognises nearly every clip: the floor that the released code's split needs."""
    split = by_copy(corpus, copies=10)
    experiment = Experiment(str(corpus.folder), "by_copy", "mean_frame", 0)
    split = replace(split, val=split.val[:30])
    outcome = BASELINES["mean_frame"](experiment, corpus, split, None)
    assert (outcome.probabilities.argmax(1) == corpus.labels[split.val[:, 0]]).mean() > 0.8
    assert np.allclose(outcome.probabilities.sum(1), 1)


def test_an_opencv_without_hog_is_named_when_it_is_needed(monkeypatch, corpus: Corpus):
    """OpenCV 5 beside 4 in one folder: what other packages bring. The other features go on."""
    clip = square((20, 20), (30, 40), (40, 60))
    assert hog_klt(clip).shape == (1, 86)
    monkeypatch.delattr(baselines.cv2, "HOGDescriptor")
    monkeypatch.setattr(baselines.cv2, "__version__", "5.0.0")
    with pytest.raises(StudyError, match=r"OpenCV 5\.0\.0 has no HOG: pip uninstall opencv-python .*'opencv-python-headless<5'"):
        hog_klt(clip)
    pairs = by_actor(corpus, held_out=2).train[:2]
    with pytest.raises(StudyError, match="has no HOG"):
        features("hog_klt", corpus, pairs, 0)
    assert features("mbmic", corpus, pairs, 0)[0].shape[0] == 2 and mean_frame(clip).shape == (1, 784)


def test_the_features_are_those_of_the_committed_records():
    """A record holds a hash of the source of its features: the same source, the same record."""
    records = Path(__file__).parent.parent / "results" / "example-table2"
    settings = [json.loads(path.read_text())["settings"] for path in sorted(records.glob("*.json"))]
    made = {each["feature"]: each["code"] for each in settings if each.get("feature")}
    assert made and made == {name: baselines.source_hash(name) for name in made}
