// SPDX-License-Identifier: Apache-2.0
// Starts programs: those that keep running independently, and external ones that are run for a
// single answer, with bounded output and a deadline. No shell. Thread-safe.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/cancel.h"

namespace imagefs {

struct SpawnOptions {
  std::string program;                   // a path, or a name looked up in $PATH
  std::vector<std::string> argv;         // the first is its name
  std::vector<std::string> environment;  // "NAME=value"; the whole environment
  // The child's descriptors: pairs of a number below 10 and the descriptor of this process to
  // duplicate, or kDevNull. Those above the highest number are closed; others are inherited unless
  // close-on-exec.
  std::vector<std::pair<int, int>> descriptors;
  enum class Group { kOfThisProcess, kOwn, kOwnSession } group = Group::kOfThisProcess;
  std::string directory;  // "" = this process's
};
inline constexpr int kDevNull = -1;

// Starts a program with default signal handlers and no signals blocked. The caller must wait for it
// (waitpid(2)), or leave that to init. Errors are those of RunProgram.
absl::StatusOr<pid_t> Spawn(const SpawnOptions& options);

// The environment of this process.
std::vector<std::string> OwnEnvironment();

struct ProgramCall {
  std::vector<std::string> argv;         // the first is a path, or a name looked up in $PATH
  std::vector<std::string> environment;  // "NAME=value", overriding this process's own
  std::string_view input;                // for standard input; unread input is not an error
  std::chrono::seconds timeout{10};
  size_t max_output_bytes = 64 << 10;
  bool add_own_environment = true;  // false: `environment` is the whole environment
  bool answers_on_errors = false;   // the answer is its standard error
  bool cut_output = false;          // output beyond max_output_bytes is discarded, and no error
  int descriptor_3 = kDevNull;      // duplicated to its descriptor 3, unless kDevNull
  CancelToken cancel;               // ends the program
};

struct ProgramResult {
  int wait_status = 0;  // as returned by waitpid(2)
  // Standard output or error; the other one is discarded. If this is a secret, the caller must wipe
  // it; no other copy exists.
  std::string output;
  bool succeeded() const;
  std::string HowItEnded() const;
  // The same, with the first line of its output unless that looks like a credential.
  std::string Complaint() const;
};

// Runs the program in its own process group, which is killed on timeout, cancellation or excessive
// output. Blocks. Errors (kNotFound, kDeadlineExceeded, kCancelled, kResourceExhausted, or from
// errno) do not name the program. A nonzero exit status is not an error.
absl::StatusOr<ProgramResult> RunProgram(const ProgramCall& call);

}  // namespace imagefs
