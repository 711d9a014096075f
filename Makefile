# `make run` and `make test` set up everything they need in .venv, once.
# STACK chooses the versions: tfx-1.21, whose wheels need glibc 2.38 or newer, or tfx-1.16, for any glibc from 2.17.
ifndef STACK
GLIBC := $(word 2,$(shell getconf GNU_LIBC_VERSION 2>/dev/null))
STACK := $(shell printf '2.38\n$(GLIBC)\n' | sort -CV && echo tfx-1.21 || echo tfx-1.16)
endif
# The Debian that has such a glibc.
SUITE := $(if $(filter tfx-1.21,$(STACK)),trixie,bookworm)
VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready-$(STACK)
UV := $(shell command -v uv || echo .uv/bin/uv)

# `make image` takes docker where a docker daemon answers, and podman elsewhere.
CONTAINER_TOOL ?= $(shell docker info >/dev/null 2>&1 && echo docker || echo podman)
IMAGE ?= flightdeck:$(STACK)
# The Containerfile says what these are; empty for its defaults.
BASE ?= $(if $(filter trixie,$(SUITE)),docker.io/library/python:3.11-slim-trixie)
BEAM_IMAGE ?=

# `make test-containers` runs what is compiled by a newer SDK than the project's own.
KFP_LOCAL := $(VENV)/kfp-local
KFP_LOCAL_READY := $(KFP_LOCAL)/.ready

# Beam's job servers for Flink and Spark, of the Beam of TFX 1.16, with these in them; they need Java and Maven.
FLINK_JAR := build/flink/flink-job-server.jar
SPARK_JAR := build/spark/spark-job-server.jar
# Beam's own runner in Go, which needs Go.
PRISM := build/prism/prism

.PHONY: run test test-trixie image sbom test-containers test-edge test-browser test-benchmarks \
  beam-of-tfx-1.16 flink-jar test-flink spark-jar test-spark prism lint format docs requirements clean

run: $(READY)
	$(PYTHON) local_runner.py run $(if $(MODEL),--model $(MODEL)) $(ARGS)

# The tests of a file run in one process; there is one for each core. What they start finds the project's code compiled,
# whatever the shell says of that.
test: export PYTHONDONTWRITEBYTECODE =
test: $(READY)
	$(PYTHON) -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS)

# The same on TFX 1.21, where glibc is too old for it: in a container of Debian 13, with root, podman and mmdebstrap from
# Debian's packages. `GOAL=run` or `GOAL=lint` makes that instead.
GOAL ?= test
test-trixie:
	tests/containers/make_in_trixie.sh $(GOAL)

# What says here where packages come from, and whose certificates to trust, holds inside as well; neither is kept in the
# image.
image:
	@set -e; registries=$$(mktemp); trap 'rm -f "$$registries"' EXIT; \
	export -p | grep -E '^export (PIP|UV)_(DEFAULT_INDEX|EXTRA_INDEX_URL|INDEX|INDEX_URL)=' >"$$registries" || true; \
	set -x; $(CONTAINER_TOOL) build --file Containerfile --tag $(IMAGE) --build-arg STACK=$(STACK) \
	  $(if $(BASE),--build-arg BASE=$(BASE)) $(if $(REQUIREMENTS),--build-arg REQUIREMENTS=$(REQUIREMENTS)) \
	  $(if $(BEAM_IMAGE),--build-arg BEAM_IMAGE=$(BEAM_IMAGE)) \
	  --secret id=registries,src="$$registries" $${SSL_CERT_FILE:+--secret id=ca,src="$$SSL_CERT_FILE"} .
	@$(CONTAINER_TOOL) image inspect --format 'Built $(IMAGE), {{.Id}}, {{.Size}} bytes' $(IMAGE)

# The bill of materials of the image, as CycloneDX.
sbom:
	@$(CONTAINER_TOOL) run --rm $(IMAGE) cat /opt/venv/sbom.cdx.json

# The compiled pipeline, task by task, in containers of the image; with root and `podman runc netavark iptables mmdebstrap` from
# Debian's packages. The image is built upon a base of Debian's packages.
test-containers: export CONTAINERS_CONF = $(CURDIR)/tests/containers/containers.conf
test-containers: BASE = localhost/debian:$(SUITE)
test-containers: IMAGE = localhost/flightdeck:$(STACK)
test-containers: $(READY) $(KFP_LOCAL_READY)
	tests/containers/bootstrap_base.sh $(BASE)
	$(MAKE) image CONTAINER_TOOL=podman BASE=$(BASE) IMAGE=$(IMAGE)
	IMAGE=$(IMAGE) KFP_LOCAL=$(KFP_LOCAL)/bin/python $(PYTHON) -m pytest tests/containers $(ARGS)

$(KFP_LOCAL_READY): requirements/containers.txt $(READY) | $(UV)
	$(UV) venv --quiet --clear --python 3.11 $(KFP_LOCAL)
	$(UV) pip install --quiet --python $(KFP_LOCAL) --require-hashes -r $<
	touch $@

# The examples of examples/edge, as their README says; what Node, a JDK with Maven, a C++ compiler or Chromium is missing
# for is skipped.
test-edge: $(READY)
	$(PYTHON) -m pytest tests/edge $(ARGS)

# The pages that people look at, in headless Chromium, with what npm installs.
test-browser: $(READY)
	$(PYTHON) -m pytest tests/browser $(ARGS)

# Every benchmark on a tiny setting: does it still run?
test-benchmarks: $(READY)
	$(PYTHON) -m pytest tests/models/benchmark_runs $(ARGS)

beam-of-tfx-1.16:
	@[ $(STACK) = tfx-1.16 ] || { echo "the job servers are of the Beam of TFX 1.16; try: make STACK=tfx-1.16 $(MAKECMDGOALS)" >&2; exit 1; }

# The pipeline on Flink: inside the job server, then on a cluster of this machine.
test-flink: beam-of-tfx-1.16 $(READY) $(FLINK_JAR)
	FLINK_JAR=$(FLINK_JAR) $(PYTHON) -m pytest tests/flink $(ARGS)

flink-jar: $(FLINK_JAR)

$(FLINK_JAR): orchestration/flink/pom.xml
	mvn --batch-mode --quiet --file $< -Dflink.directory=$(abspath $(@D)) package
	touch $@

# The data nodes on Spark, inside the job server.
test-spark: beam-of-tfx-1.16 $(READY) $(SPARK_JAR)
	SPARK_JAR=$(SPARK_JAR) $(PYTHON) -m pytest tests/spark $(ARGS)

spark-jar: $(SPARK_JAR)

$(SPARK_JAR): orchestration/spark/pom.xml
	mvn --batch-mode --quiet --file $< -Dspark.directory=$(abspath $(@D)) package
	touch $@

# Where it is built, tests/e2e/test_beam_runners.py runs the data nodes on it too.
prism: beam-of-tfx-1.16 $(PRISM)

$(PRISM): orchestration/prism/go.mod orchestration/prism/go.sum
	cd $(<D) && go build -o $(abspath $@) github.com/apache/beam/sdks/v2/go/cmd/prism

lint: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: $(READY)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# What is written in docs/ by programs, but for measurements.
docs: $(READY)
	$(PYTHON) -m pipeline.config_page

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

# Recompiles the hashed requirements: of both stacks from pyproject.toml and what data are made from; the same versions
# for the image, without what tests and data need; and those of `make test-containers`.
COMPILE := $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet
requirements: | $(UV)
	for stack in 1.16.0 1.21.0; do \
	  name=tfx-$${stack%.*}; versions=$$(mktemp); \
	  echo "tfx==$$stack" | $(COMPILE) pyproject.toml $(wildcard data/*/requirements.in) --group dev \
	    --constraint /dev/stdin --output-file requirements/$$name.txt && \
	  sed -nE '/;/d; s/^([a-z0-9][^ ]*==[^ ]+).*/\1/p; s/^tensorflow(==[^ ]+).*/tensorflow-cpu\1/p' requirements/$$name.txt >$$versions && \
	  $(COMPILE) pyproject.toml requirements/image.in --constraint $$versions --no-annotate \
	    --override requirements/image-overrides.txt --output-file requirements/image-$$name.txt || exit 1; \
	  rm $$versions; \
	done
	$(COMPILE) tests/containers/requirements.in --output-file requirements/containers.txt
	$(COMPILE) requirements/sbom.in --output-file requirements/sbom.txt

clean:
	rm -rf $(VENV) .uv output build *.egg-info
