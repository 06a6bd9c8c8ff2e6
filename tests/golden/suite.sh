# SPDX-License-Identifier: Apache-2.0
# Sourced by the golden tests after lib.sh: makes the suite, serves it, and compares trees.
GOLDEN=$TESTS/golden
FAILED=0

serve_suite() {  # serve_suite [NAME...]
  start_registry registry
  image "$@"
  local layout
  for layout in "$T"/images/*/; do
    layout=${layout%/}
    push "$layout" "suite/$(basename "$layout"):latest"
  done
}

suite_names() { (cd "$T/images" && ls -d -- */ | tr -d /); }

known() {  # known refused|differs RUNTIME NAME
  field "'$2' in j.get('$1', [])" <"$T/images/$3.json" | grep -q true
}

# mount_ours NAME [MODE]: at $M/NAME.
mount_ours() {
  mkdir -p "$M/$1"
  ifs mount -q --mode "${2:-auto}" "$REGISTRY/suite/$1:latest" "$M/$1" >/dev/null
}

# judge RUNTIME NAME THEIRS [OPTION...]: compares the tree of a runtime with ours, however we show it.
# What it is known to get wrong it has to get wrong, and nothing else.
judge() {
  local mode
  : "${MODES:=$(modes)}"
  for mode in $MODES; do judge_in "$mode" "$@"; done
}

judge_in() {
  local mode=$1 runtime=$2 name=$3 theirs=$4 outcome=equal
  shift 4
  compare() { $PY "$LIB/tree.py" compare "$theirs" "$M/$name" "$T/images/$name.json" "$@"; }
  if known refused "$runtime" "$name"; then
    outcome="failed: $runtime accepts it, which is said to refuse it"
  elif ! mount_ours "$name" "$mode"; then
    outcome="failed to mount"
  elif known differs "$runtime" "$name"; then
    outcome="differs from $runtime, as known"
    compare "$@" >"$T/compare.out" && outcome="failed: equal, where $runtime is said to differ"
    compare "$@" --but-expected || outcome="different beyond what is known"
  else
    compare "$@" || outcome=different
  fi
  report "$name" "$outcome ($mode)"
  if mountpoint -q "$M/$name"; then ifs umount "$M/$name"; fi
}

# judge_refusal RUNTIME NAME: of an image that the runtime did not accept.
judge_refusal() {
  if known refused "$1" "$2"; then
    report "$2" "refused by $1, as known"
  else
    tail -n 1 "$T/pull.out"
    report "$2" "failed: $1 refuses it and is not known to"
  fi
}

report() {  # report NAME OUTCOME
  printf '%-24s %s\n' "$1" "$2"
  case $2 in different* | failed*) FAILED=$((FAILED + 1)) ;; esac
}
