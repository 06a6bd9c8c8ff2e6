// SPDX-License-Identifier: Apache-2.0
#include "cache/image_types.h"

namespace imagefs {
namespace {

// Of indexes that were recorded without their type.
constexpr std::string_view kOciIndexType = "application/vnd.oci.image.index.v1+json";

}  // namespace

std::string_view LayerStateName(LayerState state) {
  switch (state) {
    case LayerState::kAbsent:
      return "absent";
    case LayerState::kFilling:
      return "filling";
    case LayerState::kWritten:
      return "written";
    case LayerState::kComplete:
      return "complete";
  }
  return "absent";
}

LayerKey KeyOf(const ResolvedImage& image, size_t layer) {
  return {image.config.diff_ids[layer], image.manifest.layers[layer].digest};
}

ImageVerifier::Image QuestionOf(const Reference& reference, const ResolvedImage& image) {
  Reference named = reference;
  // The digest is a question of its own; containerd's name has none either, if there is a tag.
  if (!named.tag.empty()) named.digest.reset();
  ImageVerifier::Image out{named.ToString(), image.content_type, image.manifest_digest,
                           image.manifest_json.size()};
  if (!image.manifest.media_type.empty()) out.media_type = image.manifest.media_type;
  if (image.index_digest.empty()) return out;
  out.media_type = image.index_type.empty() ? std::string(kOciIndexType) : image.index_type;
  out.digest = image.index_digest;
  out.size = image.index_bytes;
  return out;
}

std::shared_ptr<const ResolvedImage> WithLayers(const ResolvedImage& image, const Chain& chain) {
  auto known = std::make_shared<ResolvedImage>(image);
  known->layer_ids.clear();
  for (const LayerRef& layer : chain.layers) known->layer_ids.push_back(layer->id);
  return known;
}

}  // namespace imagefs
