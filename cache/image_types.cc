// SPDX-License-Identifier: Apache-2.0
#include "cache/image_types.h"

namespace imagefs {

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

std::shared_ptr<const ResolvedImage> WithLayers(const ResolvedImage& image, const Chain& chain) {
  auto known = std::make_shared<ResolvedImage>(image);
  known->layer_ids.clear();
  for (const LayerRef& layer : chain.layers) known->layer_ids.push_back(layer->id);
  return known;
}

}  // namespace imagefs
