// SPDX-License-Identifier: Apache-2.0
#include "snap/layer_labels.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

std::string LabelOr(const SnapshotLabels& labels, const char* key) {
  const auto found = labels.find(key);
  return found == labels.end() ? std::string() : found->second;
}

}  // namespace

absl::StatusOr<std::optional<LayerLabels>> ParseLayerLabels(const SnapshotLabels& labels) {
  LayerLabels out;
  out.chain_id = LabelOr(labels, kRefLabel);
  std::string reference = LabelOr(labels, "containerd.io/snapshot/cri.image-ref");
  const std::string manifest = LabelOr(labels, "containerd.io/snapshot/cri.manifest-digest");
  if (reference.empty()) {
    reference = LabelOr(labels, "containerd.io/snapshot/remote/stargz.reference");
  }
  if (out.chain_id.empty() || reference.empty()) return std::optional<LayerLabels>();
  IMAGEFS_ASSIGN_OR_RETURN(out.reference, Reference::Parse(reference));
  if (out.reference.transport != Reference::Transport::kRegistry) {
    return absl::InvalidArgumentError(
        StrCat("label names ", Printable(reference), ", which is not an image of a registry"));
  }
  if (!manifest.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(out.manifest, Digest::Parse(manifest));
    // The reference has the digest of the index, if there is one. The layers belong to the
    // platform's manifest.
    if (out.reference.digest.has_value() && out.reference.digest != out.manifest) {
      out.listed_by = out.reference.digest->ToString();
    }
    out.reference.digest = out.manifest;
  }
  return std::optional<LayerLabels>(std::move(out));
}

absl::StatusOr<uint32_t> FindLevel(const ResolvedImage& image, const LayerLabels& labels,
                                   std::string_view parent_ref) {
  const std::vector<Digest>& chain_ids = image.chain_ids;
  const auto at = std::find_if(chain_ids.begin(), chain_ids.end(),
                               [&](const Digest& id) { return id.ToString() == labels.chain_id; });
  if (at == chain_ids.end()) {
    return absl::NotFoundError(
        StrCat(image.reference, " has no layer ", Printable(labels.chain_id)));
  }
  const std::string below = at == chain_ids.begin() ? std::string() : (at - 1)->ToString();
  if (below != parent_ref) {
    return absl::NotFoundError(StrCat("the parent is ", Printable(parent_ref), ", but ",
                                      labels.chain_id, " of ", image.reference, " lies on ",
                                      below.empty() ? "nothing" : below));
  }
  return static_cast<uint32_t>(at - chain_ids.begin());
}

}  // namespace imagefs
