// SPDX-License-Identifier: Apache-2.0
#include "cmd/rpull.h"

#include "base/json.h"
#include "base/status.h"
#include "base/text.h"
#include "image/reference.h"
#include "proto/control.pb.h"

namespace imagefs {
namespace {

using control::v1::InspectReply;
using Labels = ContainerdClient::Labels;

constexpr std::string_view kImageRef = "containerd.io/snapshot/cri.image-ref";
constexpr std::string_view kManifestDigest = "containerd.io/snapshot/cri.manifest-digest";
constexpr std::string_view kLayerDigest = "containerd.io/snapshot/cri.layer-digest";
constexpr std::string_view kImageLayers = "containerd.io/snapshot/cri.image-layers";
// containerd's limit for the name and the value of a label together.
constexpr size_t kMaxLabelBytes = 4096;

// Records where content came from, for clients that want to fetch more of it.
absl::StatusOr<Labels> SourceLabels(const std::string& text) {
  IMAGEFS_ASSIGN_OR_RETURN(const Reference reference, Reference::Parse(text));
  return Labels{
      {StrCat("containerd.io/distribution.source.", reference.host), reference.repository}};
}

absl::Status PutConfig(ContainerdClient& containerd, const RpullRequest& request,
                       const InspectReply& about, const Digest& digest) {
  IMAGEFS_ASSIGN_OR_RETURN(Labels labels, SourceLabels(request.reference));
  // Keeps the snapshots for as long as the image.
  if (!about.layers().empty()) {
    labels[StrCat("containerd.io/gc.ref.snapshot.", request.snapshotter)] =
        about.layers(about.layers_size() - 1).chain_id();
  }
  return containerd.PutContent(digest, about.config_json(), labels);
}

absl::Status PutManifest(ContainerdClient& containerd, const RpullRequest& request,
                         const InspectReply& about, const Digest& digest, const Digest& config) {
  IMAGEFS_ASSIGN_OR_RETURN(Labels labels, SourceLabels(request.reference));
  labels["containerd.io/gc.ref.content.config"] = config.ToString();
  // These blobs are absent, but are kept if a client fetches them.
  for (int i = 0; i < about.layers_size(); ++i) {
    labels[StrCat("containerd.io/gc.ref.content.l.", i)] = about.layers(i).digest();
  }
  return containerd.PutContent(digest, about.manifest_json(), labels);
}

absl::Status PrepareLayers(ContainerdClient& containerd, const RpullRequest& request,
                           const InspectReply& about,
                           const std::function<void(std::string_view)>& progress) {
  std::string parent;
  for (int i = 0; i < about.layers_size(); ++i) {
    const InspectReply::Layer& layer = about.layers(i);
    const Labels labels = {
        {std::string(kImageRef), request.reference},
        {std::string(kManifestDigest), about.image().manifest_digest()},
        {std::string(kLayerDigest), layer.digest()},
        {std::string(kImageLayers), LayersLabel(kImageLayers, about, i)},
    };
    const std::string name = StrCat("layer ", i + 1, " of ", about.layers_size(), " (",
                                    layer.digest().substr(0, 19), ")");
    IMAGEFS_ASSIGN_OR_RETURN(const bool shown,
                             containerd.PrepareLayer(layer.chain_id(), parent, labels));
    if (!shown) {
      return absl::FailedPreconditionError(
          StrCat(request.reference, ": the daemon could not show ", name,
                 "; the line snapshot.not_lazy of its log says why (often: credentials that only "
                 "the caller has)"));
    }
    progress(name);
    parent = layer.chain_id();
  }
  return absl::OkStatus();
}

}  // namespace

std::string LayersLabel(std::string_view name, const InspectReply& about, int first) {
  std::string out;
  for (int i = first; i < about.layers_size(); ++i) {
    const std::string& digest = about.layers(i).digest();
    if (name.size() + out.size() + 1 + digest.size() > kMaxLabelBytes) break;
    if (!out.empty()) out += ',';
    out += digest;
  }
  return out;
}

absl::Status Rpull(ContainerdClient& containerd, const RpullRequest& request,
                   const InspectReply& about,
                   const std::function<void(std::string_view line)>& progress) {
  if (const std::string& type = about.image().artifact_type(); !type.empty()) {
    return absl::FailedPreconditionError(StrCat(request.reference, " is an artifact (",
                                                Printable(type, 80),
                                                "), which containerd cannot run or mount"));
  }
  IMAGEFS_ASSIGN_OR_RETURN(const Digest manifest, Digest::Parse(about.image().manifest_digest()));
  IMAGEFS_ASSIGN_OR_RETURN(const Json json, Json::Parse(about.manifest_json()));
  IMAGEFS_ASSIGN_OR_RETURN(const Digest config, Digest::Parse(json["config"].StringOr("digest")));
  IMAGEFS_RETURN_IF_ERROR(PutManifest(containerd, request, about, manifest, config));
  IMAGEFS_RETURN_IF_ERROR(PrepareLayers(containerd, request, about, progress));
  // After the layers, because its label refers to a snapshot, which must exist.
  IMAGEFS_RETURN_IF_ERROR(PutConfig(containerd, request, about, config));
  const std::string type = json.StringOr("mediaType", "application/vnd.oci.image.manifest.v1+json");
  return containerd.PutImage(request.reference, type, manifest, about.manifest_json().size());
}

}  // namespace imagefs
