#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The wall clock may be set at any moment. Only what means a moment of the calendar looks at it; what
# means an interval (deadlines, pauses, ages) goes by base/monotonic.h or std::chrono::steady_clock.
set -euo pipefail
cd "$(dirname "$0")/../.."
sources=$(git ls-files 'base/*' 'image/*' 'fetch/*' 'cache/*' 'fs/*' 'snap/*' 'cmd/*' | grep -E '\.(h|cc)$')
bad=0
code=$(grep -n '' $sources | sed -E 's@"([^"\\]|\\.)*"@""@g; s@//.*$@@')   # FILE:NUMBER:LINE
forbid() {  # forbid REGEX ADVICE [FILES_THAT_MAY]
  local hits
  hits=$(grep -E "$1" <<<"$code" | grep -vE "^(${3:-none}):" || true)
  [ -n "$hits" ] || return 0
  echo "$hits"
  echo "clock: $2"
  bad=1
}
# A lease's end; a date that a registry names; when a layer was last checked or used; when a record or a file was made, and
# its age; when a start began.
forbid 'absl::Now\(|GetCurrentTimeNanos|system_clock|CLOCK_REALTIME|gettimeofday|(^|[^_[:alnum:]])time\((nullptr|NULL|0)\)|GPR_CLOCK_REALTIME' \
  'the wall clock: an interval goes by Moment (base/monotonic.h), which no clock setting moves' \
  'snap/containerd_client\.cc|fetch/(auth|registry_call)\.cc|cache/(image_records|image_store|layer_store|layer_store_check|layer_store_filling|layer_store_space|shared_store|space_keeper)\.cc|fs/mount_table\.cc|snap/(podman_store|snapshotter)\.cc|cmd/((daemon|image)_verbs|doctor_machine|mount_status)\.cc'
forbid '(Await|Wait|LockWhen|WaitForNotification)With(Timeout|Deadline)\(|(^|[^_[:alnum:]])(wait|try_lock)_(for|until)\(' \
  'absl waits for a moment of the wall clock, even with a timeout: use TimedCondition (base/monotonic.h) or TimerQueue' \
  'base/monotonic\.cc'
exit $bad
