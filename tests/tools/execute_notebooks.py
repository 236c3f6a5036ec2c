"""Run notebooks from top to bottom, in place, and store them so that a second run changes no byte."""

import argparse
import os
import re
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def settle(notebook: nbformat.NotebookNode) -> None:
    """Remove what differs between two runs: metadata, addresses, views of widgets that no longer live."""
    notebook.metadata = nbformat.from_dict(KERNEL)
    notebook.nbformat_minor = 5
    count = 0
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
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
            for kind in [kind for kind in data if kind.startswith("text/")]:
                data[kind] = re.sub(r" at 0x[0-9a-fA-F]+", " at 0x0", data[kind])


def main() -> None:
    """Execute the notebooks named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    os.environ.update(TQDM_DISABLE="1", PYTHONHASHSEED="0", OMP_NUM_THREADS="1")
    for path in parser.parse_args().notebooks:
        start = time.perf_counter()
        notebook = nbformat.read(path, as_version=4)
        place = {"metadata": {"path": str(path.parent)}}
        NotebookClient(
            notebook, timeout=600, kernel_name="python3", record_timing=False, coalesce_streams=True, resources=place
        ).execute()
        settle(notebook)
        nbformat.write(notebook, path)
        print(f"{path}: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
