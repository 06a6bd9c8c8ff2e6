// SPDX-License-Identifier: Apache-2.0
#include "cmd/listen_address.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "fetch/ip_address.h"

namespace imagefs {
namespace {

constexpr int kBacklog = 32;
constexpr size_t kMaxNameBytes = 80;  // of a socket's file, so that its address fits

constexpr char kForms[] =
    "is an address like \"127.0.0.1:9100\" or \"[::1]:9100\", or the absolute path of a socket";

absl::StatusOr<Fd> NewSocket(int family) {
  Fd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "a socket");
  return fd;
}

// Through the descriptor of the directory, since the path may be too long for an address.
sockaddr_un AddressIn(const Fd& directory, const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = StrCat("/proc/self/fd/", directory.get(), "/", name);
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  return address;
}

absl::Status Taken(const ListenAddress& address) {
  return absl::AlreadyExistsError(StrCat("another process listens on ", address.ToString(),
                                         "; end it, or set another address"));
}

// Removes what a process that is gone left there.
absl::Status RemoveStale(const ListenAddress& address, const Fd& directory,
                         const std::string& name) {
  struct stat st;
  if (fstatat(directory.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
    return errno == ENOENT ? absl::OkStatus() : ErrnoStatus(errno, address.path);
  }
  if (!S_ISSOCK(st.st_mode)) {
    return absl::FailedPreconditionError(
        StrCat(address.path, " exists and is no socket; remove it, or set another path"));
  }
  IMAGEFS_ASSIGN_OR_RETURN(const Fd probe, NewSocket(AF_UNIX));
  const sockaddr_un at = AddressIn(directory, name);
  const int connected =
      connect(probe.get(), reinterpret_cast<const sockaddr*>(&at), sizeof(at)) == 0 ? 0 : errno;
  // EAGAIN: its queue is full.
  if (connected == 0 || connected == EAGAIN) return Taken(address);
  if (connected != ECONNREFUSED) return ErrnoStatus(connected, address.path);
  if (unlinkat(directory.get(), name.c_str(), 0) != 0 && errno != ENOENT) {
    return ErrnoStatus(errno, StrCat("removing the old socket ", address.path));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ListenAddress> ListenAddress::Parse(std::string_view text) {
  ListenAddress out;
  const std::string_view path = text.starts_with("unix:") ? text.substr(5) : text;
  if (path.starts_with('/')) {
    const size_t name = path.size() - path.rfind('/') - 1;
    if (name == 0 || name > kMaxNameBytes || path.find('\0') != std::string_view::npos) {
      return absl::InvalidArgumentError(
          StrCat("names a socket whose file name has not 1 to ", kMaxNameBytes, " bytes"));
    }
    out.path = path;
    return out;
  }
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return absl::InvalidArgumentError(kForms);
  std::string_view host = text.substr(0, colon);
  if (host == "localhost") host = "127.0.0.1";
  const bool bracketed = host.starts_with('[') && host.ends_with(']');
  const std::optional<IpAddress> address = IpAddress::Parse(host);
  const std::optional<uint64_t> port = ParseDecimal(text.substr(colon + 1));
  if (!address || !port || *port > 65535 ||
      bracketed != (host.find(':') != std::string_view::npos)) {
    return absl::InvalidArgumentError(kForms);
  }
  out.host = bracketed ? host.substr(1, host.size() - 2) : host;
  out.port = static_cast<uint16_t>(*port);
  return out;
}

bool ListenAddress::local() const {
  if (is_unix()) return true;
  // The unspecified addresses count as loopback elsewhere, because connecting to them is.
  if (host == "0.0.0.0" || host.find_first_not_of(":0") == std::string::npos) return false;
  const std::optional<IpAddress> address = IpAddress::Parse(host);
  return address.has_value() && address->Class() == AddressClass::kLoopback;
}

std::string ListenAddress::ToString() const {
  if (is_unix()) return path;
  const bool v6 = host.find(':') != std::string::npos;
  return StrCat(v6 ? "[" : "", host, v6 ? "]:" : ":", port);
}

absl::StatusOr<std::unique_ptr<ListenSocket>> ListenSocket::Open(const ListenAddress& address) {
  std::unique_ptr<ListenSocket> out(new ListenSocket(address));
  IMAGEFS_RETURN_IF_ERROR(address.is_unix() ? out->OpenUnix() : out->OpenTcp());
  return out;
}

absl::Status ListenSocket::OpenTcp() {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int failed =
      getaddrinfo(address_.host.c_str(), StrCat(address_.port).c_str(), &hints, &found);
  if (failed != 0) {
    return absl::InvalidArgumentError(StrCat(address_.ToString(), ": ", gai_strerror(failed)));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> at(found, &freeaddrinfo);
  IMAGEFS_ASSIGN_OR_RETURN(fd_, NewSocket(at->ai_family));
  const int yes = 1;
  // After a restart, connections of the previous daemon may linger.
  (void)setsockopt(fd_.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  if (bind(fd_.get(), at->ai_addr, at->ai_addrlen) != 0 || listen(fd_.get(), kBacklog) != 0) {
    if (errno == EADDRINUSE) return Taken(address_);
    return ErrnoStatus(errno, StrCat("listening on ", address_.ToString()));
  }
  sockaddr_storage bound{};
  socklen_t length = sizeof(bound);
  if (getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&bound), &length) != 0) {
    return ErrnoStatus(errno, address_.ToString());
  }
  address_.port =
      ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(bound).sin6_port
                                        : reinterpret_cast<const sockaddr_in&>(bound).sin_port);
  return absl::OkStatus();
}

absl::Status ListenSocket::OpenUnix() {
  name_ = address_.path.substr(address_.path.rfind('/') + 1);
  const std::string above = ParentOf(address_.path);
  IMAGEFS_ASSIGN_OR_RETURN(directory_, OpenFile(above, O_PATH | O_DIRECTORY));
  IMAGEFS_RETURN_IF_ERROR(RemoveStale(address_, directory_, name_));
  struct stat st;
  if (fstat(directory_.get(), &st) != 0) return ErrnoStatus(errno, above);
  IMAGEFS_ASSIGN_OR_RETURN(fd_, NewSocket(AF_UNIX));
  const sockaddr_un at = AddressIn(directory_, name_);
  if (bind(fd_.get(), reinterpret_cast<const sockaddr*>(&at), sizeof(at)) != 0) {
    if (errno == EADDRINUSE) return Taken(address_);
    return ErrnoStatus(errno, StrCat("binding ", address_.path));
  }
  // No client can connect before listen(), so owner and mode are set before they matter. A process
  // that may not give the file to that group keeps it for itself.
  const char* const name = name_.c_str();
  const bool shared =
      st.st_gid != getegid() &&
      fchownat(directory_.get(), name, static_cast<uid_t>(-1), st.st_gid, AT_SYMLINK_NOFOLLOW) == 0;
  struct stat made;
  if (fchmodat(directory_.get(), name, shared ? 0660 : 0600, 0) != 0 ||
      fstatat(directory_.get(), name, &made, AT_SYMLINK_NOFOLLOW) != 0 ||
      listen(fd_.get(), kBacklog) != 0) {
    const absl::Status status = ErrnoStatus(errno, address_.path);
    unlinkat(directory_.get(), name, 0);
    return status;
  }
  device_ = made.st_dev;
  inode_ = made.st_ino;
  return absl::OkStatus();
}

ListenSocket::~ListenSocket() {
  if (inode_ == 0) return;
  struct stat st;
  if (fstatat(directory_.get(), name_.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 &&
      st.st_dev == device_ && st.st_ino == inode_) {
    unlinkat(directory_.get(), name_.c_str(), 0);
  }
}

}  // namespace imagefs
