// SPDX-License-Identifier: Apache-2.0
// What a process of the command says, and with which status it ends. Errors of the standard output
// count: who asked for a list and got half of it must not see status 0. Not thread-safe.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace imagefs {

struct CliExit;

// For main, before anything is opened. Of the descriptors 0 to 2, those that the caller has closed
// become ones that fail: otherwise a socket or a file would get their number, and messages with it.
void HoldStandardDescriptors();

class Output {
 public:
  explicit Output(bool json) : json_(json) {}
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  bool json() const { return json_; }
  // To standard output, at once. What goes wrong is said by Finish.
  void Print(std::string_view text);
  // To standard error, as it is; nobody could be told that this fails.
  void Note(std::string_view text);
  // One line on standard error, "imagefs: MESSAGE", whatever the message holds. With `json` also an
  // object on standard output: `object`, or with "" that of print.h's ErrorJson. Returns 1.
  int Fail(const absl::Status& status, std::string_view object = "");
  // The status to end with: `status`, or 1 with a line on standard error where standard output
  // failed. Without that line where nobody reads any longer (EPIPE).
  int Finish(int status);

 private:
  const bool json_;
  bool printed_ = false;
  int error_ = 0;  // errno of the first failure
};

// Prints it; returns its status or that of the failure to print.
int PrintExit(const CliExit& exit);

}  // namespace imagefs
