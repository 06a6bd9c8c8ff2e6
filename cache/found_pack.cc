// SPDX-License-Identifier: Apache-2.0
#include "cache/found_pack.h"

#include <algorithm>
#include <utility>

#include "cache/layer_store.h"

namespace imagefs {

void FoundPack::Put(std::shared_ptr<HotPackStream> pack, std::vector<Digest> layers) {
  absl::MutexLock lock(&mu_);
  pack_ = std::move(pack);
  layers_ = std::move(layers);
}

bool FoundPack::Attach(const ChainRef& chain, absl::AnyInvocable<void()> ended) {
  std::shared_ptr<HotPackStream> pack;
  HotPackStream::Layers layers;
  {
    absl::MutexLock lock(&mu_);
    pack = std::move(pack_);
    if (pack == nullptr) return false;
    for (const LayerRef& layer : chain->layers) {
      if (std::find(layers_.begin(), layers_.end(), layer->id) == layers_.end()) continue;
      std::shared_ptr<FillingLayer> filling = LayerStore::FillingOf(layer);
      if (filling != nullptr) layers.emplace_back(layer->diff_id, std::move(filling));
    }
  }
  if (layers.empty()) return false;
  pack->Attach(std::move(layers), std::move(ended));
  return true;
}

}  // namespace imagefs
