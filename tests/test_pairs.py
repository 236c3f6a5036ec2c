"""Pairs of frames: today's bytes in flat clothes, and two truths that agree."""

import hashlib
import zlib

import numpy as np
import pytest

from deformlib.make import figures, pairs


@pytest.fixture(scope="module")
def films() -> dict[bool, pairs.Film]:
    """One clip in checked clothes (True) and in flat ones, 16 frames."""
    clip = figures.plan_corpus(0)[87]
    return {checks: pairs.film_pairs(clip, checks, most=16) for checks in (True, False)}


def test_the_painter_paints_the_bytes_of_before():
    """Hash of four frames, taken before `render` had an argument for what fills a shape."""
    clip = figures.plan_corpus(0)[87]
    frames = figures.play(clip)[1]
    digest = hashlib.sha256(b"".join(next(frames).tobytes() for _ in range(4))).hexdigest()
    assert digest == "898b41f85ea5981e3c9c87981a079302074181fd10a2310625af473641f15624"


def test_chosen_frames_are_those_of_the_whole_film():
    """`frames` leaves out work and changes no picture."""
    clip = figures.plan_corpus(0)[87]
    actor, name = figures.draw_actor(np.random.default_rng([clip.seed, clip.actor])), zlib.crc32(clip.name.encode())
    rng = np.random.default_rng([clip.seed, name])
    motion = figures.perform(figures.ACTS[clip.act], actor, clip.n_frames, rng)
    (third,) = figures.render(motion, actor, rng, frames=[3])
    whole = figures.play(clip)[1]
    assert np.array_equal([next(whole) for _ in range(4)][3], third)


def test_clothes_change_the_picture_and_nothing_else(films: dict[bool, pairs.Film]):
    checked, flat = films[True], films[False]
    assert checked.gray.shape == (16, 96, 96) and checked.gray.dtype == np.uint8
    for name in ("parts", "maps", "joints"):
        assert np.array_equal(getattr(checked, name), getattr(flat, name))
    wall, body = checked.parts == pairs.WALL, checked.parts != pairs.WALL
    differ = checked.gray != flat.gray
    assert differ[body].mean() > 0.5 and differ[wall].mean() < 0.05  # the wall's share: pixels that a rim touches
    again = pairs.film_pairs(figures.plan_corpus(0)[87], most=16)
    assert all(np.array_equal(one, other) for one, other in zip(again, checked, strict=True))


def test_dense_truth_agrees_with_the_joints(films: dict[bool, pairs.Film]):
    """Two ways to the truth: affine maps of parts, and the joints of the motion."""
    far, size = [], []
    for i, j in ((10, 12), (12, 10), (4, 7)):
        flow, seen = pairs.true_flow(films[True], i, j)
        assert flow.shape == (2, 96, 96) and not flow[:, films[True].parts[j] == pairs.WALL].any()
        assert 0.7 < seen.mean() < 1
        for x, y, dy, dx, visible in pairs.joint_moves(films[True], i, j):
            if visible:
                far.append(np.hypot(*(flow[:, round(float(y)), round(float(x))] - [dy, dx])))
                size.append(np.hypot(dy, dx))
    assert len(far) > 10 and min(size) > 1
    assert np.median(far) < 0.3 * np.median(size)


def test_no_motion_from_a_frame_to_itself(films: dict[bool, pairs.Film]):
    flow, seen = pairs.true_flow(films[True], 5, 5)
    assert np.abs(flow[:, seen]).max() < 1e-3
    assert pairs.joint_moves(films[True], 5, 5).shape == (0, 5)


def test_pairs_are_of_the_actors_asked_for_and_move_as_far_as_said(films: dict[bool, pairs.Film]):
    film = films[True]
    rows = pairs.list_pairs([film, film], [film.actor], (2, 3))
    assert {number for some in rows.values() for number, _, _ in some} == {0, 1}
    for gap, some in rows.items():
        assert some and {abs(i - j) for _, i, j in some} == {gap}
        fastest = [np.linalg.norm(film.joints[i] - film.joints[j], axis=1).max() for _, i, j in some]
        assert min(fastest) > 1 and max(fastest) < 9
    assert not any(pairs.list_pairs([film], [film.actor + 1], (2,)).values())


def test_batches_are_seeded_windows(films: dict[bool, pairs.Film]):
    film = films[True]
    rows = pairs.list_pairs([film], [film.actor], (1, 2))
    one, same, other = (pairs.draw_batch([film], rows, np.random.default_rng(seed), 4, 32) for seed in (0, 0, 1))
    assert one.shape == (2, 4, 1, 32, 32) and one.dtype == np.float32 and one.min() >= 0 and one.max() <= 1
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_cloth_has_checks_that_differ():
    piece = pairs.cloth(0.3, 0)
    checks = piece[::8, ::8]
    assert piece.shape == (8 * 14, 8 * 9) and np.array_equal(piece, checks.repeat(8, 0).repeat(8, 1))
    assert len(np.unique(checks)) > 0.8 * checks.size
