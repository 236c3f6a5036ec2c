"""Run notebooks from top to bottom, in place, and store them so that a second run changes no byte.

With --minutes also keep how long each took, for the list of chapters: on a machine that does nothing else.
"""

import argparse
import base64
import io
import os
import re
import time
from pathlib import Path

import course
import nbformat
import numpy as np
from nbclient import NotebookClient
from PIL import Image

KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def few_colours(pixels: np.ndarray, most: int = 256) -> Image.Image:
    """A picture uint8 [H, W, 3] in that many colours: its own, if it has no more; else half of them the most frequent,
    so that a smooth wall stays smooth, the others as far apart as can be, so that a thin line keeps its colour.
    """
    colours, which, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
    palette = colours[np.argsort(-counts, kind="stable")]
    if len(palette) > most:
        frequent, rest = np.split(palette, [most // 2])
        others = Image.fromarray(rest[None]).quantize(most - most // 2, Image.Quantize.MAXCOVERAGE, kmeans=4)
        chosen = np.array(others.getpalette(), np.uint8).reshape(-1, 3)[: most - most // 2]
        palette = np.concatenate([frequent, chosen])
    far = np.square(palette, dtype=int).sum(1) - 2 * colours.astype(int) @ palette.T.astype(int)
    image = Image.fromarray(far.argmin(1)[which.ravel()].astype(np.uint8).reshape(pixels.shape[:2]))
    image.putpalette(palette.tobytes())
    return image


def small_picture(png: bytes) -> bytes:
    """A PNG in at most 256 colours and well packed, or as it is, if that is no smaller, or one can see through it."""
    image, small = Image.open(io.BytesIO(png)), io.BytesIO()
    if image.convert("RGBA").getextrema()[3][0] < 255:
        return png
    few = image if image.mode == "P" else few_colours(np.asarray(image.convert("RGB")))
    few.save(small, "PNG", optimize=True)
    return min(png, small.getvalue(), key=len)


def settle(notebook: nbformat.NotebookNode) -> None:
    """Remove what differs between two runs: metadata, addresses, views of widgets that no longer live; and make
    pictures small.
    """
    notebook.metadata = nbformat.from_dict(KERNEL)
    notebook.nbformat_minor = 5
    count = 0
    for cell in notebook.cells:
        kept = {key: cell.metadata[key] for key in ("tags", "jupyter") if cell.metadata.get(key)}  # "jupyter": folded
        cell.metadata = nbformat.from_dict(kept)
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
            if "text" in output:
                output.text = re.sub(r" at 0x[0-9a-fA-F]+", " at 0x0", output.text)
            data = output.get("data", {})
            data.pop("application/vnd.jupyter.widget-view+json", None)
            if "image/png" in data:
                data["image/png"] = base64.b64encode(small_picture(base64.b64decode(data["image/png"]))).decode()
            for kind in [kind for kind in data if kind.startswith("text/")]:
                data[kind] = re.sub(r" at 0x[0-9a-fA-F]+", " at 0x0", data[kind])


def main() -> None:
    """Execute the notebooks named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--stored", action="store_true", help="run nothing: settle the outputs that are stored")
    only.add_argument("--minutes", action="store_true", help="keep minutes in results/minutes.json and TEACHING.md")
    os.environ.update(TQDM_DISABLE="1", PYTHONHASHSEED="0", OMP_NUM_THREADS="1")
    arguments = parser.parse_args()
    if arguments.minutes:
        try:
            course.check(arguments.notebooks)
        except course.MinutesError as error:
            parser.error(str(error))
    for path in arguments.notebooks:
        start = time.perf_counter()
        notebook = nbformat.read(path, as_version=4)
        place = {"metadata": {"path": str(path.parent)}}
        options = {
            "timeout": 600,
            "startup_timeout": 600,
            "kernel_name": "python3",
            "record_timing": False,
            "coalesce_streams": True,
        }
        if not arguments.stored:
            NotebookClient(notebook, resources=place, **options).execute()
        settle(notebook)
        nbformat.write(notebook, path)
        seconds = time.perf_counter() - start
        print(f"{path}: {seconds:.1f} s")
        if arguments.minutes:
            course.keep(path, seconds)
    if arguments.minutes:
        course.main()


if __name__ == "__main__":
    main()
