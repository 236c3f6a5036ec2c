"""The explorer inside a real JupyterLab: hover, drag, keys, and the way back to Python. About 20 s; skipped without a browser."""

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

SETTINGS = {  # no questions about news; cells out of sight are rendered too
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
    "notebook-extension/tracker": '{"windowingMode": "none"}',
}
READY = """() => {
    const context = window.jupyterapp?.shell?.currentWidget?.sessionContext;
    return context?.isReady && context.session?.kernel?.status === "idle";
}"""
CELLS = (
    """import torch
from deformlib.explorer import Explorer, look
from deformlib.network import NetworkConfig, VideoNet
torch.manual_seed(0)
net = VideoNet(NetworkConfig(3, 1, 8, 32, (4, 4, 4), "max", (4, 4), (4, 4, 4), ((1, 2), (2,))))
for layer in net.recurrent:
    torch.nn.init.normal_(layer.input_conv.offset_branch.weight, std=0.5)
plain = VideoNet(NetworkConfig(3, 1, 8, 32, (4, 4, 4), "max", (4, 4), (4, 4, 4), ((), ())))
clip = torch.rand(1, 8, 32, 32)
explorer = Explorer({"plain": look(plain, clip), "deformable": look(net, clip)}, "noise")
explorer""",
    "print('state', explorer.step, explorer.row, explorer.column, explorer.depth, explorer.layer)",
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A JupyterLab of its own, in a folder with one notebook; gives its address."""
    home, root = tmp_path_factory.mktemp("settings"), tmp_path_factory.mktemp("root")
    for name, text in SETTINGS.items():
        path = home / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    kernel = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS], metadata=kernel)
    nbformat.write(notebook, root / "explorer.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    here = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True"]
    environment = os.environ | dict.fromkeys(folders, str(home)) | {"PYTHONPATH": here}
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
            yield f"http://127.0.0.1:{port}/doc/tree/explorer.ipynb"
        finally:
            server.terminate()


def test_explorer_in_jupyterlab(lab: str, tmp_path: Path):
    with (
        api.sync_playwright() as play,
        play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as browser,
    ):
        page = browser.new_page(viewport={"width": 1250, "height": 1100})
        page.goto(lab)
        page.wait_for_function(READY, timeout=90_000)  # before this, "run all" never starts
        page.evaluate("async () => { await window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        panel, said = page.locator(".deformlib-explorer"), page.locator(".jp-OutputArea-output", has_text="state")
        api.expect(panel).to_be_visible(timeout=90_000)
        api.expect(said).to_have_text("state 1 4 4 1 0\n")
        canvas = panel.locator("canvas").nth(1)

        def picture() -> str:
            return canvas.evaluate("canvas => canvas.toDataURL()")

        start = picture()
        canvas.hover(position={"x": 220, "y": 220})
        canvas.hover(position={"x": 150, "y": 150})
        hovered = picture()
        assert hovered != start
        slider = panel.locator("input[type=range]").bounding_box()
        page.mouse.move(slider["x"] + 10, slider["y"] + slider["height"] / 2)
        page.mouse.down()
        page.mouse.move(slider["x"] + slider["width"] * 0.66, slider["y"] + slider["height"] / 2, steps=6)
        page.mouse.up()
        assert picture() != hovered
        canvas.click(position={"x": 150, "y": 150})
        panel.focus()
        for key in ("l", "2", "ArrowRight", "ArrowRight", "m"):  # JupyterLab has shortcuts of its own for these
            page.keyboard.press(key)
        assert canvas.evaluate("canvas => canvas.points.length") == 81
        assert page.locator(".jp-Notebook-cell").count() == 2  # none of them was a shortcut
        if "SCREENSHOTS" in os.environ:
            page.screenshot(path=Path(os.environ["SCREENSHOTS"]) / "jupyterlab.png")
        row, column = (
            int(word) for word in canvas.get_attribute("aria-label").split("position ")[1].split(":")[0].split(", ")
        )
        page.locator(".jp-Notebook-cell").nth(1).locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        api.expect(said).to_have_text(f"state 2 {row} {column} 2 1\n")  # Python knows where the mouse was
