// SPDX-License-Identifier: Apache-2.0
// What the calls of the control service share. Included by the service's own .cc files only: it
// brings in gRPC.
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

// Counts the calls that run, for the daemon's idle exit.
class CallCounter {
 public:
  void Begin() { running_.fetch_add(1); }
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
  std::atomic<int64_t> last_end_ns_{std::chrono::steady_clock::now().time_since_epoch().count()};
};

// One for one: absl's codes are gRPC's. Marks the status as the daemon's own answer, so that the
// client can tell "the registry is unavailable" from "the daemon has gone".
grpc::Status AnswerOf(grpc::CallbackServerContext* context, const absl::Status& status);

absl::StatusOr<ResolveRequest> ParseImageRequest(const control::v1::ImageRequest& request);

void FillImage(const ResolvedImage& image, control::v1::Image* out);
// Of one that is mounted.
void FillMount(const MountRecord& record, control::v1::Mount* out);

void FillAdded(const ImageStore& store, const PodmanStore::Entry& entry,
               control::v1::AddedImage* out);

// The absolute path `directory` with the symbolic links of its parents resolved. Its last component
// is not looked at: that could be a mount of ours whose server is gone. Where they are not there it
// is what a mount that cannot be there either is listed by.
absl::StatusOr<std::string> ResolveParents(const std::string& directory);

// Of a daemon that has no store for podman.
absl::Status NoPodman();

// What all calls share; it and what it names outlive them.
struct CallContext {
  const ControlService::Deps& deps;
  const ControlService::AutoPublish& publish;
  Ticker& ticker;
  CallCounter& counter;
};

// The calls that stream (cmd/transfer_call.h). Each owns itself until gRPC is done with it.
using MountEventReactor = grpc::ServerWriteReactor<control::v1::MountEvent>;
MountEventReactor* StartMount(const CallContext& context, grpc::CallbackServerContext* call,
                              const control::v1::MountRequest& request);
MountEventReactor* StartPull(const CallContext& context, grpc::CallbackServerContext* call,
                             const control::v1::PullRequest& request);
MountEventReactor* StartAdd(const CallContext& context, grpc::CallbackServerContext* call,
                            const control::v1::AddRequest& request);
MountEventReactor* StartIndex(const CallContext& context, grpc::CallbackServerContext* call,
                              const control::v1::IndexRequest& request);

}  // namespace imagefs
