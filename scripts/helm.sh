#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds helm for integration/121-helm, by Go's module proxy (GOPROXY), into build/peers/helm. It takes minutes, and a
# newer Go than Debian 12's: GO=PROGRAM names one. `make test` does without.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build/peers/helm
GOBIN=$PWD/build/peers/helm GOFLAGS=-mod=mod CGO_ENABLED=0 nice -n 10 "${GO:-go}" install helm.sh/helm/v3/cmd/helm@"${HELM_VERSION:-v3.18.6}"
build/peers/helm/helm version --short
