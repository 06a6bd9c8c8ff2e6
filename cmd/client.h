// The command's side of the control service. One connection; methods block until the daemon answers
// and return its status one for one. A daemon that went away before it answered (it ended because
// it was idle, or was killed) is started again once and asked again. Not thread-safe.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cmd/interrupt.h"
#include "cmd/options.h"
#include "cmd/rendezvous.h"

namespace imagefs {

namespace control::v1 {
class AddRequest;
class DropRequest;
class InspectReply;
class InspectRequest;
class IndexRequest;
class ListAddedReply;
class ListImagesReply;
class ListMountsReply;
class MountEvent;
class MountRequest;
class MountStatusReply;
class ProfileReply;
class ProfileRequest;
class PullRequest;
class RemoveReply;
class RemoveRequest;
class StatusReply;
class UnmountReply;
class UnmountRequest;
}  // namespace control::v1

class DaemonClient {
 public:
  struct Options {
    Paths paths;
    bool start = true;      // a daemon where none runs
    std::string log_level;  // of a daemon that is started
    std::string ca_file;    // the same
    std::string config;     // the same
  };
  // kNotFound when none runs and none may be started. An interrupt cancels the call under way.
  static absl::StatusOr<std::unique_ptr<DaemonClient>> Connect(Options options,
                                                               Interrupts& interrupts);
  ~DaemonClient();

  // Every event before the last is progress; the last is the result.
  using OnEvent = std::function<void(const control::v1::MountEvent& event)>;
  absl::Status Mount(const control::v1::MountRequest& request, const OnEvent& on_event);
  absl::Status Pull(const control::v1::PullRequest& request, const OnEvent& on_event);
  absl::Status Index(const control::v1::IndexRequest& request, const OnEvent& on_event);
  absl::Status Add(const control::v1::AddRequest& request, const OnEvent& on_event);
  absl::Status Drop(const control::v1::DropRequest& request, control::v1::RemoveReply* reply);
  absl::Status ListAdded(control::v1::ListAddedReply* reply);
  absl::Status Unmount(const control::v1::UnmountRequest& request,
                       control::v1::UnmountReply* reply);
  absl::Status ListMounts(control::v1::ListMountsReply* reply);
  absl::Status ListImages(control::v1::ListImagesReply* reply);
  absl::Status Inspect(const control::v1::InspectRequest& request,
                       control::v1::InspectReply* reply);
  absl::Status Remove(const control::v1::RemoveRequest& request, control::v1::RemoveReply* reply);
  absl::Status Evict(const control::v1::RemoveRequest& request, control::v1::RemoveReply* reply);
  absl::Status Profile(const control::v1::ProfileRequest& request,
                       control::v1::ProfileReply* reply);
  absl::Status MountStatus(const std::string& directory, control::v1::MountStatusReply* reply);
  absl::Status GetStatus(control::v1::StatusReply* reply);
  // The process that ends now.
  absl::StatusOr<pid_t> Shutdown(bool unmount);

 private:
  struct Rpc;  // channel and stub
  DaemonClient(Options options, Interrupts& interrupts);
  absl::Status Reconnect();
  template <typename Attempt>
  absl::Status WithDaemon(Attempt attempt);
  template <typename Method, typename Request, typename Reply>
  absl::Status Unary(Method method, const Request& request, Reply* reply);
  template <typename Method, typename Request>
  absl::Status Stream(Method method, const Request& request, const OnEvent& on_event);

  const Options options_;
  Interrupts& interrupts_;
  std::unique_ptr<Rpc> rpc_;
};

}  // namespace imagefs
