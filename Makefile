# What can be done here. Each target sees to what it needs, or says the one command.

SHELL := /bin/bash
export PATH := $(PATH):$(HOME)/.cargo/bin
CARGO ?= cargo
BUILD := $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
.PHONY: help needs build demo dev test test-live test-long bench lint lab openapi

help:
	@echo "make demo       two clusters on simulated clouds: one is moved, one is turned back (OUTPUT=json)"
	@echo "make dev        everything on this machine, until Ctrl-C (ARGS='--speed 10')"
	@echo "make test       all tests that need only Rust and PostgreSQL"
	@echo "make test-live  the same against two real OpenStack clouds and real Kubernetes (root, Debian 12)"
	@echo "make test-long  the crash matrix and the random worlds with many seeds (SEEDS=10 WORLDS=10000)"
	@echo "make bench      the promises in numbers, an hour (ONLY=idle, SMOKE=1)"
	@echo "make lint       format, clippy, licences"
	@echo "make lab        install and start the real clouds of test-live"
	@echo "make openapi    write openapi/zcp.json anew"

needs:
	@deploy/needs.sh

build: needs
	$(CARGO) build --bins

demo: build
	@BIN=$(BUILD)/debug deploy/demo.sh

dev: build
	@exec $(BUILD)/debug/zcpd dev $(ARGS)

test: needs
	$(CARGO) test --lib --test it

test-live: needs
	@if [ -x tests/lab/live/run ]; then exec tests/lab/live/run $(ARGS); \
	else echo "tests/lab/live/run is not there: nothing to run against the real clouds yet"; fi

SEEDS ?= 10
WORLDS ?= 10000
test-long: needs
	$(CARGO) test --no-run --test it
	ZCP_WORLDS=$(WORLDS) $(CARGO) test --test it plans::random -- --nocapture
	@for seed in $$(seq 1 $(SEEDS)); do \
		echo "== seed $$seed"; ZCP_SEED=$$seed $(CARGO) test --quiet --test it crash_matrix || exit 1; done

# ONLY=path,first_call,crowd,idle,idle10 runs some; SMOKE=1 runs all of them small.
bench: needs
	$(CARGO) bench --bench zcp -- --out=$(BUILD) $(if $(ONLY),--only=$(ONLY)) $(if $(SMOKE),--smoke=1)

lint: needs
	@if $(CARGO) fmt --version >/dev/null 2>&1; then $(CARGO) fmt --check; \
	else echo "rustfmt is missing (rustup component add rustfmt): the format is not checked"; fi
	@if $(CARGO) clippy --version >/dev/null 2>&1; then $(CARGO) clippy --all-targets -- -D warnings; \
	else echo "clippy is missing (rustup component add clippy): not run"; fi
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check licenses bans sources; \
	else echo "cargo-deny is missing (cargo install cargo-deny): licences are not checked"; fi

lab:
	tests/lab/lab install && tests/lab/lab start

openapi: build
	$(BUILD)/debug/zcpd openapi > openapi/zcp.json
