// SPDX-License-Identifier: Apache-2.0
// What is asked of LayerStore: a layer, as an image claims it. A value type.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "base/digest.h"
#include "cache/chain.h"
#include "cache/index_trust.h"
#include "fetch/source.h"
#include "image/manifest.h"

namespace imagefs {

struct LayerRequest {
  Digest diff_id;   // as claimed by the image's configuration
  Descriptor blob;  // as named by its manifest
  LayerForm form;
  std::shared_ptr<ImageSource> source;  // null: only what is local
  FoundIndexRef found;                  // describes the layer; null: no description
  // Where the blob of a layer that is made as a whole can be entered; null: it is not known.
  // Anybody may say so (cache/parallel_passes.h).
  FoundIndexRef table;
  // The name under which this image was given the layer before, with the same authorization.
  std::optional<Digest> recorded;
  // Whose descriptions suffice to use the layer before it is proven. Empty: it must be proven.
  IndexTrust trust;
  // REQUIRES: found == nullptr || trust.Allows(found->source).
  std::string Registry() const;  // "" without a source
  // The name of the layer that is described by `found`, or made by a pass and not yet hashed.
  Digest UnprovenId() const;
  // Whether an unproven layer may be used before it is proven.
  bool Suffices(const struct LayerEntry& entry) const;
};

// Asks for one layer of an image, without a description. `source` may be null, as above.
LayerRequest RequestOf(const struct ResolvedImage& image, size_t layer,
                       std::shared_ptr<ImageSource> source);

// How the store can serve a request from what is local.
struct LayerVerdict {
  enum class Kind { kFetch, kAskRegistry, kDeliver, kProve } kind = Kind::kFetch;
  Digest id;  // of the layer
};

}  // namespace imagefs
