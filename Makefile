# Jobs of the course. `make help` lists them.
PYTHON ?= python3
CORPUS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# Bytecode is left to those who import: most modules of the packages never are.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
unexport PYTHONDONTWRITEBYTECODE

NB ?=
MINUTES ?=
TO ?=
BOOK = $(firstword $(wildcard notebooks/$(NB)_*.ipynb notebooks/$(NB)*.ipynb notebooks/workshop/$(NB)*.ipynb))

.PHONY: help reproduce benchmark media gallery test test-code test-pages lint sync edit slow browser stress fuzz alone lab notebooks students site clean

help:
	@echo "make reproduce   make the videos, train plain and deformable networks, print Table 1 (CORPUS=folder: on your own videos or BVH files)"
	@echo "make benchmark   time and memory of the deformable convolution and of a training step against the usual ways, and what each recipe costs here, in about twelve minutes"
	@echo "make media       25 codecs in 15 containers, interlaced, turned, damaged: every frame against FFmpeg's own program (results/benchmarks/media.md)"
	@echo "make gallery     draw the pictures of README.md again (results/gallery) and write its answer and results table"
	@echo "make test        check the style (make lint), run all tests and check every notebook's stored outputs"
	@echo "make lint        ruff (rules and format) and pyrefly (types)"
	@echo "make sync        write the library from the notebooks, and say whether anything had drifted"
	@echo "make edit NB=05  a notebook as a text file, to be changed in any editor; the same again takes the changes over"
	@echo "make notebooks   run all notebooks in place and write the library from them (NB=05, NB=records: only that one; MINUTES=1: keep how long each took)"
	@echo "make slow        the tests that are left out of make test: torch.compile calls a compiler, processes start processes"
	@echo "make browser     use chapters 00, 07 and 14 in a real JupyterLab; needs a Chromium of the system"
	@echo "make stress      kill a training run 24 times at random moments and compare its weights with an undisturbed one"
	@echo "make alone       run each chapter in an empty folder with nothing but the wheel, as on Colab"
	@echo "make fuzz        give the library a thousand broken files (videos, BVH, tables, weights, records, a full disk)"
	@echo "make lab         open the notebooks in JupyterLab"
	@echo "make students    notebooks without outputs and answers, to hand out, in students/ (TO=folder: elsewhere)"
	@echo "make site        the notebooks, answers, results and the explorer as web pages that need no network (site/index.html)"
	@echo "make clean       remove the virtual environment, the site and build leftovers (videos and results stay)"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else "Python 3.10 to 3.13 is needed, this is %d.%d: call make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e ".[dev]"
	@touch $(READY)

reproduce: $(READY)
	$(BIN)/python -m deformlib reproduce $(if $(CORPUS),--corpus "$(CORPUS)")

benchmark: $(READY)
	$(BIN)/python tests/tools/benchmark.py
	$(BIN)/python tests/tools/benchmark_network.py
	$(BIN)/python tests/tools/benchmark_training.py

media: $(READY)
	$(BIN)/python tests/tools/media_matrix.py

gallery: $(READY)
	$(BIN)/python tests/tools/gallery.py

# Two processes, code and pages, each of which imports its own half alone: two workers would both collect everything.
test: $(READY) lint
	@$(MAKE) --no-print-directory --jobs=2 test-code test-pages

test-code: $(READY)
	$(BIN)/python -m pytest tests

test-pages: $(READY)
	$(BIN)/python -m pytest --nbval notebooks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --min-severity error --python-interpreter-path $(BIN)/python

sync: $(READY)
	@$(BIN)/python tests/tools/sync.py

edit: $(READY)
	@$(BIN)/python tests/tools/edit.py $(BOOK)

slow: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -p no:nbval -o addopts="-q" -m slow tests

browser: $(READY)
	$(PIP) -e ".[dev,browser]"
	$(BIN)/python -m pytest -p no:nbval -o addopts="" -rs tests/browser

stress: $(READY)
	$(BIN)/python tests/tools/stress.py

alone: $(READY)
	$(BIN)/python tests/tools/alone.py

fuzz: $(READY)
	$(BIN)/python tests/tools/fuzz.py

lab: $(READY)
	$(BIN)/jupyter lab notebooks

notebooks: $(READY)
	$(BIN)/nbdev-export
	$(BIN)/python tests/tools/execute_notebooks.py $(if $(MINUTES),--minutes) $(if $(NB),$(BOOK),notebooks/[0-9]*.ipynb notebooks/workshop/*.ipynb)

students: $(READY)
	@$(BIN)/python tests/tools/students.py $(if $(TO),"$(TO)")

site: $(READY)
	$(BIN)/python tests/tools/build_site.py

clean:
	rm -rf $(VENV) build site *.egg-info
