// SPDX-License-Identifier: Apache-2.0
// The output and the exit status of the command. Errors of standard output count: a caller that got
// half of a list must not see status 0. Not thread-safe.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace imagefs {

struct CliExit;

// Opens those of the descriptors 0 to 2 that the caller has closed, such that using them fails.
// Otherwise a socket or a file would get their number, and messages would be written to it. Call in
// main before opening anything.
void HoldStandardDescriptors();

class Output {
 public:
  explicit Output(bool json) : json_(json) {}
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  bool json() const { return json_; }
  // Writes to standard output, unbuffered. Finish reports errors.
  void Print(std::string_view text);
  // Nothing was written by Print since an earlier write failed.
  bool failed() const { return error_ != 0; }
  // Writes to standard error unchanged; errors are ignored.
  void Note(std::string_view text);
  // Writes one line, "imagefs: MESSAGE", to standard error, whatever the message contains. With
  // `json`, also writes an object to standard output: `object`, or that of print.h's ErrorJson if
  // "". Returns the exit status of its kind (base/failure.h).
  int Fail(const absl::Status& status, std::string_view object = "");
  // Returns the exit status: `status`, or 1 if writing to standard output failed. Reports that
  // failure on standard error, except if the reader has closed the pipe (EPIPE).
  int Finish(int status);

 private:
  const bool json_;
  bool printed_ = false;
  int error_ = 0;  // errno of the first failure
};

// Prints `exit`; returns its status, or that of a failure to print.
int PrintExit(const CliExit& exit);

}  // namespace imagefs
