#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# One daemon owns a store: a second one is refused and says who has it; one with another store works
# beside it.
. "$(dirname "$0")/../lib/lib.sh"
need_root
ifs images >/dev/null
pid=$(daemons)
refuse 6 "$pid" timeout 20 "$IMAGEFS" --root "$ROOT" --run "$T/other-run" --log-level error daemon
refuse 6 'daemon|running|socket|own' timeout 20 "$IMAGEFS" --root "$T/other-root" --run "$RUN" --log-level error daemon
"$IMAGEFS" --root "$T/other-root" --run "$T/other-run" images >/dev/null
same "two stores, two daemons" 2 "$(daemons | wc -w)"
