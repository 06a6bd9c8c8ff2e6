// SPDX-License-Identifier: Apache-2.0
// For whom a thread works: for the lines that it logs ("call=12" is appended to each of them), and
// for the timeline in which the steps of that work are recorded (base/timeline.h), if any. The
// context follows the work: executors, timers, flights and HTTP requests keep that of the
// caller that started them, and work on with it. So all lines of one call have one id, from the
// command to the socket. Of a flight that many share, the work has the context of the caller that
// it was started for, and each caller's own callback its own.
//
//   const LogContext::Scope scope(LogContext(StrCat(" call=", id)));
#pragma once

#include <memory>
#include <string>
#include <utility>

namespace imagefs {

class Timeline;

class LogContext {
 public:
  LogContext() = default;  // nobody
  // What is appended to lines: a space, a key, "=", and a value that needs no quotes; repeated.
  explicit LogContext(std::string text)
      : text_(std::make_shared<const std::string>(std::move(text))) {}

  // That of this thread.
  static LogContext Current() { return current_ == nullptr ? LogContext() : *current_; }
  // "" for nobody.
  const std::string& text() const;
  // Null: nothing is recorded.
  const std::shared_ptr<Timeline>& timeline() const { return timeline_; }
  // This context, with that timeline.
  LogContext With(std::shared_ptr<Timeline> timeline) const {
    LogContext out = *this;
    out.timeline_ = std::move(timeline);
    return out;
  }
  bool empty() const { return text_ == nullptr && timeline_ == nullptr; }

  class Scope;

 private:
  static thread_local const LogContext* current_;
  std::shared_ptr<const std::string> text_;
  std::shared_ptr<Timeline> timeline_;
};

// Sets this thread's context while it exists.
class LogContext::Scope {
 public:
  explicit Scope(LogContext context)
      : context_(std::move(context)), before_(std::exchange(current_, &context_)) {}
  ~Scope() { current_ = before_; }
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  const LogContext context_;
  const LogContext* const before_;
};

}  // namespace imagefs
