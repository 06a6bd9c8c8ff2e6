// SPDX-License-Identifier: Apache-2.0
// Messages with a descriptor over a socket of AF_UNIX (SCM_RIGHTS). Plain C types and no
// allocation, because imagefs-holder uses nothing else.
#pragma once

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

namespace imagefs {

namespace internal {
union FdControl {
  cmsghdr header;
  char space[CMSG_SPACE(sizeof(int))];
};
}  // namespace internal

// Like send(2) without a signal for a closed socket, but retries EINTR. `fd` is sent along unless
// it is -1; it stays the caller's.
inline ssize_t SendWithFd(int socket, const void* data, size_t size, int fd) {
  iovec part = {const_cast<void*>(data), size};
  internal::FdControl control = {};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = &control;
    message.msg_controllen = sizeof(control);
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
  }
  ssize_t sent = 0;
  do {
    sent = sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent;
}

// Like recv(2) with those flags, but retries EINTR. The caller owns `*fd` in every case; -1 = none
// was received.
inline ssize_t ReceiveWithFd(int socket, void* data, size_t size, int* fd, int flags = 0) {
  *fd = -1;
  iovec part = {data, size};
  internal::FdControl control = {};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = &control;
  message.msg_controllen = sizeof(control);
  ssize_t got = 0;
  do {
    got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | flags);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return got;
  const cmsghdr* first = CMSG_FIRSTHDR(&message);
  if (first != nullptr && first->cmsg_level == SOL_SOCKET && first->cmsg_type == SCM_RIGHTS &&
      first->cmsg_len == CMSG_LEN(sizeof(int))) {
    memcpy(fd, CMSG_DATA(first), sizeof(*fd));
  }
  return got;
}

}  // namespace imagefs
