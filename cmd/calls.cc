// SPDX-License-Identifier: Apache-2.0
#include "cmd/calls.h"

#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "base/directory.h"
#include "base/failure.h"
#include "base/fd.h"
#include "base/machine_user.h"
#include "base/status.h"
#include "base/text.h"
#include "snap/rpc_status.h"

namespace imagefs {

using namespace control::v1;  // NOLINT: the messages that are read and filled

absl::Status NoPodman() {
  return WithKind(absl::FailedPreconditionError("podman can be given images by the daemon of root "
                                                "only: it mounts them; run imagefs as root"),
                  FailureKind::kDenied);
}

absl::StatusOr<std::string> ResolveParents(const std::string& directory) {
  IMAGEFS_RETURN_IF_ERROR(CheckPath(directory, "the directory"));
  if (!directory.starts_with('/')) {
    return absl::InvalidArgumentError(StrCat(PrintableName(directory), ": not an absolute path"));
  }
  const std::string name = directory.substr(directory.rfind('/') + 1);
  if (name.empty()) return absl::InvalidArgumentError("/ cannot be mounted on");
  const absl::StatusOr<Fd> parent = OpenPlace(ParentOf(directory));
  if (absl::IsNotFound(parent.status())) return directory;
  IMAGEFS_RETURN_IF_ERROR(parent.status());
  const absl::StatusOr<std::string> resolved = PathOf(*parent, directory);
  if (!resolved.ok()) return resolved.status();
  return StrCat(*resolved, *resolved == "/" ? "" : "/", name);
}

grpc::Status AnswerOf(grpc::CallbackServerContext* context, const absl::Status& status) {
  context->AddTrailingMetadata(kAnswerMark,
                               status.ok() ? "ok" : std::string(KindName(KindOf(status))));
  return ToGrpc(status);
}

absl::StatusOr<ResolveRequest> ParseImageRequest(const ImageRequest& request) {
  ResolveRequest out;
  IMAGEFS_ASSIGN_OR_RETURN(out.reference, Reference::Parse(request.reference()));
  if (request.platform().empty()) {
    out.platform = Platform::Host();
  } else {
    IMAGEFS_ASSIGN_OR_RETURN(out.platform, Platform::Parse(request.platform()));
  }
  out.access.credential.username = request.credential().username();
  out.access.credential.password = request.credential().password();
  out.access.credential.identity_token = request.credential().identity_token();
  out.access.credential_trouble = Printable(request.credential().trouble(), 1000);
  out.access.plain_http = request.plain_http();
  out.access.verify_tls = !request.skip_tls_verify();
  // The system's daemon goes the way that its administrator gave it.
  if (request.has_proxies() && !IsMachineRoot()) {
    const ImageRequest::Proxies& proxies = request.proxies();
    out.access.proxies = std::make_shared<const ProxySettings>(
        ProxySettings{{proxies.http(), proxies.http_variable()},
                      {proxies.https(), proxies.https_variable()},
                      proxies.exceptions()});
  }
  switch (request.pull_policy()) {
    case ImageRequest::ALWAYS:
      out.policy = PullPolicy::kAlways;
      break;
    case ImageRequest::NEVER:
      out.policy = PullPolicy::kNever;
      break;
    default:
      out.policy = PullPolicy::kMissing;
  }
  return out;
}

absl::Status CheckIsImage(const ResolvedImage& image) {
  if (image.artifact_type.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(StrCat(image.reference, " is an artifact (",
                                              Printable(image.artifact_type, 80),
                                              "), not an image; mount it with: imagefs mount"));
}

void FillImage(const ResolvedImage& image, Image* out) {
  out->set_reference(image.reference);
  out->set_platform(image.config.platform.ToString());
  out->set_artifact_type(image.artifact_type);
  out->set_manifest_digest(image.manifest_digest.ToString());
  out->set_chain_id(image.chain_id().ToString());
  uint64_t compressed = 0;
  for (const Descriptor& layer : image.manifest.layers) {
    if (__builtin_add_overflow(compressed, layer.size, &compressed)) compressed = UINT64_MAX;
  }
  out->set_compressed_bytes(compressed);
  out->set_layers(static_cast<uint32_t>(image.manifest.layers.size()));
}

void FillMount(const MountRecord& record, Mount* out) {
  out->set_directory(record.directory);
  out->set_reference(record.reference);
  out->set_manifest_digest(record.manifest_digest.ToString());
  out->set_chain_id(record.chain_id.ToString());
  out->set_mode(record.mode);
  out->set_writable(record.options.writable);
  out->set_created_unix(record.created_unix);
  out->set_state("mounted");
  out->set_upper(record.upper);
  out->set_mount_namespace(record.name_space);
  const MountFlags& flags = record.options.flags;
  if (flags.nosuid) out->add_options("nosuid");
  if (flags.nodev) out->add_options("nodev");
  if (flags.noexec) out->add_options("noexec");
  for (std::string& word : record.options.shown_as.Words()) out->add_options(std::move(word));
  if (record.options.allow_other) out->add_options("allow_other");
  const std::string& context = record.options.context;
  if (!context.empty()) out->add_options(StrCat("context=\"", context, "\""));
}

void FillAdded(const ImageStore& store, const PodmanStore::Entry& entry, AddedImage* out) {
  out->set_name(entry.name);
  out->set_reference(entry.reference);
  out->set_manifest_digest(entry.manifest.ToString());
  out->set_added_unix(entry.added_unix);
  out->set_state("missing");
  if (entry.image == nullptr) return;
  const ResolvedImage& image = *entry.image;
  out->set_image_id(PodmanImageId(image));
  out->set_platform(image.config.platform.ToString());
  out->set_chain_id(image.chain_id().ToString());
  uint64_t all = 0, present = 0;
  std::vector<std::optional<FillReport>> reports;
  if (entry.chain != nullptr) reports = store.FillReports(entry.chain);
  for (size_t i = 0; i < image.manifest.layers.size(); ++i) {
    const uint64_t bytes = image.manifest.layers[i].size;
    all += bytes;
    if (entry.chain == nullptr) continue;
    const bool fills = i < reports.size() && reports[i].has_value();
    present += fills ? std::min(reports[i]->blob_bytes_present, bytes) : bytes;
  }
  out->set_blob_bytes(all);
  out->set_blob_bytes_present(present);
  if (entry.chain != nullptr) out->set_state(entry.chain->complete() ? "complete" : "filling");
}

}  // namespace imagefs
