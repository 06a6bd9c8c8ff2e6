// SPDX-License-Identifier: Apache-2.0
// The connection between a command that makes a mount itself and the daemon that serves it. The
// command does so if it is in another mount namespace than the daemon, or if the directory is an
// automount point, which lets nobody else pass: the daemon hands over the detached mount, or gets
// the device of a FUSE mount from a command without privileges.
//
// The command connects to mount.sock, in the store or in <run>, and gets an id, which it puts into
// its Mount request.
// Then each side sends messages of one fixed size, with at most one descriptor.
#pragma once

#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/directory.h"
#include "base/fd.h"
#include "cmd/options.h"
#include "fs/mount_syscalls.h"

namespace imagefs {

struct ChannelMessage;
class MountCaller;

inline constexpr char kMountSocket[] = "mount";

// The daemon's side. Thread-safe.
class MountChannels {
 public:
  // Takes a new connection, which was accepted from a peer of this user or root. Closes those whose
  // command has gone.
  void Accept(Fd connection) ABSL_LOCKS_EXCLUDED(mu_);
  // Returns the caller behind a channel, once.
  absl::StatusOr<std::shared_ptr<MountCaller>> Take(const std::string& id) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  absl::Mutex mu_;
  std::map<std::string, Fd> waiting_ ABSL_GUARDED_BY(mu_);  // by id
};

// The command's side of a new channel.
struct MountConnection {
  Fd socket;
  std::string id;
};
absl::StatusOr<MountConnection> ConnectForMount(const Paths& daemon);
// Does what the daemon asks for on the socket of a connection until it closes it: attaches its
// mount, or a FUSE mount made here, to `place`. For a process with CAP_SYS_ADMIN in the user
// namespace of its mount namespace, which ends with it. What fails, the daemon is told.
void ServeMount(const Fd& socket, const Fd& place, const std::string& shown);

// The command's side, for one mount that stays. Not thread-safe.
class MountForDaemon {
 public:
  struct Options {
    Paths paths;               // the daemon's
    std::string directory;     // absolute
    std::string name_space;    // the file of a mount namespace to mount in, or a pid; "" = this one
    bool allow_other = false;  // as in MountOptions
  };
  // Checks the directory and keeps it open: what is mounted later covers what was found now,
  // whatever its path leads to by then. Returns kNotFound, kFailedPrecondition or kInvalidArgument,
  // as MountTable::Check.
  static absl::StatusOr<std::unique_ptr<MountForDaemon>> Open(Options options);
  // Lazily unmounts what was mounted, unless Keep was called.
  ~MountForDaemon();

  const std::string& channel() const { return channel_; }
  const std::string& directory() const { return directory_; }  // without symbolic links
  uint64_t name_space() const { return name_space_; }          // OwnMountNamespace in it
  const FileId& covered() const { return covered_; }
  // Call when the daemon has answered that the image is mounted.
  void Keep() { keep_ = true; }

 private:
  MountForDaemon() = default;
  absl::Status Prepare(const Options& options);
  void Serve();
  absl::Status Handle(const ChannelMessage& ask, const Fd& given, ChannelMessage& answer,
                      Fd& device);
  // Returns the device, and sets the number of the file system in the answer.
  absl::StatusOr<Fd> MakeFuse(const ChannelMessage& ask, ChannelMessage& answer);
  absl::Status MakeOverlay(const ChannelMessage& ask);
  void Unmount();

  std::string channel_, directory_;
  uint64_t name_space_ = 0;
  FileId covered_;
  Fd socket_;
  Fd place_;                    // the directory
  MountKey mounted_;            // what this process has mounted there; id 0 = nothing
  bool by_fusermount_ = false;  // what fusermount3 has
  Fd fuse_;                     // the mount of MakeFuse, unless fusermount3 made it
  std::string source_;          // of it
  bool noexec_ = false;
  bool keep_ = false;
  std::promise<bool> decision_;  // whether to keep
  std::thread thread_;           // is in the namespace, and alone uses socket_ and what follows it
};

}  // namespace imagefs
