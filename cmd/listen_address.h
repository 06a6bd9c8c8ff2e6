// SPDX-License-Identifier: Apache-2.0
// Where the daemon listens for HTTP: an address of this machine, or a unix socket.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/fd.h"

namespace imagefs {

struct ListenAddress {
  // Accepts "127.0.0.1:9100", "[::1]:9100", "localhost:9100", and "/path" or "unix:/path" of a unix
  // socket. No other names, and no port without an address: there is no authentication, so other
  // machines are let in only by an address that is written out.
  static absl::StatusOr<ListenAddress> Parse(std::string_view text);

  bool is_unix() const { return !path.empty(); }
  // Whether only this machine's processes can connect.
  bool local() const;
  std::string ToString() const;

  std::string path;  // of the unix socket; "" = TCP
  std::string host;  // numeric
  uint16_t port = 0;
};

// A listening socket. The file of a unix socket is removed with this object, unless another process
// has replaced it.
class ListenSocket {
 public:
  // A unix socket has mode 0600; if the group of its directory is another one than this process's,
  // and this process may give files to it, that group and mode 0660. It replaces the socket of a
  // process that is gone. Returns kAlreadyExists if another process listens at the address, and
  // kFailedPrecondition if the path is something else than a socket.
  static absl::StatusOr<std::unique_ptr<ListenSocket>> Open(const ListenAddress& address);
  ListenSocket(const ListenSocket&) = delete;
  ListenSocket& operator=(const ListenSocket&) = delete;
  ~ListenSocket();

  int fd() const { return fd_.get(); }
  // With the port that the kernel chose if it was 0.
  const ListenAddress& address() const { return address_; }

 private:
  explicit ListenSocket(ListenAddress address) : address_(std::move(address)) {}
  absl::Status OpenTcp();
  absl::Status OpenUnix();

  ListenAddress address_;
  Fd fd_;
  Fd directory_;  // of the unix socket
  std::string name_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace imagefs
