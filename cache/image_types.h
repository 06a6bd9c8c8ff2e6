// SPDX-License-Identifier: Apache-2.0
// Values that the parts of the cache and their users exchange about images and layers. They have no
// behavior of their own.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/digest.h"
#include "cache/chain.h"
#include "cache/index_trust.h"
#include "fetch/image_verifier.h"
#include "fetch/source.h"
#include "image/manifest.h"
#include "image/reference.h"

namespace imagefs {

enum class PullPolicy {
  kMissing,     // ask the registry only if the reference is not known locally
  kAlways,      // always ask the registry, without any fallback
  kNever,       // use local data only
  kRevalidate,  // like kAlways, but not again for credentials that were recently given the image
};

enum class LayerState { kAbsent, kFilling, kWritten, kComplete };
std::string_view LayerStateName(LayerState state);  // "absent", "filling", "written", "complete"

// The progress of one layer, for display.
struct LayerProgress {
  enum class Activity { kWaiting, kDownloading, kUnpacking, kIndexing, kDone, kFailed };
  Activity activity = Activity::kWaiting;
  uint64_t blob_bytes = 0;        // compressed size
  uint64_t downloaded_bytes = 0;  // of those, present locally
  uint64_t resumed_bytes = 0;     // of those, fetched before by an earlier attempt or process
  uint64_t unpacked_bytes = 0;    // tar bytes written
  uint32_t callers = 0;           // of the layer's flight; more than 1 = shared
  std::string trouble;            // why nothing arrives at the moment; "" = no trouble
};

struct LayerInfo {
  Digest id;       // its name (cache/identity.h)
  Digest diff_id;  // the claimed DiffID
  LayerState state = LayerState::kAbsent;
  uint64_t data_bytes = 0;
  uint64_t index_bytes = 0;
  std::string_view source;  // as returned by ImageStore::SourceOf
};

using ImageRef = std::shared_ptr<const ResolvedImage>;

struct ResolveRequest {
  Reference reference;
  Platform platform;
  SourceFactory::Access access;
  PullPolicy policy = PullPolicy::kMissing;
  // The trust that EnsureChain will be called with; what it needs is prefetched concurrently.
  IndexTrust trust;
  // If `reference` has the digest of one platform's manifest: a tag, or the digest of an index,
  // that may list it; "" = the reference's tag. Verifiers are asked about the index, because that
  // is what is signed.
  std::string listed_by;
  // Called if the image was found and verifiers are asked now, which takes as long as their
  // programs do. May be empty.
  std::function<void()> verifying;
};

LayerKey KeyOf(const ResolvedImage& image, size_t layer);
// What verifiers are asked about: what the reference names, the index if there is one.
ImageVerifier::Image QuestionOf(const Reference& reference, const ResolvedImage& image);
// Returns the image as the store records it, with the names that its layers have in `chain`.
std::shared_ptr<const ResolvedImage> WithLayers(const ResolvedImage& image, const Chain& chain);

}  // namespace imagefs
