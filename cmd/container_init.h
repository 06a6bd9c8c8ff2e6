// SPDX-License-Identifier: Apache-2.0
// The first process of a container (cmd/container.h): builds the tree, starts the program, passes
// signals on to it, and waits for whatever has no parent. It ends with the program, and the kernel
// then ends all others of its PID namespace; also if the command is gone.
#pragma once

#include <limits.h>
#include <signal.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/fd.h"
#include "cmd/container_tree.h"

namespace imagefs {

// What the command and the first process tell each other, over a socket of packets.
struct ContainerMessage {
  enum Kind : uint32_t {
    kReady = 1,     // to the command: its mount namespace can take the image
    kMount = 2,     // to the container, with a channel to the daemon, text = a directory
    kStart = 3,     // to the container, with a file that has the packed RunSpec
    kStopped = 4,   // to the command: the program was stopped, by ^Z
    kContinue = 5,  // to the container, value = whether it gets the terminal
    kSignal = 6,    // to the container, value = for the program
  };
  uint32_t kind = 0;
  int32_t value = 0;
  uint64_t mount_namespace = 0;  // of kReady
  uint64_t device = 0, inode = 0;
  char text[PATH_MAX] = {};
};
absl::Status SendTo(const Fd& socket, const ContainerMessage& message, int fd = -1);
// Returns kUnavailable if the other side is gone.
absl::StatusOr<ContainerMessage> ReceiveFrom(const Fd& socket, Fd* fd);

// Own failures, as docker and podman have them.
inline constexpr int kCannotRun = 125, kCannotExecute = 126, kNoProgram = 127;

struct ContainerStart {
  ContainerTree::Options tree;
  Fd control;        // to the command
  Fd mapped;         // has kAllIds or kOwnId once ids are mapped; invalid without user namespace
  sigset_t signals;  // blocked in the command before it changed them
};
inline constexpr char kAllIds = 'a', kOwnId = 'o';

// Runs as the first process of new namespaces. Prints its own errors. Executes this program again,
// from a read-only mount: the image's program may be a link to /proc/self/exe, which then leads to
// this program's file, and the libraries of the image could write to it.
[[noreturn]] void RunContainerInit(ContainerStart start);
// The rest of it. For the main function: does not return if these are the arguments of that call.
void ContinueContainerInit(int argc, char** argv);

}  // namespace imagefs
