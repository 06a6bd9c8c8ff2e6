// Programs that this process starts: those that go on by themselves, and those of others that are
// run for one answer, with bounded output and a deadline. No shell. Thread-safe.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace imagefs {

struct SpawnOptions {
  std::string program;                   // a path, or a name to be found in $PATH
  std::vector<std::string> argv;         // the first is its name
  std::vector<std::string> environment;  // "NAME=value"; all that it has
  // Its descriptors, each a number below 10 and what it is a copy of, kDevNull or one of this
  // process's. Those above the highest are closed; others stay, unless they are close-on-exec.
  std::vector<std::pair<int, int>> descriptors;
  enum class Group { kOfThisProcess, kOwn, kOwnSession } group = Group::kOfThisProcess;
  std::string directory;  // "" = this process's
};
inline constexpr int kDevNull = -1;

// Starts a program with default signals, none blocked. Whoever calls it waits for its end
// (waitpid(2)), or leaves that to init. Errors as of RunProgram.
absl::StatusOr<pid_t> Spawn(const SpawnOptions& options);

// The environment of this process.
std::vector<std::string> OwnEnvironment();

struct ProgramCall {
  std::vector<std::string> argv;         // the first: a path, or a name to be found in $PATH
  std::vector<std::string> environment;  // "NAME=value", beside and before this process's own
  std::string_view input;                // on standard input; what is not read breaks no pipe
  std::chrono::seconds timeout{10};
  size_t max_output_bytes = 64 << 10;
  bool add_own_environment = true;  // false: it has no other than `environment`
  bool answers_on_errors = false;   // the answer is what it says on standard error
  int descriptor_3 = kDevNull;      // what its descriptor 3 is a copy of, unless kDevNull
};

struct ProgramResult {
  int wait_status = 0;  // as of waitpid(2)
  // Standard output or error; the other one is thrown away. Whoever asked for a secret wipes it: it
  // has not been copied or moved.
  std::string output;
  bool succeeded() const;
  // How it ended, and the first line of what it said unless that looks like a credential.
  std::string Complaint() const;
};

// Runs the program in a process group of its own, which is killed when it does not answer in time
// or says too much. Blocks. Errors say what is wrong without naming the program: kNotFound,
// kDeadlineExceeded, kResourceExhausted, or errno's. A program that ends with a status other than 0
// is no error.
absl::StatusOr<ProgramResult> RunProgram(const ProgramCall& call);

}  // namespace imagefs
