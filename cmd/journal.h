// SPDX-License-Identifier: Apache-2.0
// The journal of systemd, as where log lines go. Of `event key=value` the journal gets, besides the
// line: PRIORITY, IMAGEFS_EVENT, a field IMAGEFS_KEY for each value, and as MESSAGE_ID the first
// 128 bits of the SHA-256 of "imagefs event " and the event, so that each event has one for good
// (docs/log.md).
#pragma once

#include <string>
#include <string_view>

#include "base/log.h"

namespace imagefs {

// 32 hex digits.
std::string MessageIdOf(std::string_view event);

// Returns how to write to the journal, or null if stderr is not connected to it.
BackgroundLog::Write JournalWriter();

}  // namespace imagefs
