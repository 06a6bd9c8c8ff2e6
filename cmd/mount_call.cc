// SPDX-License-Identifier: Apache-2.0
// Mount: check the directory, resolve the image, make its chain mountable (with `eager`, fetch all
// of it), and mount it.
#include "base/directory.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/mount_channel.h"
#include "cmd/transfer_call.h"
#include "fs/user_mount.h"

namespace imagefs {
namespace {

using control::v1::MountEvent;

absl::StatusOr<MountRequest> ParseMount(const control::v1::MountRequest& request,
                                        const ResolveRequest& image) {
  IMAGEFS_RETURN_IF_ERROR(CheckPath(request.directory(), "the directory to mount on"));
  const std::string& mode = request.mode();
  if (!mode.empty() && mode != "auto" && mode != kKernelMode && mode != kFuseMode) {
    return absl::InvalidArgumentError(
        StrCat("mode ", Printable(mode), " is not known; use auto, kernel or fuse"));
  }
  if (!request.id_map().empty()) IMAGEFS_RETURN_IF_ERROR(CheckIdMap(request.id_map()));
  MountRequest out;
  out.directory = request.directory();
  out.reference = image.reference.ToString();
  out.mode = mode;
  out.upper = request.upper();
  out.options.writable = request.writable();
  out.options.flags = {!request.suid(), !request.dev(), request.noexec(), request.id_map(), ""};
  out.options.context = request.context();
  ShownAs& shown = out.options.shown_as;
  if (request.has_uid()) shown.uid = request.uid();
  if (request.has_gid()) shown.gid = request.gid();
  if (request.has_file_mask()) shown.file_mask = request.file_mask();
  if (request.has_directory_mask()) shown.directory_mask = request.directory_mask();
  IMAGEFS_RETURN_IF_ERROR(shown.Check());
  // Root's mounts admit everybody as they are.
  out.options.allow_other = request.allow_other() && !MountsAsRoot();
  out.options.deadline_seconds = request.deadline_seconds();
  out.options.plain_http = image.access.plain_http;
  out.options.skip_tls_verify = !image.access.verify_tls;
  out.options.this_boot_only = request.this_boot_only();
  return out;
}

class MountCall : public TransferCall {
 public:
  MountCall(const CallContext& context, grpc::CallbackServerContext* call,
            const control::v1::MountRequest& request)
      : TransferCall(context, call, "mount", request.progress()), request_(request) {}

 private:
  absl::Status Run() override;
  absl::Status MakeChain(const ImageStore::Resolved& image);
  absl::Status Mount(const ImageStore::Resolved& image, const ChainRef& chain);
  void Ended(bool left) override;

  const control::v1::MountRequest& request_;  // gRPC keeps it until the call is done
  ResolveRequest image_;
  CheckedMount mount_;
  bool mounted_ = false;
};

absl::Status MountCall::Run() {
  SetDirectory(request_.directory());
  IMAGEFS_ASSIGN_OR_RETURN(image_, ParseImage(request_.image()));
  IMAGEFS_ASSIGN_OR_RETURN(MountRequest mount, ParseMount(request_, image_));
  if (request_.has_by_caller()) {
    const auto& by_caller = request_.by_caller();
    if (deps().channels == nullptr) return absl::InternalError("no channel for mounts");
    IMAGEFS_ASSIGN_OR_RETURN(mount.caller, deps().channels->Take(by_caller.channel()));
    mount.name_space = by_caller.mount_namespace();
    mount.covered = {by_caller.device(), by_caller.inode()};
  }
  // Find every predictable error before fetching anything.
  IMAGEFS_ASSIGN_OR_RETURN(mount_, deps().mounts.Check(std::move(mount)));
  if (!request_.eager()) image_.trust = deps().trust_of(image_.reference);
  return Resolve(image_, [this](const ImageStore::Resolved& image) { return MakeChain(image); });
}

absl::Status MountCall::MakeChain(const ImageStore::Resolved& image) {
  IMAGEFS_RETURN_IF_ERROR(BeginLayers(image.image));
  return EnsureChain(image, image_.trust, [this, image](const ChainRef& chain) {
    // Bytes of an earlier lazy mount may still be missing.
    if (!request_.eager() || chain->complete()) return Mount(image, chain);
    return WaitDurable(chain, [this, image, chain] { return Mount(image, chain); });
  });
}

absl::Status MountCall::Mount(const ImageStore::Resolved& image, const ChainRef& chain) {
  return OnExecutor("mounting", "mount", [this, image, chain]() -> absl::Status {
    chain->AllowWaiting(absl::Seconds(mount_.request.options.deadline_seconds));
    IMAGEFS_ASSIGN_OR_RETURN(const MountRecord record,
                             deps().mounts.Mount(chain, image.image->manifest_digest, mount_));
    mounted_ = true;
    MountEvent event = MakeResult(*image.image);
    FillMount(record, event.mutable_result()->mutable_mount());
    return Succeed(std::move(event));
  });
}

// Undoes a mount that the caller has not been told of. A continued writable mount has data from
// before this call, so it stays.
void MountCall::Ended(bool left) {
  if (!left || !mounted_ || !mount_.continued.empty()) return;
  // The task uses nothing of this object, and nothing that does not outlive the executor.
  // What a caller has mounted itself it also unmounts.
  if (mount_.request.name_space != 0) return;
  deps().executor.Submit([&mounts = deps().mounts, directory = mount_.request.directory] {
    const absl::Status status = mounts.Unmount(directory, /*lazy=*/true);
    if (!status.ok() && !absl::IsNotFound(status)) {
      LogWarning("undo_mount_failed directory=", directory, " cause=", status.message());
    }
  });
}

}  // namespace

MountEventReactor* StartMount(const CallContext& context, grpc::CallbackServerContext* call,
                              const control::v1::MountRequest& request) {
  return TransferCall::Start(std::make_shared<MountCall>(context, call, request));
}

}  // namespace imagefs
