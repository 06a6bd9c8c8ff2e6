// SPDX-License-Identifier: Apache-2.0
// Logging, one event per line: `event key=value key="a value"`, as logfmt parsers read it. Levels:
// error = someone must act, warning = degraded and self-healing, info = life cycle, debug = per
// request. Lines go to stderr, with a time, or under systemd (JOURNAL_STREAM set) with the
// journal's
// "<N>" priority prefix; or to the BackgroundLog's writer. The logger is the project's only global.
// Thread-safe. Secrets must never reach it: URLs go through RedactUrl.
//
//   LogInfo("layer.filled layer=", id, " cause=", status.message());
//
// String literals name the event and its keys; everything else is a value, which is quoted where it
// has to be, so that no value can look like a key.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/text.h"

namespace imagefs {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };

// The initial one is kInfo.
void SetLogLevel(LogLevel level);
LogLevel CurrentLogLevel();
// As syslog(3) and the journal number it. REQUIRES: not kOff.
int SyslogPriority(LogLevel level);
bool LogEnabled(LogLevel level);
void LogLine(LogLevel level, std::string_view line);

// Composes a line from literals and values.
class LogText {
 public:
  // A space, a word and "=" in it begin a value, which ends where the next one begins.
  void Literal(std::string_view text);
  void Value(std::string_view text) { (in_value_ ? value_ : out_) += text; }
  void Pair(std::string_view key, std::string_view value);
  std::string Take();

 private:
  void EndValue();
  std::string out_, value_;
  bool in_value_ = false;
};

// The event, under the key "", and the values of a line that LogText composed.
std::vector<std::pair<std::string, std::string>> ParseLogLine(std::string_view line);

namespace internal {
template <size_t N>
void AddToLog(LogText& text, const char (&literal)[N]) {
  text.Literal(literal);
}
template <typename T>
void AddToLog(LogText& text, const T& value) {
  text.Value(StrCat(value));
}
template <typename... Args>
std::string LogTextOf(const Args&... args) {
  LogText text;
  (AddToLog(text, args), ...);
  return text.Take();
}
}  // namespace internal

// While an instance exists, a dedicated thread (`log`) writes the lines, so that logging never
// waits for the reader of stderr and is allowed on any thread and under any lock. If 8192 lines are
// queued, the oldest is dropped. At most one instance; create and destroy it while no other thread
// logs.
class BackgroundLog {
 public:
  // Called by that thread with each line, without time and level, instead of writing it to stderr.
  using Write = std::function<void(LogLevel level, const std::string& line)>;
  explicit BackgroundLog(Write write = nullptr);
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
  if (LogEnabled(LogLevel::kDebug)) LogLine(LogLevel::kDebug, internal::LogTextOf(args...));
}
template <typename... Args>
void LogInfo(const Args&... args) {
  if (LogEnabled(LogLevel::kInfo)) LogLine(LogLevel::kInfo, internal::LogTextOf(args...));
}
template <typename... Args>
void LogWarning(const Args&... args) {
  if (LogEnabled(LogLevel::kWarning)) LogLine(LogLevel::kWarning, internal::LogTextOf(args...));
}
template <typename... Args>
void LogError(const Args&... args) {
  if (LogEnabled(LogLevel::kError)) LogLine(LogLevel::kError, internal::LogTextOf(args...));
}

// Returns the URL without userinfo, query and fragment.
std::string RedactUrl(std::string_view url);

}  // namespace imagefs
