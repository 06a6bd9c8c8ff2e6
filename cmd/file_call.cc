// SPDX-License-Identifier: Apache-2.0
#include "cmd/file_call.h"

#include "base/status.h"
#include "base/text.h"
#include "fs/tree_diff.h"

namespace imagefs {

FileCall::FileCall(const CallContext& context, grpc::CallbackServerContext* call, const char* verb,
                   bool progress)
    : TransferCall(context, call, verb, progress) {
  WaitFor(FlightTicket([cancel = cancel_]() mutable { cancel.Cancel(); }));
}

absl::Status FileCall::OpenImage(const control::v1::ImageRequest& request, bool eager, bool first,
                                 Next<Opened> next) {
  IMAGEFS_ASSIGN_OR_RETURN(ResolveRequest image, ParseImage(request));
  if (!eager) image.trust = deps().trust_of(image.reference);
  const IndexTrust trust = image.trust;
  return Resolve(std::move(image),
                 [this, trust, first, next = std::move(next)](
                     const ImageStore::Resolved& found) mutable -> absl::Status {
                   if (first) {
                     IMAGEFS_RETURN_IF_ERROR(BeginLayers(found.image));
                   } else {
                     IMAGEFS_RETURN_IF_ERROR(Begin("layers", "layers"));
                   }
                   return EnsureReadable(found, trust, /*again=*/false, std::move(next));
                 });
}

absl::Status FileCall::EnsureReadable(const ImageStore::Resolved& image, IndexTrust trust,
                                      bool again, Next<Opened> next) {
  WaitFor(deps().store.EnsureFiles(
      image.image, image.source, trust,
      Then<ChainRef>([this, image, trust, again,
                      next = std::move(next)](const ChainRef& chain) mutable -> absl::Status {
        const bool whole = !trust.empty() || (chain->complete() && IsProven(*chain));
        if (whole)
          return OnExecutor("reading", "read", [image, chain, next = std::move(next)]() mutable {
            return next(Opened{image.image, chain});
          });
        if (again) {
          return absl::UnavailableError(
              StrCat(image.image->reference, ": its layers could not be proven; run this again"));
        }
        // Bytes of an earlier lazy use are missing. Once they have come and were proven, the layers
        // have other names.
        return WaitDurable(chain, [this, image, trust, next = std::move(next)]() mutable {
          return EnsureReadable(image, trust, /*again=*/true, std::move(next));
        });
      })));
  return absl::OkStatus();
}

absl::Status FileCall::AwaitParts(const std::vector<std::pair<LayerRef, ByteRange>>& missing,
                                  std::string what, Next<std::vector<ReadPin>> next) {
  auto self = std::static_pointer_cast<FileCall>(shared_from_this());
  EnsureParts(missing, /*reader=*/0, cancel_.token(),
              [self = std::move(self), what = std::move(what),
               next = std::move(next)](absl::StatusOr<std::vector<ReadPin>> pins) mutable {
                if (!pins.ok()) return self->EndIfFailed(Annotate(pins.status(), what));
                self->EndIfFailed(
                    self->OnExecutor([pins = *std::move(pins), next = std::move(next)]() mutable {
                      return next(std::move(pins));
                    }));
              });
  return absl::OkStatus();
}

}  // namespace imagefs
