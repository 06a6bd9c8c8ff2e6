#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Layouts and archives with attestations, artifacts, signatures or several images: which image is meant, and whether
# skopeo finds the same one.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need skopeo
$PY "$TESTS/golden/odd_layouts.py" "$T/work" "$IMAGEFS" --root "$ROOT" --run "$RUN" || fail "another image"
