// The status line and the headers of an HTTP answer, line by line, within limits. Pure.
#pragma once

#include <cstddef>
#include <string_view>

#include "absl/status/status.h"
#include "fetch/http.h"

namespace imagefs {

class HeaderReader {
 public:
  // Takes one line, with or without its end. Interim answers (1xx) are passed over. What makes no
  // header is left out; an answer without a status or with more headers than are acceptable is an
  // error: kUnavailable, kResourceExhausted.
  absl::Status Take(std::string_view line, HttpResponse& response);
  // The headers are complete.
  bool done() const { return done_; }

 private:
  size_t bytes_ = 0;
  bool done_ = false;
};

}  // namespace imagefs
