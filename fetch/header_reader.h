// SPDX-License-Identifier: Apache-2.0
// Parses the status line and headers of an HTTP response, line by line, within limits. Pure.
#pragma once

#include <cstddef>
#include <string_view>

#include "absl/status/status.h"
#include "fetch/http.h"

namespace imagefs {

class HeaderReader {
 public:
  // Takes one line, with or without its line end. Skips interim (1xx) responses and malformed
  // headers. Returns kUnavailable for a response without a status, and kResourceExhausted for one
  // with too many headers.
  absl::Status Take(std::string_view line, HttpResponse& response);
  // True once the headers are complete.
  bool done() const { return done_; }

 private:
  size_t bytes_ = 0;
  bool done_ = false;
};

}  // namespace imagefs
