// SPDX-License-Identifier: Apache-2.0
#include "cmd/snapshots_server.h"

#include <grpcpp/grpcpp.h>

#include <chrono>

#include "base/status.h"
#include "base/text.h"
#include "snap/containerd_client.h"
#include "snap/content_keeper.h"
#include "snap/snapshots_service.h"
#include "snap/snapshotter.h"

namespace imagefs {
namespace {

constexpr int64_t kShutdownGraceSeconds = 2;
constexpr size_t kRpcMemoryBytes = 16 << 20;
// Same as containerd's own: for labels of many layers, or a long List.
constexpr int kMaxMessageBytes = 16 << 20;

class SnapshotsServerImpl : public SnapshotsServer {
 public:
  ~SnapshotsServerImpl() override { Shutdown(/*hide=*/false); }

  absl::Status Init(Options options, ImageStore& store, ImageUses& uses) {
    IMAGEFS_ASSIGN_OR_RETURN(
        snapshotter_,
        Snapshotter::Open(
            {.directory = StrCat(options.root, "/snapshots"),
             .mapped_directory = StrCat(options.run, "/mapped"),
             .bind = [](const std::string& source, const std::string& directory,
                        const MountFlags& flags) { return BindMount(source, directory, flags); },
             .only_verified = options.only_verified},
            Snapshotter::Deps{store, uses, std::move(options.trust_of), [this] {
                                if (keeper_ != nullptr) keeper_->LookSoon();
                              }}));
    if (KeptBlobs* const blobs = store.kept_blobs(); blobs != nullptr) {
      keeper_ = std::make_unique<ContentKeeper>(
          ContentKeeper::Options(),
          ContentKeeper::Deps{*blobs, [&store] { return store.ListHeld(Snapshotter::kHolder); },
                              [&store](const LayerKey& layer) { return store.StateOf(layer); },
                              std::move(options.open),
                              [address = std::move(options.containerd)](CancelToken cancel) {
                                return ContainerdContent(address, std::move(cancel));
                              }});
    }
    service_ = SnapshotsService::Create(*snapshotter_);
    grpc::ServerBuilder builder;
    grpc::ResourceQuota quota("snapshots");
    quota.Resize(kRpcMemoryBytes);
    builder.SetResourceQuota(quota);
    builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
    builder.SetMaxSendMessageSize(kMaxMessageBytes);
    builder.RegisterService(&service_->service());
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) {
      return absl::InternalError("the snapshots service could not be started");
    }
    return absl::OkStatus();
  }

  grpc::Server* server() override { return server_.get(); }

  void Shutdown(bool hide) override {
    if (server_ == nullptr) return;
    server_->Shutdown(gpr_time_from_seconds(kShutdownGraceSeconds, GPR_TIMESPAN));
    server_->Wait();
    server_.reset();
    if (hide) snapshotter_->ReleaseAll();
  }

  bool empty() const override { return snapshotter_->empty(); }
  std::vector<Snapshotter::ImageUse> ImagesInUse() const override {
    return snapshotter_->ImagesInUse();
  }
  std::vector<std::pair<std::string, uint64_t>> Counters() const override {
    std::vector<std::pair<std::string, uint64_t>> counters = snapshotter_->Counters();
    if (keeper_ != nullptr) {
      for (auto& counter : keeper_->Counters()) counters.push_back(std::move(counter));
    }
    return counters;
  }

 private:
  std::unique_ptr<ContentKeeper> keeper_;  // null: not configured. Before its callers
  std::unique_ptr<Snapshotter> snapshotter_;
  std::unique_ptr<SnapshotsService> service_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SnapshotsServer>> SnapshotsServer::Open(Options options,
                                                                       ImageStore& store,
                                                                       ImageUses& uses) {
  auto server = std::make_unique<SnapshotsServerImpl>();
  IMAGEFS_RETURN_IF_ERROR(server->Init(std::move(options), store, uses));
  return server;
}

}  // namespace imagefs
