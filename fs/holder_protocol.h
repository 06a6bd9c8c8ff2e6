// SPDX-License-Identifier: Apache-2.0
// The protocol between the daemon and imagefs-holder, the process that keeps descriptors while no
// daemon runs (fs/session_holder.h). It uses a SOCK_SEQPACKET socket in the run directory; each
// request and each reply is one message of this form, with descriptors attached (SCM_RIGHTS). Plain
// C types, because the holder is built from nothing else.
#pragma once

#include <stdint.h>

#include "base/pass_fd.h"

namespace imagefs {

struct HolderMessage {
  enum Kind : uint32_t {
    kKeep = 1,  // with a descriptor; replaces one of the same name. Answered by kDone or kFull
    kDrop = 2,  // answered by kDone, even if the name is unknown
    kList = 3,  // answered by one kDescriptor for each, then kDone
    kDone = 4,
    kFull = 5,
    kDescriptor = 6,
    kLeave = 7,  // the daemon is shutting down and must not be restarted. Answered by kDone
  };
  uint32_t kind = 0;
  char name[60] = {};  // zero-terminated
};

// The descriptors that the holder inherits: its listening socket and, if a killed daemon is to be
// restarted, one end of a pipe that delivers a HolderRestart.
inline constexpr int kHolderListener = 3;
inline constexpr int kHolderRestart = 4;

// The holder runs `program` after it has held something for `pause_ms` without a connection, again
// after twice that time, and so on. The program inherits the holder's output.
struct HolderRestart {
  static constexpr int kMaxArguments = 32;
  uint32_t pause_ms = 0;
  uint32_t count = 0;             // number of arguments, including the program's name
  char program[4096] = {};        // its path
  char arguments[16 << 10] = {};  // each zero-terminated
};

// As SendWithFd and ReceiveWithFd.
inline ssize_t SendHolderMessage(int socket, const HolderMessage& message, int fd) {
  return SendWithFd(socket, &message, sizeof(message), fd);
}
inline ssize_t ReceiveHolderMessage(int socket, HolderMessage& message, int* fd) {
  const ssize_t got = ReceiveWithFd(socket, &message, sizeof(message), fd);
  message.name[sizeof(message.name) - 1] = '\0';
  return got;
}

}  // namespace imagefs
