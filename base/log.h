// SPDX-License-Identifier: Apache-2.0
// Logging to stderr, one event per line: `event key=value ...`. Levels: error = someone must act,
// warning = degraded and self-healing, info = life cycle, debug = per request. Under systemd
// (JOURNAL_STREAM set) lines carry the journal's "<N>" priority prefix. The logger is the project's
// only global. Thread-safe. Secrets must never reach it: URLs go through RedactUrl.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/text.h"

namespace imagefs {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };

void SetLogLevel(LogLevel level);
bool LogEnabled(LogLevel level);
void LogLine(LogLevel level, std::string_view line);

// While an instance exists, a dedicated thread (`log`) writes the lines, so that logging never
// waits for the reader of stderr and is allowed on any thread and under any lock. If 8192 lines are
// queued, the oldest is dropped. At most one instance; create and destroy it while no other thread
// logs.
class BackgroundLog {
 public:
  BackgroundLog();
  // Writes the queued lines.
  ~BackgroundLog();
  BackgroundLog(const BackgroundLog&) = delete;
  BackgroundLog& operator=(const BackgroundLog&) = delete;

 private:
  struct Writer;
  const std::unique_ptr<Writer> writer_;
};

template <typename... Args>
void LogDebug(const Args&... args) {
  if (LogEnabled(LogLevel::kDebug)) LogLine(LogLevel::kDebug, StrCat(args...));
}
template <typename... Args>
void LogInfo(const Args&... args) {
  if (LogEnabled(LogLevel::kInfo)) LogLine(LogLevel::kInfo, StrCat(args...));
}
template <typename... Args>
void LogWarning(const Args&... args) {
  if (LogEnabled(LogLevel::kWarning)) LogLine(LogLevel::kWarning, StrCat(args...));
}
template <typename... Args>
void LogError(const Args&... args) {
  if (LogEnabled(LogLevel::kError)) LogLine(LogLevel::kError, StrCat(args...));
}

// Returns the URL without userinfo, query and fragment.
std::string RedactUrl(std::string_view url);

}  // namespace imagefs
