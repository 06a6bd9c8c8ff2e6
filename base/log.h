// Logging to stderr, one event a line: `event key=value ...`. Levels: error = someone must act,
// warning = degraded and self-healing, info = life cycle, debug = per request. Under systemd
// (JOURNAL_STREAM set) lines carry the journal's "<N>" priority prefix. The logger is the
// project's only global. Thread-safe. Secrets never reach it: URLs go through RedactUrl.
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

// While it lives, lines are written by a thread of its own (`log`): whoever logs waits for nobody
// who reads stderr, and may do so on any thread and under any lock. When 8192 lines wait, the
// oldest is lost. One at a time; made and destroyed while no other thread of this process logs.
class BackgroundLog {
 public:
  BackgroundLog();
  // Writes what is queued.
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

// The URL without userinfo and without query and fragment.
std::string RedactUrl(std::string_view url);

}  // namespace imagefs
