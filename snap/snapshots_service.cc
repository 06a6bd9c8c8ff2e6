// SPDX-License-Identifier: Apache-2.0
#include "snap/snapshots_service.h"

#include <google/protobuf/util/time_util.h>
#include <grpcpp/grpcpp.h>

#include <string>
#include <utility>
#include <vector>

#include "base/text.h"
#include "base/ticket_group.h"
#include "proto/containerd/snapshots.grpc.pb.h"
#include "snap/rpc_status.h"
#include "snap/snapshotter.h"

namespace imagefs {

using namespace containerd::services::snapshots::v1;  // NOLINT: the messages of every method below

namespace {

constexpr size_t kInfosAMessage = 100;
// Limit for one label's key and value together, as in containerd.
constexpr size_t kMaxLabelBytes = 4096;

absl::Status CheckName(const std::string& name, const char* what) {
  if (name.empty()) return absl::InvalidArgumentError(StrCat("the snapshot's ", what, " is empty"));
  return absl::OkStatus();
}

absl::StatusOr<SnapshotLabels> LabelsOf(
    const google::protobuf::Map<std::string, std::string>& labels) {
  SnapshotLabels out;
  for (const auto& [key, value] : labels) {
    if (key.size() + value.size() > kMaxLabelBytes) {
      return absl::InvalidArgumentError(StrCat("label ", Printable(key, 64), " is longer than ",
                                               kMaxLabelBytes, " bytes with its value"));
    }
    out[key] = value;
  }
  return out;
}

void SetTime(int64_t ns, google::protobuf::Timestamp* out) {
  *out = google::protobuf::util::TimeUtil::NanosecondsToTimestamp(ns);
}

void FillInfo(const SnapshotInfo& info, Info* out) {
  out->set_name(info.name);
  out->set_parent(info.parent);
  out->set_kind(static_cast<Kind>(info.kind));
  SetTime(info.created_ns, out->mutable_created_at());
  SetTime(info.updated_ns, out->mutable_updated_at());
  for (const auto& [key, value] : info.labels) (*out->mutable_labels())[key] = value;
}

template <typename Response>
void FillMounts(const std::vector<SnapshotMount>& mounts, Response* response) {
  for (const SnapshotMount& mount : mounts) {
    containerd::types::Mount* out = response->add_mounts();
    out->set_type(mount.type);
    out->set_source(mount.source);
    for (const std::string& option : mount.options) out->add_options(option);
  }
}

// Replies with the result of an asynchronous call, and leaves the call if the client goes away.
class Call : public grpc::ServerUnaryReactor, public std::enable_shared_from_this<Call> {
 public:
  static std::shared_ptr<Call> Make() {
    auto call = std::make_shared<Call>();
    call->self_ = call;
    return call;
  }
  void Answer(const absl::Status& status) { Finish(ToGrpc(status)); }
  Call* Adopt(const FlightTicket& ticket) {
    group_->Add(ticket);
    return this;
  }
  void OnCancel() override { TicketGroup::TicketOf(group_).Leave(); }
  void OnDone() override { self_.reset(); }

 private:
  std::shared_ptr<Call> self_;  // until OnDone
  const std::shared_ptr<TicketGroup> group_ = std::make_shared<TicketGroup>();
};

class ListCall : public grpc::ServerWriteReactor<ListSnapshotsResponse> {
 public:
  static ListCall* Start(absl::StatusOr<std::vector<SnapshotInfo>> infos) {
    auto call = std::make_shared<ListCall>();
    call->self_ = call;
    if (infos.ok()) {
      call->infos_ = *std::move(infos);
      call->Next();
    } else {
      call->Finish(ToGrpc(infos.status()));
    }
    return call.get();
  }
  void OnWriteDone(bool ok) override {
    if (ok) return Next();
    Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the caller went away"));
  }
  void OnDone() override { self_.reset(); }

 private:
  void Next() {
    if (at_ == infos_.size()) return Finish(grpc::Status::OK);
    response_.Clear();
    for (size_t i = 0; i < kInfosAMessage && at_ < infos_.size(); ++i, ++at_) {
      FillInfo(infos_[at_], response_.add_info());
    }
    StartWrite(&response_);
  }
  std::shared_ptr<ListCall> self_;  // until OnDone
  std::vector<SnapshotInfo> infos_;
  size_t at_ = 0;
  ListSnapshotsResponse response_;
};

class SnapshotsServiceImpl : public SnapshotsService, private Snapshots::CallbackService {
 public:
  explicit SnapshotsServiceImpl(Snapshotter& snapshotter) : snapshotter_(snapshotter) {}
  grpc::Service& service() override { return *this; }

 private:
  using Context = grpc::CallbackServerContext;
  using Unary = grpc::ServerUnaryReactor;
  using Empty = google::protobuf::Empty;

  template <typename Request, typename Response>
  Unary* DoPrepare(SnapshotKind kind, const Request& request, Response* response) {
    auto call = Call::Make();
    absl::StatusOr<SnapshotLabels> labels = LabelsOf(request.labels());
    absl::Status status = CheckName(request.key(), "key");
    status.Update(labels.status());
    if (!status.ok()) {
      call->Answer(status);
      return call.get();
    }
    return call->Adopt(snapshotter_.Prepare(
        {request.key(), request.parent(), *std::move(labels), kind},
        [call, response](const absl::StatusOr<std::vector<SnapshotMount>>& mounts) {
          if (mounts.ok()) FillMounts(*mounts, response);
          call->Answer(mounts.status());
        }));
  }

  Unary* Prepare(Context*, const PrepareSnapshotRequest* request,
                 PrepareSnapshotResponse* response) override {
    return DoPrepare(SnapshotKind::kActive, *request, response);
  }
  Unary* View(Context*, const ViewSnapshotRequest* request,
              ViewSnapshotResponse* response) override {
    return DoPrepare(SnapshotKind::kView, *request, response);
  }
  Unary* Mounts(Context*, const MountsRequest* request, MountsResponse* response) override {
    auto call = Call::Make();
    return call->Adopt(snapshotter_.Mounts(
        request->key(), [call, response](const absl::StatusOr<std::vector<SnapshotMount>>& mounts) {
          if (mounts.ok()) FillMounts(*mounts, response);
          call->Answer(mounts.status());
        }));
  }
  Unary* Commit(Context*, const CommitSnapshotRequest* request, Empty*) override {
    auto call = Call::Make();
    absl::StatusOr<SnapshotLabels> labels = LabelsOf(request->labels());
    absl::Status status = CheckName(request->name(), "name");
    status.Update(labels.status());
    if (status.ok() && !request->parent().empty()) {
      status = absl::UnimplementedError("the parent of a snapshot cannot be changed (rebase)");
    }
    if (status.ok()) {
      snapshotter_.Commit(request->name(), request->key(), *std::move(labels),
                          [call](const absl::Status& done) { call->Answer(done); });
    } else {
      call->Answer(status);
    }
    return call.get();
  }
  Unary* Remove(Context*, const RemoveSnapshotRequest* request, Empty*) override {
    auto call = Call::Make();
    snapshotter_.Remove(request->key(), [call](const absl::Status& done) { call->Answer(done); });
    return call.get();
  }
  Unary* Stat(Context* context, const StatSnapshotRequest* request,
              StatSnapshotResponse* response) override {
    Unary* reactor = context->DefaultReactor();
    const absl::StatusOr<SnapshotInfo> info = snapshotter_.Stat(request->key());
    if (info.ok()) FillInfo(*info, response->mutable_info());
    reactor->Finish(ToGrpc(info.status()));
    return reactor;
  }
  Unary* Update(Context*, const UpdateSnapshotRequest* request,
                UpdateSnapshotResponse* response) override {
    auto call = Call::Make();
    absl::StatusOr<SnapshotLabels> labels = LabelsOf(request->info().labels());
    if (!labels.ok()) {
      call->Answer(labels.status());
      return call.get();
    }
    const auto& paths = request->update_mask().paths();
    snapshotter_.Update(request->info().name(), *std::move(labels), {paths.begin(), paths.end()},
                        [call, response](const absl::StatusOr<SnapshotInfo>& info) {
                          if (info.ok()) FillInfo(*info, response->mutable_info());
                          call->Answer(info.status());
                        });
    return call.get();
  }
  grpc::ServerWriteReactor<ListSnapshotsResponse>* List(
      Context*, const ListSnapshotsRequest* request) override {
    const absl::StatusOr<SnapshotFilter> filter =
        SnapshotFilter::Parse({request->filters().begin(), request->filters().end()});
    if (!filter.ok()) return ListCall::Start(filter.status());
    return ListCall::Start(snapshotter_.List(*filter));
  }
  Unary* Usage(Context*, const UsageRequest* request, UsageResponse* response) override {
    auto call = Call::Make();
    return call->Adopt(snapshotter_.Usage(
        request->key(), [call, response](const absl::StatusOr<SnapshotUsage>& usage) {
          if (usage.ok()) {
            response->set_size(usage->bytes);
            response->set_inodes(usage->inodes);
          }
          call->Answer(usage.status());
        }));
  }
  Unary* Cleanup(Context*, const CleanupRequest*, Empty*) override {
    auto call = Call::Make();
    snapshotter_.Cleanup([call](const absl::Status& done) { call->Answer(done); });
    return call.get();
  }

  Snapshotter& snapshotter_;
};

}  // namespace

std::unique_ptr<SnapshotsService> SnapshotsService::Create(Snapshotter& snapshotter) {
  return std::make_unique<SnapshotsServiceImpl>(snapshotter);
}

}  // namespace imagefs
