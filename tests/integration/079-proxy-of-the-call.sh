#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A user's daemon goes by the proxies of the shell that calls, and not by those of the shell that started it.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
. "$(dirname "$0")/../lib/hosts.sh"
need_root; need_fuse; open_fuse
start_registry registry
image plain whiteouts
push "$T/images/plain" test/app:1 >/dev/null
push "$T/images/whiteouts" test/app:2 >/dev/null
user_home "$T/home"
closed=127.0.0.1:$(free_port)
says() { grep -q "$1" "$T/err" || fail "$(cat "$T/err")"; }
# The daemon is started where no proxy is set.
as_user "$IMAGEFS" ls >"$T/out" 2>"$T/err" || fail "$(cat "$T/err")"
! as_user env "http_proxy=http://$closed" "$IMAGEFS" pull -q "$REGISTRY/test/app:1" >"$T/out" 2>"$T/err" || fail "the proxy was not asked"
says "cannot connect to the proxy $closed (from http_proxy): connection refused"
as_user env "http_proxy=http://$closed" NO_PROXY=127.0.0.1 "$IMAGEFS" pull -q "$REGISTRY/test/app:1" >"$T/out" 2>"$T/err" || fail "$(cat "$T/err")"
as_user "$IMAGEFS" stop
# And where one is set.
as_user env "http_proxy=http://$closed" "$IMAGEFS" ls >"$T/out" 2>"$T/err" || fail "$(cat "$T/err")"
as_user "$IMAGEFS" pull -q "$REGISTRY/test/app:2" >"$T/out" 2>"$T/err" || fail "$(cat "$T/err")"
as_user "$IMAGEFS" stop
# The system's daemon keeps to its own, and says so.
ifs ls
! http_proxy=http://$closed ifs pull -q "no-such-host.invalid/test/app:1" >"$T/out" 2>"$T/err" || fail "it is had"
says 'the daemon was started with other proxies'
