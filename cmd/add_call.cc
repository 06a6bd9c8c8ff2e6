// SPDX-License-Identifier: Apache-2.0
// Add: resolve the image, make it mountable, and add it to podman's store, which holds it.
#include "base/status.h"
#include "cmd/transfer_call.h"
#include "snap/podman_store.h"

namespace imagefs {
namespace {

using control::v1::MountEvent;

class AddCall : public TransferCall {
 public:
  AddCall(const CallContext& context, grpc::CallbackServerContext* call,
          const control::v1::AddRequest& request)
      : TransferCall(context, call, "add", request.progress()), request_(request) {}

 private:
  absl::Status Run() override;
  absl::Status Hold(const ImageStore::Resolved& image);
  absl::Status Add(const ImageRef& image, ImageUses::Use use);

  const control::v1::AddRequest& request_;  // gRPC keeps it until the call is done
  std::string name_;                        // podman's name for the image
  std::string reference_;
};

absl::Status AddCall::Run() {
  if (deps().podman == nullptr) return NoPodman();
  IMAGEFS_ASSIGN_OR_RETURN(ResolveRequest image, ParseImage(request_.image()));
  Reference name = image.reference;
  if (!request_.name().empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(name, Reference::Parse(request_.name()));
  }
  IMAGEFS_ASSIGN_OR_RETURN(name_, PodmanName(name));
  reference_ = image.reference.ToString();
  if (image.policy == PullPolicy::kMissing) {
    // The podman store may hold an image that the image store no longer finds by its reference.
    if (ImageRef held = deps().podman->Find(name_, image.platform); held != nullptr) {
      return Hold({std::move(held), nullptr, true});
    }
  }
  image.trust = deps().podman->TrustFor(image.reference);
  return Resolve(std::move(image),
                 [this](const ImageStore::Resolved& found) { return Hold(found); });
}

absl::Status AddCall::Hold(const ImageStore::Resolved& image) {
  IMAGEFS_RETURN_IF_ERROR(CheckIsImage(*image.image));
  IMAGEFS_RETURN_IF_ERROR(BeginLayers(image.image));
  WaitFor(
      deps().podman->Fetch(image.image, image.source, Priority::kForeground,
                           Then<ImageUses::Use>([this, image = image.image](ImageUses::Use use) {
                             return Add(image, std::move(use));
                           })));
  return absl::OkStatus();
}

absl::Status AddCall::Add(const ImageRef& image, ImageUses::Use use) {
  return OnExecutor(
      "mounting", "mount", [this, image, use = std::move(use)]() mutable -> absl::Status {
        const absl::StatusOr<PodmanStore::Entry> entry = deps().podman->Add(name_, reference_, use);
        // A caller may drop the image once it has the answer, so release this call's hold first.
        use = {};
        IMAGEFS_RETURN_IF_ERROR(entry.status());
        MountEvent event = MakeResult(*image);
        FillAdded(deps().store, *entry, event.mutable_result()->mutable_added());
        return Succeed(std::move(event));
      });
}

}  // namespace

MountEventReactor* StartAdd(const CallContext& context, grpc::CallbackServerContext* call,
                            const control::v1::AddRequest& request) {
  return TransferCall::Start(std::make_shared<AddCall>(context, call, request));
}

}  // namespace imagefs
