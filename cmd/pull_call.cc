// SPDX-License-Identifier: Apache-2.0
// Pull: resolve the image, fetch all layers, and wait until they are durable. With a directory, the
// same for what the mount there still lacks.
#include "base/failure.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/transfer_call.h"

namespace imagefs {
namespace {

class PullCall : public TransferCall {
 public:
  PullCall(const CallContext& context, grpc::CallbackServerContext* call,
           const control::v1::PullRequest& request)
      : TransferCall(context, call, "pull", request.progress()), request_(request) {}

 private:
  absl::Status Run() override;
  absl::Status Fetch(const ImageStore::Resolved& image);

  const control::v1::PullRequest& request_;  // gRPC keeps it until the call is done
};

absl::Status PullCall::Run() {
  IMAGEFS_ASSIGN_OR_RETURN(ResolveRequest image, ParseImage(request_.image()));
  return Resolve(std::move(image),
                 [this](const ImageStore::Resolved& found) { return Fetch(found); });
}

absl::Status PullCall::Fetch(const ImageStore::Resolved& image) {
  IMAGEFS_RETURN_IF_ERROR(BeginLayers(image.image));
  // Trust no published index, so that the layers are fetched in full.
  return EnsureChain(image, IndexTrust::None(), [this, image](const ChainRef& chain) {
    return WaitDurable(chain, [this, image] { return Succeed(MakeResult(*image.image)); });
  });
}

class CompleteMountCall : public TransferCall {
 public:
  CompleteMountCall(const CallContext& context, grpc::CallbackServerContext* call,
                    const control::v1::PullRequest& request)
      : TransferCall(context, call, "pull", request.progress()), request_(request) {}

 private:
  absl::Status Run() override;
  absl::StatusOr<MountState> FindMount() const;

  const control::v1::PullRequest& request_;  // gRPC keeps it until the call is done
};

absl::StatusOr<MountState> CompleteMountCall::FindMount() const {
  IMAGEFS_ASSIGN_OR_RETURN(const std::string directory, ResolveParents(request_.directory()));
  for (MountState& mount : deps().mounts.List()) {
    if (mount.record.directory != directory) continue;
    if (mount.mounted()) return std::move(mount);
    return WithKind(
        absl::FailedPreconditionError(StrCat(directory, " is not mounted: ", mount.not_mounted)),
        FailureKind::kNotFound);
  }
  return absl::NotFoundError(StrCat(directory, ": no imagefs mount; imagefs ls lists them"));
}

absl::Status CompleteMountCall::Run() {
  SetDirectory(request_.directory());
  IMAGEFS_ASSIGN_OR_RETURN(const MountState mount, FindMount());
  SetReference(mount.record.reference);
  IMAGEFS_ASSIGN_OR_RETURN(const Reference reference, Reference::Parse(mount.record.reference));
  IMAGEFS_ASSIGN_OR_RETURN(const ImageRef image,
                           deps().store.FindImage(reference, Platform::Host()));
  ChainRef chain = mount.chain;
  if (chain == nullptr) {
    IMAGEFS_ASSIGN_OR_RETURN(chain, deps().store.FindChain(mount.record.chain_id));
  }
  IMAGEFS_RETURN_IF_ERROR(BeginLayers(image));
  return WaitDurable(chain, [this, image] { return Succeed(MakeResult(*image)); });
}

}  // namespace

MountEventReactor* StartPull(const CallContext& context, grpc::CallbackServerContext* call,
                             const control::v1::PullRequest& request) {
  if (!request.directory().empty()) {
    return TransferCall::Start(std::make_shared<CompleteMountCall>(context, call, request));
  }
  return TransferCall::Start(std::make_shared<PullCall>(context, call, request));
}

}  // namespace imagefs
