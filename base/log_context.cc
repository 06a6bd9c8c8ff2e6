// SPDX-License-Identifier: Apache-2.0
#include "base/log_context.h"

namespace imagefs {

thread_local const LogContext* LogContext::current_ = nullptr;

const std::string& LogContext::text() const {
  static const std::string nobody;
  return text_ == nullptr ? nobody : *text_;
}

}  // namespace imagefs
