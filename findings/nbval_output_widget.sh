#!/bin/sh
# nbval 0.11.0 fails a notebook that was executed a moment before, if anything is printed into an ipywidgets 8.1.9 Output, as all
# `interact` callbacks do. JupyterLab and nbclient take part in the widget: they move the text into it and tell the kernel. nbval only
# listens, so that the text lands in the cell, and `out.outputs`, read by the next cell, is empty. Programs thus see other values than
# under nbclient. nbval leaves out views of widgets (https://github.com/computationalmodelling/nbval/pull/102); nbclient learned its
# part after https://github.com/jupyter/nbclient/issues/24; nothing found about Output and nbval.
# Seen: 2 of 3 cells fail, and the two values below. Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check nbval==0.11.0 ipywidgets==8.1.9 nbclient==0.11.0 ipykernel==7.4.0 pytest==9.2.0
cd "$folder"
export PATH="$folder/venv/bin:$PATH" IPYTHONDIR="$folder/ipython" JUPYTER_RUNTIME_DIR="$folder/runtime"
python - <<'PYTHON'
import re
import subprocess
import sys
from importlib.metadata import version

import nbformat
from nbclient import NotebookClient

SOURCES = [
    "import ipywidgets\nout = ipywidgets.Output()",
    "with out:\n    print('inside')",
    "print('seen by the kernel:', [entry['text'] for entry in out.outputs])",
]
cells = [nbformat.v4.new_code_cell(source) for source in SOURCES]
notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
NotebookClient(notebook, kernel_name="python3", timeout=300).execute()  # not for ever
nbformat.write(notebook, "widget.ipynb")
run = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "--nbval-cell-timeout=300", "-q", "-p", "no:cacheprovider", "widget.ipynb"]
told = re.sub(r"\x1b\[\d+m", "", subprocess.run(run, capture_output=True, text=True).stdout)
print(", ".join(f"{name} {version(name)}" for name in ("nbval", "nbclient", "ipywidgets")))
print("nbclient:", notebook.cells[2].outputs[0].text.strip())
print("nbval:", next(line for line in told.splitlines() if line.strip().startswith("- seen")).strip(" -"))
print(told.strip().splitlines()[-1].split(" in ")[0])
assert notebook.cells[2].outputs[0].text == "seen by the kernel: ['inside\\n']\n" and not notebook.cells[1].outputs
assert "2 failed, 1 passed" in told and "- seen by the kernel: []" in told, "nbval takes part in Output widgets now"
PYTHON
