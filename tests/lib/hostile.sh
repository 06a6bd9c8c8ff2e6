# SPDX-License-Identifier: Apache-2.0
# Sourced behind lib.sh by tests with a registry that means harm.

# own_network ADDRESS...: the script starts again with a network of its own that has loopback and these
# addresses, and nothing else; $T/hosts is what its names mean.
own_network() {
  local status=0 address
  if [ -z "${IMAGEFS_TEST_NETWORK:-}" ]; then
    IMAGEFS_TEST_NETWORK=1 unshare -n -m --propagation private "$0" || status=$?
    exit $status
  fi
  need ip
  ip link set lo up
  for address in "$@"; do ip addr add "$address/32" dev lo; done
  names
  mount --bind "$T/hosts" /etc/hosts
}

# names [NAME=ADDRESS...]: from here on.
names() {
  local word
  {
    echo '127.0.0.1 localhost'
    for word in "$@"; do echo "${word#*=} ${word%%=*}"; done
  } >"$T/hosts.new"
  cat "$T/hosts.new" >"$T/hosts"
}

# start_hostile NAME: sets HOSTILE_PORT, OTHER_PORT (the same registry) and HOSTILE (its folder).
start_hostile() {
  HOSTILE=$T/$1
  mkdir -p "$HOSTILE"
  $PY "$LIB/hostile.py" "$HOSTILE" 2>"$T/$1.log" &
  TEST_PIDS+=($!)
  wait_for 20 "[ -e '$HOSTILE/port' ]" || fail "the hostile registry does not start"
  read -r HOSTILE_PORT OTHER_PORT <"$HOSTILE/port"
}

# lead WHAT=URL...: where the hostile registry's repository lead/... leads to from here on.
lead() {
  $PY -c 'import json, sys; print(json.dumps(dict(word.split("=", 1) for word in sys.argv[1:])))' "$@" \
    >"$HOSTILE/lead.new"
  mv "$HOSTILE/lead.new" "$HOSTILE/lead"
}

# held BEHAVIOUR: connections that it holds.
held() {
  if [ -e "$HOSTILE/live" ]; then field "j.get('$1', 0)" <"$HOSTILE/live"; else echo 0; fi
}
