// SPDX-License-Identifier: Apache-2.0
// Shared by the calls of the control service. Included only by the service's own .cc files, because
// it includes gRPC.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cache/image_store.h"
#include "cmd/control_service.h"
#include "cmd/ticker.h"
#include "fs/mount_table.h"
#include "proto/control.grpc.pb.h"
#include "snap/podman_store.h"

namespace imagefs {

// Counts running calls, for the daemon's idle exit.
class CallCounter {
 public:
  // Returns the number of the call.
  uint64_t Begin() {
    running_.fetch_add(1);
    return begun_.fetch_add(1) + 1;
  }
  void End() {
    last_end_ns_.store(std::chrono::steady_clock::now().time_since_epoch().count());
    running_.fetch_sub(1);
  }
  int running() const { return running_.load(); }
  std::chrono::steady_clock::time_point last_end() const {
    return std::chrono::steady_clock::time_point(
        std::chrono::steady_clock::duration(last_end_ns_.load()));
  }

 private:
  std::atomic<int> running_{0};
  std::atomic<uint64_t> begun_{0};
  std::atomic<int64_t> last_end_ns_{std::chrono::steady_clock::now().time_since_epoch().count()};
};

// Converts a status; absl's codes are gRPC's. Marks it as the daemon's own answer, so that the
// client can tell "the registry is unavailable" from "the daemon is gone". The mark says the kind
// of failure (base/failure.h); clients of older versions ignore what it says.
grpc::Status AnswerOf(grpc::CallbackServerContext* context, const absl::Status& status);

absl::StatusOr<ResolveRequest> ParseImageRequest(const control::v1::ImageRequest& request);

// Returns kFailedPrecondition for an artifact, for what only an image can be used.
absl::Status CheckIsImage(const ResolvedImage& image);

void FillImage(const ResolvedImage& image, control::v1::Image* out);
// REQUIRES: `record` is mounted.
void FillMount(const MountRecord& record, control::v1::Mount* out);

void FillAdded(const ImageStore& store, const PodmanStore::Entry& entry,
               control::v1::AddedImage* out);

// Returns the absolute path `directory` with the symbolic links of its parents resolved. Does not
// access the last component, which could be one of our mounts whose server is dead. If the parents
// do not exist, returns the path under which such a mount would be listed.
absl::StatusOr<std::string> ResolveParents(const std::string& directory);

// The error of a daemon that has no podman store.
absl::Status NoPodman();

// Shared by all calls. It and everything it refers to must outlive them.
struct CallContext {
  const ControlService::Deps& deps;
  Ticker& ticker;
  CallCounter& counter;
};

// The streaming calls (cmd/transfer_call.h). Each owns itself until gRPC is done with it.
using MountEventReactor = grpc::ServerWriteReactor<control::v1::MountEvent>;
MountEventReactor* StartMount(const CallContext& context, grpc::CallbackServerContext* call,
                              const control::v1::MountRequest& request);
MountEventReactor* StartPull(const CallContext& context, grpc::CallbackServerContext* call,
                             const control::v1::PullRequest& request);
MountEventReactor* StartAdd(const CallContext& context, grpc::CallbackServerContext* call,
                            const control::v1::AddRequest& request);
MountEventReactor* StartIndex(const CallContext& context, grpc::CallbackServerContext* call,
                              const control::v1::IndexRequest& request);
MountEventReactor* StartExport(const CallContext& context, grpc::CallbackServerContext* call,
                               const control::v1::ExportRequest& request);
MountEventReactor* StartImport(const CallContext& context, grpc::CallbackServerContext* call,
                               const control::v1::ImportRequest& request);

MountEventReactor* StartFiles(const CallContext& context, grpc::CallbackServerContext* call,
                              const control::v1::FilesRequest& request);
MountEventReactor* StartDiff(const CallContext& context, grpc::CallbackServerContext* call,
                             const control::v1::DiffRequest& request);

}  // namespace imagefs
