// SPDX-License-Identifier: Apache-2.0
#include "cache/image_picture.h"

#include <algorithm>
#include <utility>

#include "cache/filling_layer.h"
#include "cache/layer_store.h"

namespace imagefs {

std::vector<std::optional<ImagePicture::Layer>> PictureLayers(const Chain& chain) {
  std::vector<std::optional<ImagePicture::Layer>> layers(chain.layers.size());
  std::vector<std::shared_ptr<FillingLayer>> filling;
  for (const LayerRef& layer : chain.layers) filling.push_back(LayerStore::FillingOf(layer));
  const auto lazy = static_cast<size_t>(std::count_if(
      filling.begin(), filling.end(), [](const auto& one) { return one != nullptr; }));
  if (lazy == 0) return layers;
  const size_t runs =
      std::min(ImagePicture::kMostRunsOfLayer, std::max<size_t>(ImagePicture::kMostRuns / lazy, 1));
  for (size_t i = 0; i < filling.size(); ++i) {
    if (filling[i] == nullptr) continue;
    FillPicture picture = filling[i]->Picture();
    const SpanTableReader& table = filling[i]->span_table();
    ImagePicture::Layer& out = layers[i].emplace();
    out.blob_bytes = table.blob_size();
    out.events = std::move(picture.events);
    out.map = MakeByteMap(table, picture.spans, runs);
    AddNames(table, *chain.layers[i]->index, ImagePicture::kMostNameBytes / lazy, out.map);
  }
  return layers;
}

std::vector<std::optional<FillReport>> ReportLayers(const Chain& chain) {
  std::vector<std::optional<FillReport>> reports;
  for (const LayerRef& layer : chain.layers) {
    const auto filling = LayerStore::FillingOf(layer);
    reports.push_back(filling == nullptr ? std::nullopt : std::optional(filling->Report()));
  }
  return reports;
}

}  // namespace imagefs
