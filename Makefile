# The whole interface of the book: `make help` lists it.

RUN := .venv/bin/python

# A Python from 3.10 to 3.13, the versions that TensorFlow is built for. To name one:
# make book PYTHON=/path/to/python3.12
SUPPORTED := import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
CANDIDATES := python3 python3.13 python3.12 python3.11 python3.10 python $(RUN)
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	$$p -c "$(SUPPORTED)" 2>/dev/null && { echo $$p; break; }; done)

INSTALLED := .venv/.installed

# A virtual environment whose Python is gone or was replaced is made anew.
ifneq ($(wildcard $(INSTALLED)),)
$(shell $(RUN) -c "$(SUPPORTED)" 2>/dev/null || rm -f $(INSTALLED))
endif

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | \
		sed -E 's/^([a-z]+):.*## (.*)/  make \1|\2/' | \
		awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

book: $(INSTALLED)  ## execute every chapter (a quarter of an hour) and build the book
	@$(RUN) tools/build.py book

test: $(INSTALLED)  ## test the notebooks, the package and the built pages
	@echo "Testing the package with JAX"
	@KERAS_BACKEND=jax PROFILE=quick $(RUN) -m pytest tests -q \
		--ignore=tests/test_book.py --ignore=tests/test_exercises.py \
		-n 2 --dist loadfile
	@echo "Testing the notebooks, the pages, and the package with TensorFlow"
	@PROFILE=quick $(RUN) -m pytest book tests -q --nbval-lax \
		--nbval-cell-timeout=300 -n 2 --dist loadfile

site: $(INSTALLED)  ## render the book from its stored outputs, execute nothing
	@$(RUN) tools/build.py site

lab: $(INSTALLED)  ## open the chapters in JupyterLab
	@$(RUN) -m jupyterlab --ServerApp.root_dir=book

lint: $(INSTALLED)  ## check the style of package, tools, tests and notebooks
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff check --line-length 80 $(wildcard book/*.ipynb)
	@$(RUN) -m ruff format --check book/pretrain tests tools

publish: $(INSTALLED)  ## execute in full and store the outputs (or CHAPTERS="03a_...")
	@$(RUN) tools/build.py publish $(CHAPTERS)

STUDIES := autoencoder_recipes_cifar10 convolution_cifar10 freezing_cifar10 \
	faq_cifar10 images_cifar10 optimizers_cifar10 \
	sizes_cifar10 denoising_cifar10 large_scale_cifar10 \
	label_efficiency_cifar10 label_efficiency_fashion

study: $(INSTALLED)  ## run what is missing of the studies (or NAME=label_efficiency_...)
	@for name in $(or $(NAME),$(STUDIES)); do \
		PYTHONPATH=book $(RUN) -m pretrain.study $$name || exit; done

stamp: $(INSTALLED)  ## write the address in _config.yml into Colab cells and links
	@$(RUN) tools/build.py stamp

exercises: $(INSTALLED)  ## write the notebooks in which readers do the exercises
	@$(RUN) tools/build.py exercises

# A virtual environment of its own: the lock can be renewed where it is broken.
lock: python  ## resolve requirements.txt anew into requirements.lock
	@$(PYTHON) -m venv _build/uv
	@_build/uv/bin/python -m pip install -qq uv
	@_build/uv/bin/python -m uv pip compile --quiet --universal --python-version 3.10 \
		--generate-hashes --no-emit-index-url requirements.txt -o requirements.lock

# pip goes on where an interrupted installation stopped: run make again.
$(INSTALLED): requirements.lock | python
	@$(RUN) -c "$(SUPPORTED)" 2>/dev/null || { \
		echo "Making .venv with $(PYTHON)"; $(PYTHON) -m venv --clear .venv; }
	@echo "Installing requirements.lock into .venv (2.6 GB, once; a few minutes)"
	@$(RUN) -m pip install -qq --disable-pip-version-check \
		--require-hashes -r requirements.lock
	@touch $@
	@echo "Installed"

python:
	@test -n "$(PYTHON)" && $(PYTHON) -c "$(SUPPORTED)" 2>/dev/null || { \
		echo "The book needs Python 3.10, 3.11, 3.12 or 3.13; found: $(or $(PYTHON),none)."; \
		echo "Install one, or name it: make book PYTHON=/path/to/python3.12"; \
		exit 1; } >&2

.PHONY: help book test site lab lint publish study stamp exercises lock python
