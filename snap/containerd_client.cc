// SPDX-License-Identifier: Apache-2.0
#include "snap/containerd_client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/failure.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"
#include "proto/containerd/content.grpc.pb.h"
#include "proto/containerd/images.grpc.pb.h"
#include "proto/containerd/leases.grpc.pb.h"
#include "proto/containerd/namespaces.grpc.pb.h"
#include "proto/containerd/snapshots.grpc.pb.h"
#include "snap/rpc_status.h"
#include "snap/snapshot.h"

namespace imagefs {
namespace {

namespace content = containerd::services::content::v1;
namespace images = containerd::services::images::v1;
namespace leases = containerd::services::leases::v1;
namespace namespaces = containerd::services::namespaces::v1;
namespace snapshots = containerd::services::snapshots::v1;

// containerd accepts messages of up to 16 MiB.
constexpr size_t kChunkBytes = 1 << 20;
// How long a lease lives if its owner is killed.
constexpr absl::Duration kLeaseLife = absl::Hours(1);
constexpr int64_t kConnectTimeoutSeconds = 10;
constexpr int64_t kGiveBackTimeoutSeconds = 5;
constexpr int64_t kListTimeoutSeconds = 60;
// A garbage collection between the answer and the check may remove the layer.
constexpr int kPrepareAttempts = 3;

class ContainerdClientImpl : public ContainerdClient {
 public:
  ContainerdClientImpl(Options options, CancelToken cancel)
      : options_(std::move(options)), cancel_(std::move(cancel)) {
    grpc::ChannelArguments arguments;
    // gRPC would derive one from the socket's path, which Go's servers reject.
    arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");
    channel_ = grpc::CreateCustomChannel(StrCat("unix://", options_.address),
                                         grpc::InsecureChannelCredentials(), arguments);
    content_ = content::Content::NewStub(channel_);
    images_ = images::Images::NewStub(channel_);
    leases_ = leases::Leases::NewStub(channel_);
    namespaces_ = namespaces::Namespaces::NewStub(channel_);
    snapshots_ = snapshots::Snapshots::NewStub(channel_);
  }

  ~ContainerdClientImpl() override {
    if (lease_.empty()) return;
    // Not cancelled by an interrupt. If containerd does not answer, the lease expires.
    grpc::ClientContext context;
    context.AddMetadata("containerd-namespace", options_.name_space);
    context.set_deadline(gpr_time_from_seconds(kGiveBackTimeoutSeconds, GPR_TIMESPAN));
    leases::DeleteRequest request;
    request.set_id(lease_);
    google::protobuf::Empty reply;
    (void)leases_->Delete(&context, request, &reply);
  }

  absl::Status TakeLease() {
    leases::CreateRequest request;
    request.set_id(StrCat(options_.purpose, "-", unique_));
    (*request.mutable_labels())["containerd.io/gc.expire"] =
        absl::FormatTime(absl::RFC3339_sec, absl::Now() + kLeaseLife, absl::UTCTimeZone());
    leases::CreateResponse reply;
    const absl::Status status = Call([&](grpc::ClientContext& context) {
      context.set_deadline(gpr_time_from_seconds(kConnectTimeoutSeconds, GPR_TIMESPAN));
      return leases_->Create(&context, request, &reply);
    });
    if (absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) {
      return WithKind(absl::UnavailableError(StrCat("no containerd answers at ", options_.address,
                                                    ": ", ToStd(status.message()))),
                      FailureKind::kNoDaemon);
    }
    IMAGEFS_RETURN_IF_ERROR(Annotate(status, StrCat("containerd at ", options_.address)));
    lease_ = reply.lease().id();
    return absl::OkStatus();
  }

  absl::Status PutContent(const Digest& digest, std::string_view bytes,
                          const Labels& labels) override {
    const auto read = [&](absl::Span<char> buffer, uint64_t offset) -> absl::StatusOr<size_t> {
      return bytes.copy(buffer.data(), buffer.size(), offset);
    };
    absl::Status status = PutBlob({digest, bytes.size(), labels}, read);
    if (absl::IsAlreadyExists(status)) {
      content::UpdateRequest request;
      request.mutable_info()->set_digest(digest.ToString());
      for (const auto& [name, value] : labels) {
        (*request.mutable_info()->mutable_labels())[name] = value;
        request.mutable_update_mask()->add_paths("labels." + name);
      }
      content::UpdateResponse reply;
      status = Call([&](grpc::ClientContext& context) {
        return content_->Update(&context, request, &reply);
      });
    }
    return Annotate(status, StrCat("storing ", digest.Short(), " in containerd"));
  }

  using Read = absl::FunctionRef<absl::StatusOr<size_t>(absl::Span<char> buffer, uint64_t offset)>;
  // kAlreadyExists if the namespace has it.
  absl::Status PutBlob(const ContentStore::Blob& blob, Read read) {
    absl::Status local;
    absl::Status status =
        Call([&](grpc::ClientContext& context) { return Write(context, blob, read, local); });
    return local.ok() ? status : local;
  }

  absl::StatusOr<std::vector<std::string>> Namespaces() {
    namespaces::ListNamespacesResponse reply;
    IMAGEFS_RETURN_IF_ERROR(Call([&](grpc::ClientContext& context) {
      context.set_deadline(gpr_time_from_seconds(kConnectTimeoutSeconds, GPR_TIMESPAN));
      return namespaces_->List(&context, namespaces::ListNamespacesRequest(), &reply);
    }));
    std::vector<std::string> out;
    for (const auto& one : reply.namespaces()) out.push_back(one.name());
    return out;
  }

  absl::StatusOr<absl::flat_hash_map<Digest, Labels>> ListContent() {
    absl::flat_hash_map<Digest, Labels> out;
    IMAGEFS_RETURN_IF_ERROR(Call([&](grpc::ClientContext& context) {
      context.set_deadline(gpr_time_from_seconds(kListTimeoutSeconds, GPR_TIMESPAN));
      const auto stream = content_->List(&context, content::ListContentRequest());
      content::ListContentResponse reply;
      while (stream->Read(&reply)) {
        for (const content::Info& info : reply.info()) {
          const absl::StatusOr<Digest> digest = Digest::Parse(info.digest());
          // Of another algorithm: no blob of ours.
          if (digest.ok()) out.try_emplace(*digest, info.labels().begin(), info.labels().end());
        }
      }
      return stream->Finish();
    }));
    return out;
  }

  absl::StatusOr<bool> PrepareLayer(const std::string& chain_id, const std::string& parent,
                                    const Labels& labels) override {
    for (int attempt = 1;; ++attempt) {
      snapshots::PrepareSnapshotRequest request;
      request.set_snapshotter(options_.snapshotter);
      request.set_key(StrCat("extract-imagefs-", unique_, "-", attempt, " ", chain_id));
      request.set_parent(parent);
      request.mutable_labels()->insert(labels.begin(), labels.end());
      (*request.mutable_labels())[kRefLabel] = chain_id;
      snapshots::PrepareSnapshotResponse reply;
      absl::Status status = Call([&](grpc::ClientContext& context) {
        return snapshots_->Prepare(&context, request, &reply);
      });
      if (status.ok()) {
        IMAGEFS_RETURN_IF_ERROR(Remove(request.key()));
        return false;
      }
      if (!absl::IsAlreadyExists(status)) return PrepareError(status);
      status = Stat(chain_id);
      if (status.ok()) return true;
      if (!absl::IsNotFound(status) || attempt == kPrepareAttempts) return PrepareError(status);
    }
  }

  absl::Status PutImage(const std::string& name, const std::string& media_type,
                        const Digest& digest, uint64_t size) override {
    images::Image image;
    image.set_name(name);
    image.mutable_target()->set_media_type(media_type);
    image.mutable_target()->set_digest(digest.ToString());
    image.mutable_target()->set_size(static_cast<int64_t>(size));
    images::CreateImageRequest create;
    *create.mutable_image() = image;
    images::CreateImageResponse created;
    absl::Status status = Call(
        [&](grpc::ClientContext& context) { return images_->Create(&context, create, &created); });
    if (absl::IsAlreadyExists(status)) {
      images::UpdateImageRequest update;
      *update.mutable_image() = image;
      update.mutable_update_mask()->add_paths("target");
      images::UpdateImageResponse updated;
      status = Call([&](grpc::ClientContext& context) {
        return images_->Update(&context, update, &updated);
      });
    }
    return Annotate(status, StrCat("containerd's record of ", name));
  }

 private:
  // Makes one cancellable call.
  template <typename Method>
  absl::Status Call(Method method) {
    grpc::ClientContext context;
    if (!options_.name_space.empty()) {
      context.AddMetadata("containerd-namespace", options_.name_space);
    }
    if (!lease_.empty()) context.AddMetadata("containerd-lease", lease_);
    // Shared, because the cancel callback may still run after the registration and `context` are
    // gone.
    const auto state = std::make_shared<Running>(&context);
    const CancelToken::Registration registration = cancel_.OnCancel([state] {
      absl::MutexLock lock(&state->mu);
      if (state->context != nullptr) state->context->TryCancel();
    });
    absl::Status status = FromGrpc(method(context));
    absl::MutexLock lock(&state->mu);
    state->context = nullptr;
    return status;
  }
  struct Running {
    explicit Running(grpc::ClientContext* running) : context(running) {}
    absl::Mutex mu;
    grpc::ClientContext* context ABSL_GUARDED_BY(mu);
  };

  // `local` is the error of `read`, which ends the call.
  grpc::Status Write(grpc::ClientContext& context, const ContentStore::Blob& blob, Read read,
                     absl::Status& local) {
    const auto stream = content_->Write(&context);
    content::WriteContentRequest request;
    content::WriteContentResponse reply;
    request.set_ref(StrCat(options_.purpose, "-", unique_, "-", blob.digest.hex()));
    request.set_total(static_cast<int64_t>(blob.size));
    request.set_expected(blob.digest.ToString());
    request.set_action(content::STAT);
    bool going = stream->Write(request) && stream->Read(&reply);
    // All of it, if another namespace has the blob and containerd shares content.
    uint64_t at = going ? static_cast<uint64_t>(reply.offset()) : 0;
    std::string buffer;
    while (going && at < blob.size) {
      buffer.resize(std::min<uint64_t>(kChunkBytes, blob.size - at));
      absl::StatusOr<size_t> got = read(absl::MakeSpan(buffer), at);
      if (got.ok() && *got == 0) got = absl::DataLossError("the blob's file ends early");
      if (!got.ok()) {
        local = got.status();
        context.TryCancel();
        break;
      }
      request.set_action(content::WRITE);
      request.set_offset(static_cast<int64_t>(at));
      request.set_data(buffer.substr(0, *got));
      at += *got;
      going = stream->Write(request) && stream->Read(&reply);
    }
    if (going && local.ok()) {
      request.set_action(content::COMMIT);
      request.set_offset(static_cast<int64_t>(blob.size));
      request.clear_data();
      request.mutable_labels()->insert(blob.labels.begin(), blob.labels.end());
      (void)stream->Write(request);
    }
    stream->WritesDone();
    // The number of replies varies. An error is only reported by Finish, after all replies have
    // been read.
    while (stream->Read(&reply)) {
    }
    return stream->Finish();
  }

  absl::Status Stat(const std::string& key) {
    snapshots::StatSnapshotRequest request;
    request.set_snapshotter(options_.snapshotter);
    request.set_key(key);
    snapshots::StatSnapshotResponse reply;
    return Call(
        [&](grpc::ClientContext& context) { return snapshots_->Stat(&context, request, &reply); });
  }

  absl::Status Remove(const std::string& key) {
    snapshots::RemoveSnapshotRequest request;
    request.set_snapshotter(options_.snapshotter);
    request.set_key(key);
    google::protobuf::Empty reply;
    return PrepareError(Call([&](grpc::ClientContext& context) {
      return snapshots_->Remove(&context, request, &reply);
    }));
  }

  absl::Status PrepareError(const absl::Status& status) const {
    // Depending on its version, containerd reports an unknown plugin with one of these codes.
    const bool unknown = absl::IsInvalidArgument(status) || absl::IsNotFound(status);
    const std::string_view text = ToStd(status.message());
    if (unknown && text.find("snapshotter") != std::string_view::npos) {
      return absl::FailedPreconditionError(
          StrCat("containerd at ", options_.address, " has no snapshotter ", options_.snapshotter,
                 ": ", text, "; add it to proxy_plugins in its config.toml and restart it"));
    }
    return Annotate(status, StrCat("containerd's snapshotter ", options_.snapshotter));
  }

  const Options options_;
  const CancelToken cancel_;
  const std::string unique_ = RandomHex(8);
  std::string lease_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<content::Content::Stub> content_;
  std::unique_ptr<images::Images::Stub> images_;
  std::unique_ptr<leases::Leases::Stub> leases_;
  std::unique_ptr<namespaces::Namespaces::Stub> namespaces_;
  std::unique_ptr<snapshots::Snapshots::Stub> snapshots_;
};

class ContainerdContentImpl : public ContentStore {
 public:
  ContainerdContentImpl(std::string address, CancelToken cancel)
      : address_(std::move(address)), cancel_(std::move(cancel)) {}

  absl::StatusOr<std::vector<std::string>> Namespaces() override {
    return Named(Client("")->Namespaces());
  }
  absl::StatusOr<absl::flat_hash_map<Digest, Labels>> List(const std::string& name_space) override {
    return Named(Client(name_space)->ListContent());
  }
  absl::Status Write(const std::string& name_space, const Blob& blob, const Fd* file) override {
    const auto client = Client(name_space);
    IMAGEFS_RETURN_IF_ERROR(client->TakeLease());
    const absl::Status status = client->PutBlob(
        blob, [file](absl::Span<char> buffer, uint64_t offset) -> absl::StatusOr<size_t> {
          if (file == nullptr) return absl::NotFoundError("no namespace shares the blob");
          return PreadFull(file->get(), buffer, offset);
        });
    if (absl::IsAlreadyExists(status)) return absl::OkStatus();
    return Annotate(status, StrCat("storing ", blob.digest.Short(), " in containerd"));
  }

 private:
  std::unique_ptr<ContainerdClientImpl> Client(const std::string& name_space) const {
    ContainerdClient::Options options;
    options.address = address_;
    options.name_space = name_space;
    options.purpose = "imagefs-content";
    return std::make_unique<ContainerdClientImpl>(std::move(options), cancel_);
  }
  template <typename T>
  absl::StatusOr<T> Named(absl::StatusOr<T> result) const {
    if (result.ok()) return result;
    if (absl::IsDeadlineExceeded(result.status())) {
      return WithKind(
          absl::UnavailableError(StrCat("containerd at ", address_, " does not answer")),
          FailureKind::kNoDaemon);
    }
    return Annotate(result.status(), StrCat("containerd at ", address_));
  }

  const std::string address_;
  const CancelToken cancel_;
};

}  // namespace

std::unique_ptr<ContentStore> ContainerdContent(std::string address, CancelToken cancel) {
  return std::make_unique<ContainerdContentImpl>(std::move(address), std::move(cancel));
}

absl::StatusOr<std::unique_ptr<ContainerdClient>> ContainerdClient::Connect(Options options,
                                                                            CancelToken cancel) {
  if (!options.address.starts_with('/')) {
    return absl::InvalidArgumentError(
        StrCat("containerd's socket ", Printable(options.address), " is not an absolute path"));
  }
  auto client = std::make_unique<ContainerdClientImpl>(std::move(options), std::move(cancel));
  const absl::Status status = client->TakeLease();
  if (absl::IsUnavailable(status)) {
    return WithKind(absl::UnavailableError(StrCat(ToStd(status.message()),
                                                  "; start it, or name its socket by --address")),
                    FailureKind::kNoDaemon);
  }
  IMAGEFS_RETURN_IF_ERROR(status);
  return std::unique_ptr<ContainerdClient>(std::move(client));
}

}  // namespace imagefs
