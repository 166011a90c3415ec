# `make demo` and `make test` need Python 3.11-3.13 and nothing else: each first makes its environment in .venv, of the versions
# in constraints.txt.
# The stamps .venv/ready and .venv/ready-dev are written last, so an interrupted installation is repeated.
PYTHON ?= python3
VENV := .venv/bin/python
# Two test files at a time, one thread each.
PYTEST := OMP_NUM_THREADS=1 $(VENV) -m pytest -n 2 --dist loadfile
# What depends on the insides of transformers, gradio, av and moviepy.
VERSIONED := $(addprefix tests/test_,engine.py decoder.py native.py qwen2_5_omni.py videollama2.py video_salmonn2.py \
	cost.py session.py clip.py read.py read_sound.py read_formats.py read_damaged.py write.py app.py)

help:
	@echo "make demo          set up, then start the page on http://127.0.0.1:7860"
	@echo "make test          set up, then run the tests (all but the browser tests)"
	@echo "make test-browser  the page in headless Chromium, which must be installed"
	@echo "make slow          read a one-hour 1080p clip (makes a temporary file of about 2.5 GB)"
	@echo "make fuzz          read 2,000 damaged media files: each gives a clip or one clear sentence"
	@echo "make mutants       break the code one line at a time: the tests must notice"
	@echo "make test-versions what depends on other packages, at the lowest versions that requirements.txt allows and at the newest"
	@echo "make test-lowest   its first half"
	@echo "make lock          write constraints.txt anew: the newest versions that requirements.txt allows"
	@echo "make lint          ruff: lint and format, nothing is changed"

demo: .venv/ready
	$(VENV) app.py

test: .venv/ready-dev
	$(PYTEST)
	@echo "The browser tests are not in this run: make test-browser (needs Chromium)."

test-browser: .venv/ready-dev
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
		{ echo "no Chromium found; on Debian: apt install chromium"; exit 1; }
	$(VENV) -m pytest tests/browser

slow: .venv/ready-dev
	$(VENV) tests/slow_media.py

fuzz: .venv/ready-dev
	$(VENV) tests/fuzz_media.py

mutants: .venv/ready-dev
	$(VENV) tests/mutants/run.py

lint: .venv/ready-dev
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "$(PYTHON) is not Python 3.11-3.13; name one that is: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "the venv module is missing; on Debian: apt install python3-venv"; rm -rf .venv; exit 1; }

lock: .venv/ready-dev
	$(VENV) tests/packages.py lock

test-versions: test-lowest
	$(PYTEST) $(VERSIONED)

test-lowest: .venv/lowest/ready
	PYTHONPATH=$(CURDIR)/.venv/lowest $(PYTEST) $(VERSIONED)

.venv/lowest/ready: tests/packages.py requirements.txt .venv/ready-dev
	rm -rf .venv/lowest
	$(VENV) tests/packages.py lowest .venv/lowest
	@touch $@

.venv/ready: requirements.txt constraints.txt | .venv/bin/pip
	$(VENV) -m pip install -q -c constraints.txt -r requirements.txt
	@touch $@

.venv/ready-dev: requirements-dev.txt requirements.txt constraints.txt | .venv/bin/pip
	$(VENV) -m pip install -q -c constraints.txt -r requirements-dev.txt
	@touch .venv/ready $@

.PHONY: help demo test test-browser test-versions test-lowest slow fuzz mutants lock lint
