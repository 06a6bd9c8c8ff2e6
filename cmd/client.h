// SPDX-License-Identifier: Apache-2.0
// The client of the control service. Uses one connection; methods block until the daemon answers
// and return its status unchanged. If the daemon goes away before it answers (idle exit, or
// killed), the client reconnects, starting another daemon if it may, and repeats the call up to two
// times, unless the daemon was told to stop.
//
// If the daemon takes longer than two seconds, the user is told once. A daemon that never answers
// is eventually an error that names its pid. Not thread-safe.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "cmd/interrupt.h"
#include "cmd/options.h"
#include "cmd/rendezvous.h"

namespace imagefs {

namespace control::v1 {
class AddRequest;
class CheckReply;
class CheckRequest;
class DiskUsageReply;
class DiffRequest;
class DropRequest;
class ExportRequest;
class FilesRequest;
class ImportRequest;
class InspectReply;
class InspectRequest;
class IndexRequest;
class ListAddedReply;
class ListImagesReply;
class ListMountsReply;
class MountEvent;
class MountRequest;
class MountStatusReply;
class PinRequest;
class ProfileReply;
class ProfileRequest;
class PruneReply;
class PruneRequest;
class PullRequest;
class RemoveReply;
class RemoveRequest;
class ShutdownReply;
class StatusReply;
class UnmountReply;
class UnmountRequest;
class VersionReply;
}  // namespace control::v1

class DaemonClient {
 public:
  struct Options {
    Paths paths;
    bool start = true;  // start a daemon if none runs
    // Settings of a daemon that is started. If `same_settings`, a daemon that already runs must
    // have been started with the same ones. "" = not requested.
    std::string log_level;
    std::string ca_file;  // absolute
    std::string config;   // absolute
    bool same_settings = true;
    // Timeout of each call; 0 = only of the first one, which checks that the daemon responds.
    std::chrono::seconds patience{0};
    std::function<void(std::string_view line)> say;  // tells the user; called on any thread
  };
  // Failures are of the kinds of NoDaemonBecause. Returns kNotFound if no daemon runs and none may
  // be started, and kFailedPrecondition if the running one has another store or other settings than
  // requested. An interrupt cancels the running call.
  static absl::StatusOr<std::unique_ptr<DaemonClient>> Connect(Options options,
                                                               Interrupts& interrupts);
  ~DaemonClient();

  // Events are progress and parts of the result; the last is the result. An error cancels the call
  // and is returned.
  using OnEvent = std::function<absl::Status(const control::v1::MountEvent& event)>;
  absl::Status Mount(const control::v1::MountRequest& request, const OnEvent& on_event);
  absl::Status Pull(const control::v1::PullRequest& request, const OnEvent& on_event);
  absl::Status Index(const control::v1::IndexRequest& request, const OnEvent& on_event);
  absl::Status Add(const control::v1::AddRequest& request, const OnEvent& on_event);
  absl::Status Export(const control::v1::ExportRequest& request, const OnEvent& on_event);
  absl::Status Import(const control::v1::ImportRequest& request, const OnEvent& on_event);
  absl::Status Files(const control::v1::FilesRequest& request, const OnEvent& on_event);
  absl::Status Diff(const control::v1::DiffRequest& request, const OnEvent& on_event);
  absl::Status ListShared(const std::string& directory, control::v1::ListImagesReply* reply);
  // Sets the level if it is not "". Returns the one in force.
  absl::StatusOr<std::string> LogLevel(const std::string& level);
  absl::Status Drop(const control::v1::DropRequest& request, control::v1::RemoveReply* reply);
  absl::Status ListAdded(control::v1::ListAddedReply* reply);
  absl::Status Unmount(const control::v1::UnmountRequest& request,
                       control::v1::UnmountReply* reply);
  absl::Status ListMounts(control::v1::ListMountsReply* reply);
  absl::Status ListImages(bool all, control::v1::ListImagesReply* reply);
  absl::Status Pin(const control::v1::PinRequest& request);
  absl::Status DiskUsage(control::v1::DiskUsageReply* reply);
  absl::Status Prune(const control::v1::PruneRequest& request, control::v1::PruneReply* reply);
  absl::Status Inspect(const control::v1::InspectRequest& request,
                       control::v1::InspectReply* reply);
  absl::Status Remove(const control::v1::RemoveRequest& request, control::v1::RemoveReply* reply);
  absl::Status Evict(const control::v1::RemoveRequest& request, control::v1::RemoveReply* reply);
  absl::Status Check(const control::v1::CheckRequest& request, control::v1::CheckReply* reply);
  absl::Status Profile(const control::v1::ProfileRequest& request,
                       control::v1::ProfileReply* reply);
  // Of a mount in that namespace; 0 = the daemon's. With `picture`, also what the status page
  // shows.
  absl::Status MountStatus(const std::string& directory, uint64_t name_space, bool picture,
                           control::v1::MountStatusReply* reply);
  absl::Status GetStatus(control::v1::StatusReply* reply);
  absl::Status Shutdown(bool unmount, control::v1::ShutdownReply* reply);
  pid_t pid() const { return pid_; }              // of the daemon
  const Paths& paths() const { return daemon_; }  // as the daemon has them
  // The daemon's mount namespace (OwnMountNamespace); 0 = unknown.
  uint64_t mount_namespace() const { return mount_namespace_; }
  // The mount namespace of this process as the daemon names it: 0 = its own, or unknown.
  uint64_t NamespaceHere() const;
  // Whether the daemon has no right to mount, not even in its own mount namespace.
  bool callers_mount() const { return callers_mount_; }

 private:
  struct Rpc;  // channel and stub
  struct Outcome;
  DaemonClient(Options options, Interrupts& interrupts);
  absl::StatusOr<Fd> ConnectOrStartOne();
  bool IsDaemonListening() const;
  absl::Status Reconnect();
  absl::Status Greet(pid_t peer, bool* lost);
  absl::Status CheckSettings(const control::v1::VersionReply& daemon);
  absl::Status NoAnswer(pid_t peer) const;
  // Tells the user, once per client.
  void Say(const std::string& line);
  template <typename Attempt>
  absl::Status WithDaemon(Attempt attempt);
  template <typename Method, typename Request, typename Reply>
  absl::Status Unary(Method method, const Request& request, Reply* reply,
                     std::string_view waits_for = "");  // "" = the daemon
  template <typename Method, typename Request>
  absl::Status Stream(Method method, const Request& request, const OnEvent& on_event);

  const Options options_;
  Interrupts& interrupts_;
  std::unique_ptr<Rpc> rpc_;
  // The daemon of the run directory has another store than the one requested.
  bool other_store_ = false;
  // Of the daemon.
  pid_t pid_ = 0;
  Paths daemon_;
  std::string proxies_;
  uint64_t mount_namespace_ = 0;
  bool callers_mount_ = false;
  std::atomic<bool> said_{false};
};

}  // namespace imagefs
