"""The film and the explorer of taps that follow: places by hand, the scene against the network, JavaScript against
Python, the exported page in a real browser.
"""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from factories import opened, pixels

from deformlib.align.follow import AlignNet
from deformlib.align.taps import flow_from_taps
from deformlib.align.view import (
    GRID,
    LEARNED,
    ORDINARY,
    STRIDE,
    TRUE,
    AlignExplorer,
    Alignment,
    align_film,
    body_window,
    example,
    save_pair_film,
    sharp_frames,
)
from deformlib.explorer import SCRIPT
from deformlib.make.figures import JOINTS, plan_corpus
from deformlib.make.pairs import WALL, film_pairs, true_flow
from deformlib.views import POSITION

ROOT = Path(__file__).parent.parent
TITLE = "one </script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def shown() -> Alignment:
    """What chapter 00 shows."""
    return example(ROOT / "results" / "align")


@pytest.fixture(scope="module")
def explorer(shown: Alignment) -> AlignExplorer:
    return AlignExplorer(shown, TITLE)


def test_the_sharper_film_is_the_network_s_film():
    """Equal at 96 pixels; at 192, four pixels together are one of the small frame but for rounding."""
    clip = plan_corpus(1)[72]
    film = film_pairs(clip, most=2)
    assert np.array_equal(sharp_frames(clip, 96, most=2), film.gray)
    fours = sharp_frames(clip, 192, most=2).reshape(2, 96, 2, 96, 2).mean((2, 4))
    assert abs(fours - film.gray).max() <= 1


def test_taps_look_where_offsets_say(shown: Alignment):
    """A field by hand: the tap in row 2, column 1 of the kernel goes by (0.5 y, -3), the others stay."""
    offset = torch.zeros(1, 18, 96, 96)
    offset[0, 14], offset[0, 15] = 0.5 * torch.arange(96.0)[:, None], -3  # tap 7
    made = replace(shown, offset=offset, share=np.eye(9)[7])
    look = made.look(0, np.array([[10.0, 20.0], [10.5, 20.25]]))
    assert look.plain[0].tolist() == [
        [9, 19],
        [9, 20],
        [9, 21],
        [10, 19],
        [10, 20],
        [10, 21],
        [11, 19],
        [11, 20],
        [11, 21],
    ]
    assert look.taps[:, 7] == pytest.approx(np.array([[16, 17], [16.75, 17.25]]), abs=1e-4)
    assert look.told == pytest.approx(look.taps[:, 7], abs=1e-4)
    stay = np.delete(look.taps - look.plain, 7, axis=1)
    assert abs(stay).max() == 0


def test_the_motion_read_out_is_that_of_chapter_06b(shown: Alignment):
    weight = torch.from_numpy(shown.share).reshape(1, 1, 3, 3)
    flow = flow_from_taps(shown.offset[5:6].double(), 3, weight)[0, 0].numpy()
    places = np.array([[12, 80], [50, 40], [72, 26]])
    assert shown.look(5, places).told - places == pytest.approx(flow[:, places[:, 0], places[:, 1]].T, abs=1e-4)


def test_followed_joints_are_the_film_s_own(shown: Alignment):
    """As (y, x), in b and in a; not those that are hidden in one of the two, or out of the picture."""
    now, was = shown.followed(4)
    rows = [JOINTS.index(name) for name in ("head", "left_elbow", "left_hand", "right_elbow", "right_hand")]
    assert np.array_equal(now, shown.film.joints[6][rows][:, ::-1])
    assert np.array_equal(was, shown.film.joints[4][rows][:, ::-1])
    joints, parts = shown.film.joints.copy(), shown.film.parts.copy()
    joints[4, rows[2]] = 96, 50
    x, y = shown.film.joints[6, rows[4]].round().astype(int)
    parts[6, y, x] = WALL
    assert len(replace(shown, film=shown.film._replace(joints=joints, parts=parts)).followed(4)[0]) == 3


def test_somebody_never_seen_is_followed_and_the_film_is_what_it_is_said_to_be(shown: Alignment):
    """Learned taps come nearer than ordinary ones in every pair; without offsets, or with turned ones, they do not."""
    learned, ordinary = shown.distances().T
    assert len(shown) == 22 and len(learned) == 110 and learned.mean() < 0.6 and ordinary.mean() > 2
    assert (learned.reshape(22, 5).mean(1) < ordinary.reshape(22, 5).mean(1)).all()
    still, turned = (replace(shown, offset=factor * shown.offset).distances()[:, 0] for factor in (0, -1))
    assert still == pytest.approx(ordinary, abs=0.05) and turned.mean() > 1.5 * ordinary.mean()
    joints = shown.film.joints
    fastest = np.linalg.norm(joints[2:] - joints[:-2], axis=2).max(1)
    assert fastest.min() > 1 and fastest.max() < 9  # as chapter 06b tests
    copied, built = (
        float(((each - shown.film.gray[2:] / 255) ** 2).mean())
        for each in (shown.film.gray[:-2] / 255, shown.built.numpy())
    )
    assert built < 0.2 * copied


def test_films_that_cannot_be_paired_are_refused(shown: Alignment):
    with pytest.raises(ValueError, match="2 frames, 2 to show"):
        align_film(AlignNet(), shown.film._replace(gray=shown.film.gray[:2]))
    with pytest.raises(ValueError, match="24 frames, 5 to show"):
        align_film(AlignNet(), shown.film, shown=shown.shown[:5])


def test_the_window_holds_the_body(shown: Alignment):
    (top, bottom), (left, right) = body_window(shown.film, margin=0)
    _, y, x = np.nonzero(shown.film.parts != WALL)
    assert (top, bottom, left, right) == (y.min(), y.max(), x.min(), x.max())
    wide = body_window(shown.film, margin=50)
    assert wide.tolist() == [[-0.5, 95.5], [-0.5, 95.5]]


def test_a_film_shows_the_wanted_pairs_and_its_colours(shown: Alignment, tmp_path: Path):
    """The last pair and each 21st before it; in the panels circles, then yellow and green, then red and green."""
    frames = iio.imread(save_pair_film(shown, tmp_path / "film.gif", every=21), index=None)
    assert frames.shape == (2, 330, 840, 3) and (frames[0] != frames[1]).any()
    colours = {"ring": (86, 180, 233), "ordinary": (255, 255, 0), "true": (50, 205, 50), "learned": (255, 0, 0)}
    panels = np.split(frames[1].astype(int), 3, axis=1)
    found = [{name for name, rgb in colours.items() if (abs(panel - rgb).max(2) < 24).sum() > 20} for panel in panels]
    assert found == [{"ring"}, {"ordinary", "true"}, {"learned", "true"}]
    assert (LEARNED, TRUE, ORDINARY, POSITION) == ("red", "limegreen", "yellow", "#56b4e9")


def unpack(text: str, kind: type, *shape: int) -> np.ndarray:
    """Numbers of a scene, read by numpy."""
    return np.frombuffer(base64.b64decode(text), kind).reshape(shape)


def test_the_scene_is_what_the_network_and_the_film_say(shown: Alignment, explorer: AlignExplorer):
    """Taps to within half of their unit, true motion to 1/256 px, both for every second pixel; frames are shared."""
    scene = explorer.scene
    assert json.loads(json.dumps(scene)) == scene and scene["map"] == [48, 48] and scene["milliseconds"] == 160
    assert scene["frames"]["shape"] == [11, 192, 192] and list(explorer.pairs) == list(range(3, 22, 2))
    frames = unpack(scene["frames"]["data"], np.uint8, 11, 192, 192)
    for number, pair in ((0, 3), (9, 21)):
        part = scene["pairs"][number]
        assert np.array_equal(frames[part["a"]], shown.shown[pair]) and np.array_equal(
            frames[part["b"]], shown.shown[pair + 2]
        )
        taps = part["unit"] * unpack(part["taps"], np.int8, 18, 48, 48)
        exact = shown.offset[pair, :, ::2, ::2].numpy()
        assert abs(taps - exact).max() <= 0.5001 * part["unit"] and part["unit"] < 0.1
        flow, seen = true_flow(shown.film, pair, pair + 2)
        assert abs(unpack(part["truth"], np.int16, 2, 48, 48) / 128 - flow[:, ::2, ::2]).max() <= 1 / 256
        assert np.array_equal(unpack(part["seen"], np.uint8, 48, 48), seen[::2, ::2])
        wall = unpack(part["part"], np.uint8, 48, 48) == scene["parts"].index("wall")
        assert np.array_equal(wall, shown.film.parts[pair + 2, ::2, ::2] == WALL)
    x, y = (shown.film.joints[23, JOINTS.index("right_hand")] / 2).round().astype(int)
    assert scene["parts"][unpack(scene["pairs"][9]["part"], np.uint8, 48, 48)[y, x]] == "right arm"


def test_it_starts_on_the_joint_that_moves_farthest(shown: Alignment, explorer: AlignExplorer):
    moves = {
        (number, *np.round(now / 2).astype(int)): np.linalg.norm(now - was)
        for number, pair in enumerate(explorer.pairs)
        for now, was in zip(*shown.followed(pair), strict=True)
    }
    assert (explorer.pair, explorer.row, explorer.column) == max(moves, key=moves.get)
    assert repr(explorer) == "Explorer of 10 pairs: pair 9, row 37, column 13"
    other = AlignExplorer(shown, pairs=[0, 1], pair=0, row=3)
    assert (other.pair, other.row, len(other.scene["pairs"])) == (0, 3, 2)


def test_the_page_is_one_file_that_needs_nothing(explorer: AlignExplorer, tmp_path: Path):
    path = explorer.export_html(tmp_path / "page.html")
    page = path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path] and path.stat().st_size < 1_500_000
    assert not re.search(r"(https?:)?//[a-z0-9]+\.", page) and "import " not in page and "fetch(" not in page
    assert page.count("</script>") == 2 and "<img" not in page and "default-src 'none'" in page


@pytest.fixture
def page(browser, explorer: AlignExplorer, tmp_path: Path) -> Iterator:
    with opened(browser, explorer, tmp_path, 1000, 760) as page:
        yield page


def go(page, pair: int, row: int, column: int) -> dict:
    """Point at a place of the left frame with the mouse; what the page then shows."""
    page.locator("input[type=range]").fill(str(pair))
    box = page.locator("canvas").first.bounding_box()
    y, x = ((STRIDE * place + 0.5) * box["width"] / 96 for place in (row, column))
    page.mouse.move(box["x"] + x, box["y"] + y)
    return page.locator("canvas").last.evaluate("canvas => canvas.look")


def test_javascript_and_python_agree(page, explorer: AlignExplorer):
    """At places of the body, the wall and the edges; and what is said there are the distances."""
    for pair, row, column in ((8, 37, 13), (9, 32, 46), (0, 0, 0), (3, 47, 20), (9, 47, 47), (5, 22, 22)):
        found, shown = go(page, pair, row, column), explorer.alignment
        number, unit = explorer.pairs[pair], explorer.scene["pairs"][pair]["unit"]
        place = STRIDE * np.array([[row, column]])
        look, (flow, seen) = shown.look(number, place), true_flow(shown.film, number, number + shown.gap)
        assert found["here"] == place[0].tolist() and found["plain"] == look.plain[0].tolist()
        assert np.array(found["taps"]) == pytest.approx(look.taps[0], abs=0.51 * unit)
        rounded = place + GRID + unit * np.round((look.taps[0] - look.plain[0]) / unit)
        assert np.array(found["taps"]) == pytest.approx(rounded, abs=1e-3)
        assert np.array(found["told"]) == pytest.approx(shown.share @ rounded, abs=1e-3)
        was = place[0] + flow[:, place[0, 0], place[0, 1]]
        assert (found["was"] is not None) == seen[tuple(place[0])]
        said = page.locator("figcaption").last.inner_text()
        assert page.locator("canvas").last.get_attribute("aria-label") == said
        if found["was"]:
            assert found["was"] == pytest.approx(was, abs=0.005)
            numbers = [float(each) for each in re.findall(r"\d+\.\d(?= px(?: off|\.))", said)]
            far = [np.linalg.norm(each - was) for each in (shown.share @ rounded, place[0])]
            assert numbers == pytest.approx(far, abs=0.06)


def test_a_hidden_place_has_no_cross(page, explorer: AlignExplorer):
    pair = explorer.pairs[9]
    _, seen = true_flow(explorer.alignment.film, pair, pair + 2)
    row, column = (int(place) for place in np.argwhere(~seen[::2, ::2])[0])
    assert go(page, 9, row, column)["was"] is None
    assert "was hidden" in page.locator("figcaption").last.inner_text()


def pixel(page, point: list[float]) -> list[int]:
    """The colour of the right canvas at (y, x) in pixels of the film."""
    y, x = (round((place + 0.5) * 440 / 96) for place in point)
    return page.locator("canvas").last.evaluate(
        f"canvas => [...canvas.getContext('2d').getImageData({x}, {y}, 1, 1).data]"
    )[:3]


def test_dots_and_cross_are_painted_where_they_are(page):
    found = go(page, 9, 32, 46)
    assert pixel(page, found["plain"][0]) == [255, 255, 0] and pixel(page, found["taps"][8]) == [255, 0, 0]
    arm = [found["was"][0] - 1.5, found["was"][1] - 1.5]  # the corners of the cross lie 9 screen pixels away
    assert pixel(page, arm) == pytest.approx([50, 205, 50], abs=40)
    assert page.locator("canvas").first.evaluate("canvas => canvas.width") == 440


def test_keys_and_controls(page, explorer: AlignExplorer):
    """Arrows, page up and down and the space bar on the panel; the slider has keys of its own; limits hold."""
    canvas, panel, said = page.locator("canvas").last, page.locator(".deformlib-explorer"), page.locator("output")

    def here() -> list[int]:
        return canvas.evaluate("canvas => canvas.look.here")

    assert panel.get_attribute("aria-label") == TITLE and page.locator(".title").inner_text() == TITLE
    panel.focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
    assert here() == [2 * (explorer.row - 1), 2 * explorer.column]
    page.keyboard.press("PageUp")
    assert said.inner_text().strip() == f"{explorer.pair} of 10"
    for _ in range(12):
        page.keyboard.press("PageDown")
    assert said.inner_text().strip() == "10 of 10"
    before = pixels(page)
    page.keyboard.press(" ")
    assert page.locator("button").inner_text() == "pause"
    page.wait_for_function("old => document.querySelector('output').innerText !== old", arg=said.inner_text())
    page.keyboard.press(" ")
    assert page.locator("button").inner_text() == "play"
    assert pixels(page) != before
    page.locator("input[type=range]").focus()
    row = here()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert said.inner_text().strip() == "2 of 10" and here() == row


MODEL = """
const values = JSON.parse(document.querySelector("#values").textContent), told = {};
window.model = {
  get: (key) => values[key],
  set(key, value) {
    if (values[key] === value) return;
    values[key] = value;
    (told[`change:${key}`] ?? []).forEach((each) => each());
  },
  save_changes() {},
  on: (name, each) => (told[name] ??= []).push(each),
  off() {},
};
render({ model, el: document.querySelector("main") });
"""


def test_a_model_that_answers_each_change_loses_none(browser, explorer: AlignExplorer):
    """As in Jupyter: a jump of the mouse changes row and column, and the model tells of one before it has the other."""
    values = {key: getattr(explorer, key) for key in ("scene", "pair", "row", "column")}
    text = json.dumps(values | {"scene": explorer.scene | {"title": ""}})
    page = browser.new_page(viewport={"width": 1000, "height": 760})
    parts = f'<main></main><script id="values" type="application/json">{text}</script>'
    page.set_content(f'{parts}<script type="module">{SCRIPT}{MODEL}</script>')
    page.wait_for_selector("canvas")
    assert go(page, 3, 20, 31)["here"] == [40, 62]
    assert page.evaluate("['pair', 'row', 'column'].map((key) => model.get(key))") == [3, 20, 31]
    page.evaluate("model.set('row', 7)")
    assert page.locator("canvas").last.evaluate("canvas => canvas.look.here") == [14, 62]
    page.close()
