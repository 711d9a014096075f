# `make run` and `make test` set up everything they need in .venv, once.
# STACK chooses the versions: tfx-1.16 (default, any glibc from 2.17) or tfx-1.21 (glibc 2.38 or newer).
STACK ?= tfx-1.16
VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready-$(STACK)
UV := $(shell command -v uv || echo .uv/bin/uv)

.PHONY: run test lint format requirements clean

run: $(READY)
	$(PYTHON) local_runner.py run $(ARGS)

test: $(READY)
	$(PYTHON) -m pytest $(ARGS)

lint: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: $(READY)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# uv takes Python 3.11 where it is installed and fetches it elsewhere. TFX's wheels say "<3.11" and
# run on 3.11; uv, unlike pip, installs them there.
# TFDV's dependency pyfarmhash comes as source only and has to be compiled.
$(READY): requirements/$(STACK).txt | $(UV)
	@command -v g++ >/dev/null || { echo "g++ is missing; try: sudo apt-get install g++" >&2; exit 1; }
	rm -rf $(VENV)
	$(UV) venv --quiet --python 3.11 $(VENV)
	$(UV) pip install --quiet --python $(PYTHON) --require-hashes --compile-bytecode -r $<
	touch $@

.uv/bin/uv:
	@python3 -m pip --version >/dev/null || { echo "pip is missing; try: sudo apt-get install python3-pip" >&2; exit 1; }
	python3 -m pip install --quiet --target .uv uv

# Recompiles the hashed requirements of both stacks from pyproject.toml.
requirements: | $(UV)
	for stack in 1.16.0 1.21.0; do \
	  echo "tfx==$$stack" | $(UV) pip compile pyproject.toml --group dev --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url --no-header --quiet --constraint /dev/stdin \
	    --output-file requirements/tfx-$${stack%.*}.txt || exit 1; \
	done

clean:
	rm -rf $(VENV) .uv output build *.egg-info
