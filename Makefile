# make help lists the targets. Everything is installed into $(VENV); mmcv's compiled wheel is kept
# in $(CACHE), outside the clone, for the next one. STACK=openmmlab does all of it with OpenMMLab's
# last releases instead of OneDL's, in an environment of its own.
PYTHON ?= python3
STACK ?= onedl
VENV ?= $(if $(filter onedl,$(STACK)),.venv,.venv-$(STACK))
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mmatm
DEMO ?= mask_rcnn_atmnet_xt_demo
DEMO_SEG ?= upernet_atmnet_xt_demo

SHELL := /bin/bash -eo pipefail
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
# OpenMMLab's mmpretrain is left out: its tests are skipped there.
EXTRA := $(if $(filter onedl,$(STACK)),-r requirements/classification.txt)
WORK := work_dirs/$(DEMO)
WORK_SEG := work_dirs/$(DEMO_SEG)

.PHONY: help setup test test-openmmlab killtest fuzz coverage docs lint format data demo demo-seg demo-pretrain benchmark memcheck clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | awk -F '\t' '{printf "make %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## install torch, the mm packages and mmatm into .venv

$(VENV)/.torch: requirements/build-$(STACK).txt
	@echo '== torch and build tools into $(VENV)'
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.version_info >= (3, 10) or sys.exit(f"mmatm needs Python 3.10 or newer, but $(PYTHON) is {v}; try: make PYTHON=python3.11")'
	@command -v g++ > /dev/null || { echo 'g++ is missing: mmcv is compiled here; install gcc and g++' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements/build-$(STACK).txt
	@touch $@

# The wheel's folder names all that it was compiled for. Without the compiler of CUDA, mmcv's CUDA
# operators cannot be built, so torch is then told of no GPU and the CPU operators are. A failed
# build leaves nothing in the cache.
$(VENV)/.mmcv: $(VENV)/.torch requirements/$(STACK).txt
	@requirement=$$(grep mmcv requirements/$(STACK).txt); \
	if ! command -v nvcc > /dev/null; then export CUDA_VISIBLE_DEVICES=; fi; \
	key=$$($(BIN)/python -c 'import sys, platform, torch; print("torch" + torch.__version__, "py%d.%d" % sys.version_info[:2], platform.machine(), "cuda" if torch.cuda.is_available() else "cpu", sep="-")'); \
	folder="$(CACHE)/$${requirement/==/-}-$$key"; \
	if ! ls "$$folder"/*.whl > /dev/null 2>&1; then \
		echo "== compiling $$requirement, once (about 7 minutes on 2 cores) into $$folder"; \
		mkdir -p "$(CACHE)"; part=$$(mktemp -d "$(CACHE)/part.XXXXXX"); \
		PATH="$(abspath $(BIN)):$$PATH" CFLAGS=-g0 CXXFLAGS=-g0 $(BIN)/pip wheel --quiet \
			--disable-pip-version-check --no-build-isolation --no-deps --no-cache-dir --no-binary $${requirement%%==*} \
			--wheel-dir "$$part" $$requirement || { rm -rf "$$part"; echo "compiling $$requirement failed; see above" >&2; exit 1; }; \
		mkdir -p "$$folder"; mv "$$part"/*.whl "$$folder"; rm -rf "$$part"; \
	fi; \
	$(PIP) "$$folder"/*.whl
	@touch $@

$(VENV)/.ready: $(VENV)/.mmcv setup.py $(wildcard requirements/*.txt mmatm/ops/csrc/*)
	@echo '== mm packages, tests and mmatm'
	$(PIP) -r requirements/build-$(STACK).txt -r requirements/$(STACK).txt $(EXTRA) -r requirements/demo.txt -r requirements/tests.txt
	@# opencv-python needs the system's OpenGL; where that is missing the headless build serves.
	@$(BIN)/python -c 'import cv2' 2> /dev/null || $(PIP) --force-reinstall --no-deps \
		opencv-python-headless==$$($(BIN)/python -c 'from importlib.metadata import version; print(version("opencv-python"))')
	$(PIP) --no-build-isolation --editable .
	@$(BIN)/python -c 'from mmcv.utils.ext_loader import check_ops_exist as ops; import mmcv.ops; assert ops()' || { \
		echo "mmcv is installed without its compiled operators; remove $(CACHE) and $(VENV), then run make again" >&2; exit 1; }
	@$(BIN)/python -c 'import mmatm, mmdet, mmseg'
	@touch $@
	@echo '== ready; to run the tools yourself: source $(BIN)/activate'

test: setup ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

test-openmmlab: ## run the tests on OpenMMLab's last releases, in .venv-openmmlab
	$(MAKE) test STACK=openmmlab VENV=.venv-openmmlab

# Processes that the tests start are counted too, among them the one with Triton's interpreter.
coverage: setup ## run the tests and print which lines of mmatm/ they ran; below 95 % is an error
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal \
		--cov --cov-report=term --cov-fail-under=95

killtest: setup ## kill a detector's and a segmentor's training 20 times each, and resume it
	OMP_NUM_THREADS=1 MMATM_KILLS=20 $(BIN)/python -m pytest --numprocesses 2 -rP tests/tools/test_kill.py

fuzz: setup memcheck ## throw thousands of random and broken inputs at mmatm
	OMP_NUM_THREADS=1 MMATM_FUZZ=10 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 tests/fuzz

lint: setup ## check style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

docs: $(VENV)/.docs ## build the documentation into build/site; a warning is an error
	$(BIN)/mkdocs build --strict

$(VENV)/.docs: $(VENV)/.ready requirements/docs.txt
	$(PIP) -r requirements/docs.txt
	@touch $@

format: setup ## apply style
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

data: setup ## make the demo data set in data/demo
	$(BIN)/python tools/make_demo_data.py --out data/demo

demo: data ## train Mask R-CNN on a CPU, evaluate it, draw what it found
	$(BIN)/python tools/train.py configs/detection/$(DEMO).py --work-dir $(WORK)
	$(BIN)/python tools/test.py configs/detection/$(DEMO).py $$(cat $(WORK)/last_checkpoint) --work-dir $(WORK) --out $(WORK)/predictions.pkl
	$(BIN)/python tools/contact_sheet.py configs/detection/$(DEMO).py $(WORK)/predictions.pkl --out $(WORK)/contact_sheet.png

demo-seg: data ## the same for segmentation: train UperNet, evaluate it, draw label maps
	$(BIN)/python tools/train.py configs/segmentation/$(DEMO_SEG).py --work-dir $(WORK_SEG)
	$(BIN)/python tools/test.py configs/segmentation/$(DEMO_SEG).py $$(cat $(WORK_SEG)/last_checkpoint) --work-dir $(WORK_SEG) --out $(WORK_SEG)/predictions
	$(BIN)/python tools/contact_sheet.py configs/segmentation/$(DEMO_SEG).py $(WORK_SEG)/predictions --height 192 --out $(WORK_SEG)/contact_sheet.png

demo-pretrain: data ## pretrain a classifier on single shapes; compare Mask R-CNN with and without it
	$(BIN)/python tools/train.py configs/classification/atmnet_xt_demo.py --work-dir work_dirs/atmnet_xt_demo
	$(BIN)/python tools/test.py configs/classification/atmnet_xt_demo.py $$(cat work_dirs/atmnet_xt_demo/last_checkpoint) --work-dir work_dirs/atmnet_xt_demo
	for run in '' _pretrained; do $(BIN)/python tools/train.py configs/detection/$(DEMO)$$run.py --work-dir $(WORK)_compared$$run --cfg-options train_cfg.val_interval=1; done
	$(BIN)/python tools/analysis/plot_logs.py $(WORK)_compared $(WORK)_compared_pretrained --keys coco/bbox_mAP_50 coco/segm_mAP_50 --out $(WORK)_compared_pretrained/curves.png

benchmark: setup ## time ATMNet beside the published code and other backbones, on a CPU
	$(BIN)/python tools/benchmark.py --out work_dirs/benchmark

memcheck: ## run the C++ operator under the address and undefined-behaviour sanitizers
	@mkdir -p build
	g++ -std=c++17 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all tests/ops/memory_check.cpp -o build/memory_check
	build/memory_check

clean: ## remove the environment, the demo data and the results of the demos
	rm -rf .venv .venv-openmmlab $(VENV) build *.egg-info data/demo $(WORK) $(WORK_SEG)
