// Programs of others, run for one answer: no shell, bounded output, a deadline. Blocks.
// Thread-safe.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace imagefs {

struct ProgramCall {
  std::vector<std::string> argv;         // the first: a path, or a name to be found in $PATH
  std::vector<std::string> environment;  // "NAME=value", beside and before this process's own
  std::string_view input;                // on standard input; what is not read breaks no pipe
  std::chrono::seconds timeout{10};
  size_t max_output_bytes = 64 << 10;
};

struct ProgramResult {
  int wait_status = 0;  // as of waitpid(2)
  // Standard output; standard error is thrown away. Whoever asked for a secret wipes it: it has not
  // been copied or moved.
  std::string output;
  bool succeeded() const;
  // How it ended, and the first line of what it said unless that looks like a credential.
  std::string Complaint() const;
};

// Runs the program in a process group of its own, which is killed when it does not answer in time
// or says too much. Errors say what is wrong without naming the program: kNotFound,
// kDeadlineExceeded, kResourceExhausted, or errno's. A program that ends with a status other than 0
// is no error.
absl::StatusOr<ProgramResult> RunProgram(const ProgramCall& call);

}  // namespace imagefs
