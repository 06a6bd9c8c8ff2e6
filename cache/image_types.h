// What the parts of the cache and those who use it say of images and layers: values, without any
// behaviour of their own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/digest.h"
#include "cache/chain.h"
#include "cache/index_trust.h"
#include "fetch/source.h"
#include "image/manifest.h"
#include "image/reference.h"

namespace imagefs {

enum class PullPolicy {
  kMissing,     // ask the registry only when the reference is not known here
  kAlways,      // ask the registry, fall back to nothing
  kNever,       // only what is here
  kRevalidate,  // as kAlways, but not again for credentials that were shown the image before
};

enum class LayerState { kAbsent, kFilling, kWritten, kComplete };
std::string_view LayerStateName(LayerState state);  // "absent", "filling", "written", "complete"

// What is going on with one layer, for progress lines.
struct LayerProgress {
  enum class Activity { kWaiting, kDownloading, kUnpacking, kIndexing, kDone, kFailed };
  Activity activity = Activity::kWaiting;
  uint64_t blob_bytes = 0;        // compressed size
  uint64_t downloaded_bytes = 0;  // of those here
  uint64_t unpacked_bytes = 0;    // tar bytes written
  uint32_t callers = 0;           // of the layer's flight; more than 1 = shared
  std::string trouble;            // why nothing comes at the moment; "" = nothing is wrong
};

struct LayerInfo {
  Digest id;       // its name (cache/identity.h)
  Digest diff_id;  // the claim
  LayerState state = LayerState::kAbsent;
  uint64_t data_bytes = 0;
  uint64_t index_bytes = 0;
  std::string_view source;  // as ImageStore::SourceOf
};

using ImageRef = std::shared_ptr<const ResolvedImage>;

struct ResolveRequest {
  Reference reference;
  Platform platform;
  SourceFactory::Access access;
  PullPolicy policy = PullPolicy::kMissing;
  // EnsureChain will be asked with it: what it has to know is asked for at the same time.
  IndexTrust trust;
};

LayerKey KeyOf(const ResolvedImage& image, size_t layer);
// The image as the store's record of it gives it, with the names of the layers that it has now.
std::shared_ptr<const ResolvedImage> WithLayers(const ResolvedImage& image, const Chain& chain);

}  // namespace imagefs
