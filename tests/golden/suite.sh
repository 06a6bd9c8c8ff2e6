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

# mount_ours NAME: at $M/NAME.
mount_ours() {
  mkdir -p "$M/$1"
  ifs mount -q "$REGISTRY/suite/$1:latest" "$M/$1" >/dev/null
}

report() {  # report NAME OUTCOME
  printf '%-24s %s\n' "$1" "$2"
  case $2 in different* | failed*) FAILED=$((FAILED + 1)) ;; esac
}
