# SPDX-License-Identifier: Apache-2.0
# Thin verbs over CMakePresets.json; see docs/testing.md.
.DEFAULT_GOAL := build
.PHONY: build run test test-vm check tidy asan tsan clang coverage arm64 fuzz soak bench deps format clean install uninstall package image

# REF=<image> DIR=<directory> are read by `make run`; T=<target> S=<seconds> by `make fuzz`.
S ?= 60
export REF DIR

build:
	@scripts/deps.sh build
	@cmake --preset release >/dev/null
	@cmake --build --preset release

run:
	@scripts/run.sh

test:
	@scripts/test.sh

test-vm:
	@scripts/test-vm.sh

check:
	@scripts/check.sh

tidy:
	@TIDY_ALL=1 scripts/check.sh

asan tsan clang:
	@scripts/sanitize.sh $@

coverage arm64:
	@scripts/$@.sh

fuzz:
	@scripts/fuzz.sh "$(T)" "$(S)"

# For an hour, or S= seconds: what happens in a random order (SEED=), and kills under readers, KILLS= of them.
soak:
	@S=$(if $(filter command line environment,$(origin S)),$(S),3600) scripts/soak.sh

bench:
	@scripts/bench.sh

# PREFIX=/usr/local DESTDIR=
PREFIX ?= /usr/local
export DESTDIR
install:
	@scripts/deps.sh build
	@cmake --preset release >/dev/null
	@cmake --build --preset release --target imagefs imagefsd imagefs_documentation
	@scripts/install.sh $(PREFIX)

uninstall:
	@scripts/uninstall.sh $(PREFIX)

package:
	@scripts/deps.sh package
	@cmake --preset release >/dev/null
	@cmake --build --preset release --target imagefs imagefsd imagefs_documentation
	@cpack --config build/release/CPackConfig.cmake
	@ls build/release/package/*.deb

# The container image for the nodes of a cluster, as an OCI layout in build/image.
image:
	@scripts/deps.sh image
	@cmake --preset release >/dev/null
	@cmake --build --preset release --target imagefs imagefsd imagefs_documentation
	@scripts/image.sh

deps:
	@scripts/deps.sh all

format:
	@git ls-files '*.cc' '*.h' | xargs clang-format -i

clean:
	@rm -rf build
