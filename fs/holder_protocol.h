// How the daemon talks to imagefs-holder, the process that keeps descriptors while no daemon runs
// (fs/session_holder.h). A SOCK_SEQPACKET socket in the run directory, one message of this form a
// request and a reply; descriptors travel beside it (SCM_RIGHTS). Plain C types: the holder is
// built of nothing else.
#pragma once

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

namespace imagefs {

struct HolderMessage {
  enum Kind : uint32_t {
    kKeep = 1,  // with a descriptor; replaces one of that name. Answered by kDone or kFull
    kDrop = 2,  // answered by kDone, also where there is none of that name
    kList = 3,  // answered by one kDescriptor for each, then kDone
    kDone = 4,
    kFull = 5,
    kDescriptor = 6,
    kLeave = 7,  // the daemon ends as it was told to, and wants no other. Answered by kDone
  };
  uint32_t kind = 0;
  char name[60] = {};  // ends in a zero
};

// The descriptors that the holder is started with: its listening socket and, where a daemon that
// was killed is to be started again, one end of a pipe with a HolderRestart.
inline constexpr int kHolderListener = 3;
inline constexpr int kHolderRestart = 4;

// The holder runs `program` when it has held something for `pause_ms` without a connection, once
// more after twice that time, and so on. Its output is that of the holder.
struct HolderRestart {
  static constexpr int kMaxArguments = 32;
  uint32_t pause_ms = 0;
  uint32_t count = 0;             // of arguments, the program's name among them
  char program[4096] = {};        // its path
  char arguments[16 << 10] = {};  // each ends in a zero
};

namespace internal {
union HolderControl {
  cmsghdr header;
  char space[CMSG_SPACE(sizeof(int))];
};
}  // namespace internal

// As sendmsg(2), over interrupts; `fd` -1: the message goes without a descriptor.
inline ssize_t SendHolderMessage(int socket, const HolderMessage& message, int fd) {
  iovec part = {const_cast<HolderMessage*>(&message), sizeof(message)};
  internal::HolderControl control = {};
  msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (fd >= 0) {
    header.msg_control = &control;
    header.msg_controllen = sizeof(control);
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
  }
  ssize_t sent = 0;
  do {
    sent = sendmsg(socket, &header, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent;
}

// As recvmsg(2). `*fd` is the caller's, whatever came; -1: there was none.
inline ssize_t ReceiveHolderMessage(int socket, HolderMessage& message, int* fd) {
  *fd = -1;
  iovec part = {&message, sizeof(message)};
  internal::HolderControl control = {};
  msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = &control;
  header.msg_controllen = sizeof(control);
  const ssize_t got = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  if (got < 0) return got;
  const cmsghdr* beside = CMSG_FIRSTHDR(&header);
  if (beside != nullptr && beside->cmsg_level == SOL_SOCKET && beside->cmsg_type == SCM_RIGHTS &&
      beside->cmsg_len == CMSG_LEN(sizeof(int))) {
    memcpy(fd, CMSG_DATA(beside), sizeof(*fd));
  }
  message.name[sizeof(message.name) - 1] = '\0';
  return got;
}

}  // namespace imagefs
