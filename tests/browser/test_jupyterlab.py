"""Chapters 00, 07 and 14 in a real JupyterLab: run whole, then every control of their explorers by mouse and keyboard.

Python is asked after each. A few minutes, since chapter 00 trains a network; skipped without a browser.
SCREENSHOTS=folder keeps pictures to look at. Works with ipywidgets 8 and, as on Colab, 7.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")

ROOT = Path(__file__).parents[2]
CHAPTERS = ("00_start_here.ipynb", "07_seeing_offsets.ipynb", "14_learned_offsets.ipynb")
SETTINGS = {  # no questions about news; cells out of sight are rendered too
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
    "notebook-extension/tracker": '{"windowingMode": "none"}',
}
READY = """() => {
    const context = window.jupyterapp?.shell?.currentWidget?.sessionContext;
    return context?.isReady && context.session?.kernel?.status === "idle";
}"""
CELLS = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells]
    .filter((cell) => cell.type === "code")
    .map((cell) => ({ count: cell.executionCount, outputs: cell.outputs.toJSON() }))"""
ASK = """import json
names = ("step", "layer", "depth", "row", "column", "overlay")
print("state", json.dumps({name: getattr(explorer, name) for name in names}
    | {"points": explorer.points("deformable").tolist()}))"""

ASK_PAIR = """import json
names = ("pair", "row", "column")
state = {name: getattr(explorer, name) for name in names}
print("state", json.dumps(state | {"told": explorer.look().told[0].tolist()}))"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A JupyterLab of its own, in a folder with the chapters, one cell more in 00 and 14; gives its address."""
    home, root = tmp_path_factory.mktemp("settings"), tmp_path_factory.mktemp("root")
    for name, text in SETTINGS.items():
        path = home / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in ("example-classroom", "example-narrow", "align", "gallery", "leak"):
        shutil.copytree(ROOT / "results" / name, root / "results" / name)
    (root / "notebooks").mkdir()
    for name in CHAPTERS:
        notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
        for cell in notebook.cells:
            cell.pop("outputs", None)
            if cell.cell_type == "code":
                cell.update(outputs=[], execution_count=None)
        if name in (CHAPTERS[0], CHAPTERS[2]):
            notebook.cells.append(nbformat.v4.new_code_cell(ASK if name == CHAPTERS[2] else ASK_PAIR))
        nbformat.write(notebook, root / "notebooks" / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    here = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True"]
    environment = os.environ | dict.fromkeys(folders, str(home)) | {"PYTHONPATH": here, "TQDM_DISABLE": "1"}
    with (
        (home / "lab.log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server,
    ):
        try:
            for _ in range(120):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status")
                    break
                except OSError:
                    time.sleep(0.5)
            else:
                raise RuntimeError(f"JupyterLab did not start: {(home / 'lab.log').read_text()[-2000:]}")
            yield f"http://127.0.0.1:{port}/doc/tree/notebooks"
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with (
        api.sync_playwright() as play,
        play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as chromium,
    ):
        yield chromium


def run_whole(browser, lab: str, name: str):
    """The page of a chapter that was run from top to bottom; every cell ran, none failed, all its figures are there."""
    page = browser.new_page(viewport={"width": 1250, "height": 1100})
    page.goto(f"{lab}/{name}")
    page.wait_for_function(READY, timeout=90_000)  # before this, "run all" never starts
    page.evaluate("async () => { await window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.wait_for_function(READY, timeout=300_000)
    cells = page.evaluate(CELLS)
    outputs = [output for cell in cells for output in cell["outputs"]]
    bad = [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert not bad and [cell["count"] for cell in cells] == list(range(1, len(cells) + 1))
    stored = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    wanted = [output for cell in stored.cells if cell.cell_type == "code" for output in cell.outputs]
    figures = [sum("image/png" in output.get("data", {}) for output in those) for those in (outputs, wanted)]
    assert figures[0] == figures[1] > 0
    return page


def keep(page, name: str) -> None:
    """A screenshot, if they are wanted."""
    if "SCREENSHOTS" in os.environ:
        page.screenshot(path=Path(os.environ["SCREENSHOTS"]) / f"{name}.png")


def test_chapter_00_runs_whole_its_film_plays_and_its_explorer_is_used(browser, lab: str):
    page = run_whole(browser, lab, CHAPTERS[0])
    film, panel = page.locator("video"), page.locator(".deformlib-explorer")
    film.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('video').currentTime > 0")
    assert film.evaluate("video => [video.videoWidth, video.videoHeight]") == [840, 330]
    assert film.get_attribute("aria-label")
    keep(page, "00-film")
    api.expect(panel).to_be_visible(timeout=30_000)
    panel.scroll_into_view_if_needed()
    left, right = panel.locator("canvas").first, panel.locator("canvas").last

    def python() -> dict:
        """What Python says, and whether it looks where the page looks."""
        page.locator(".jp-Notebook-cell").last.locator(".cm-content").click()
        page.evaluate("async () => { await window.jupyterapp.commands.execute('notebook:run-cell') }")
        (text,) = [output["text"] for output in page.evaluate(CELLS)[-1]["outputs"]]
        state = json.loads("".join(text).removeprefix("state "))
        assert right.evaluate("canvas => canvas.look.told") == pytest.approx(state.pop("told"), abs=0.1)
        panel.scroll_into_view_if_needed()
        return state

    assert python() == {"pair": 8, "row": 37, "column": 13}
    left.hover(position={"x": 200, "y": 100})
    hovered = python()
    assert hovered == {"pair": 8} | {
        key: round((place * 96 / 440 - 0.5) / 2) for key, place in (("row", 100), ("column", 200))
    }
    keep(page, "00-mouse")
    panel.focus()
    for key in ("ArrowDown", "ArrowRight", "PageUp", "PageUp"):  # JupyterLab has shortcuts of its own for these
        page.keyboard.press(key)
    assert python() == {"pair": 6, "row": hovered["row"] + 1, "column": hovered["column"] + 1}
    panel.locator("input[type=range]").fill("9")
    assert python()["pair"] == 9
    keep(page, "00-keyboard")
    page.close()


def test_chapter_07_runs_whole(browser, lab: str):
    page = run_whole(browser, lab, CHAPTERS[1])
    page.locator("img").nth(2).scroll_into_view_if_needed()
    keep(page, "07")
    page.close()


def test_chapter_14_runs_whole_and_its_explorer_is_used(browser, lab: str):
    page = run_whole(browser, lab, CHAPTERS[2])
    panel, count = page.locator(".deformlib-explorer"), page.locator(".jp-Notebook-cell").count()
    api.expect(panel).to_be_visible(timeout=30_000)
    panel.scroll_into_view_if_needed()
    canvas, said, slider = panel.locator("canvas").nth(1), panel.locator("output"), panel.locator("input[type=range]")
    layer, depth = panel.locator("select").first, panel.locator("select").last
    overlay, play = panel.locator("input[type=checkbox]"), panel.locator("button")

    def picture() -> str:
        return canvas.evaluate("canvas => canvas.toDataURL()")

    def python() -> dict:
        """What Python says, and whether it looks where the page looks."""
        page.locator(".jp-Notebook-cell").last.locator(".cm-content").click()
        page.evaluate("async () => { await window.jupyterapp.commands.execute('notebook:run-cell') }")
        (text,) = [output["text"] for output in page.evaluate(CELLS)[-1]["outputs"]]
        state = json.loads("".join(text).removeprefix("state "))
        for shown, point in zip(canvas.evaluate("canvas => canvas.points"), state.pop("points"), strict=True):
            assert shown[:2] == pytest.approx(point, abs=1e-2)
        slider.scroll_into_view_if_needed()
        return state

    start = python()
    assert (start["step"], start["layer"], start["depth"]) == (2, 2, 3)  # as the chapter left it
    before = picture()
    canvas.hover(position={"x": 300, "y": 120})  # the mouse: hover, drag, choose, click
    assert picture() != before
    hovered = python()
    assert (hovered["row"], hovered["column"]) != (start["row"], start["column"])
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.86, box["y"] + box["height"] / 2, steps=6)
    page.mouse.up()
    layer.select_option(index=1)
    overlay.click()
    dragged = python()
    assert dragged == hovered | {"step": 6, "layer": 1, "depth": 2, "overlay": True}
    keep(page, "14-mouse")
    play.click()
    api.expect(said).not_to_contain_text(" 6 (of", timeout=5_000)
    play.click()
    api.expect(play).to_have_text("play")

    slider.focus()  # the keyboard, on each control
    for key in ("Home", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    layer.focus()
    page.keyboard.press("ArrowDown")
    depth.focus()
    page.keyboard.press("ArrowUp")
    overlay.focus()
    page.keyboard.press("Space")
    play.focus()
    page.keyboard.press("Enter")
    api.expect(play).to_have_text("pause")
    page.keyboard.press("Enter")
    slider.focus()
    page.keyboard.press("Home")
    assert python() == hovered | {"step": 0, "layer": 2, "depth": 1, "overlay": False}

    panel.focus()  # and on the picture; JupyterLab has shortcuts of its own for these
    for key in ("l", "l", "2", "m", "PageDown", "PageDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    last = python()
    place = {name: min(hovered[name] + 1, 27) for name in ("row", "column")}  # of a map of 28x28
    assert last == {"step": 2, "layer": 1, "depth": 2, "overlay": True} | place
    assert canvas.evaluate("canvas => canvas.points.length") == 81
    assert page.locator(".jp-Notebook-cell").count() == count  # none of them was a shortcut
    panel.scroll_into_view_if_needed()
    keep(page, "14-keyboard")
    page.close()
