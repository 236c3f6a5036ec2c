# Jobs of the course. `make help` lists them.
PYTHON ?= python3
CORPUS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: help reproduce benchmark media gallery test slow browser stress fuzz alone lab notebooks site clean

help:
	@echo "make reproduce   make the videos, train plain and deformable networks, print Table 1 (CORPUS=folder: on your own videos or BVH files)"
	@echo "make benchmark   time and memory of the deformable convolution and of a training step against the usual ways, and what each recipe costs here, in seven minutes"
	@echo "make media       25 codecs in 15 containers, interlaced, turned, damaged: every frame against FFmpeg's own program (results/benchmarks/media.md)"
	@echo "make gallery     draw the pictures of README.md again (results/gallery) and write its results table"
	@echo "make test        run all tests and check every notebook's stored outputs"
	@echo "make slow        the tests that torch.compile makes slow: it writes C++ and calls a compiler"
	@echo "make browser     use chapters 00, 07 and 14 in a real JupyterLab; needs a Chromium of the system"
	@echo "make stress      kill a training run 24 times at random moments and compare its weights with an undisturbed one"
	@echo "make alone       run each chapter in an empty folder with nothing but the wheel, as on Colab"
	@echo "make fuzz        give the library a thousand broken files (videos, BVH, tables, weights, records, a full disk)"
	@echo "make lab         open the notebooks in JupyterLab"
	@echo "make notebooks   run all notebooks in place and write the library from them"
	@echo "make site        the notebooks, answers, results and the explorer as web pages that need no network (site/index.html)"
	@echo "make clean       remove the virtual environment, the site and build leftovers (videos and results stay)"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else "Python 3.10 to 3.13 is needed, this is %d.%d: call make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(READY)

reproduce: $(READY)
	$(BIN)/python -m deformlib reproduce $(if $(CORPUS),--corpus "$(CORPUS)")

benchmark: $(READY)
	$(BIN)/python tests/benchmark.py
	$(BIN)/python tests/benchmark_network.py
	$(BIN)/python tests/benchmark_training.py

media: $(READY)
	$(BIN)/python tests/tools/media_matrix.py

gallery: $(READY)
	$(BIN)/python tests/gallery.py

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --nbval tests notebooks

slow: $(READY)
	DEFORMLIB_SLOW=1 $(BIN)/python -m pytest -p no:nbval -o addopts="" -k compile tests/test_deform.py tests/test_convlstm.py tests/test_network.py

browser: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,browser]"
	$(BIN)/python -m pytest -p no:nbval -o addopts="" -rs tests/browser

stress: $(READY)
	$(BIN)/python tests/stress.py

alone: $(READY)
	$(BIN)/python tests/alone.py

fuzz: $(READY)
	$(BIN)/python tests/fuzz.py

lab: $(READY)
	$(BIN)/jupyter lab notebooks

notebooks: $(READY)
	$(BIN)/nbdev-export
	$(BIN)/python tests/execute_notebooks.py notebooks/[0-9]*.ipynb

site: $(READY)
	$(BIN)/python tests/build_site.py

clean:
	rm -rf $(VENV) build site *.egg-info
