// SPDX-License-Identifier: Apache-2.0
// The sources of one layer's bytes, and the choice of which to ask next.
//
// Not thread-safe: guarded by the layer's lock.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/monotonic.h"
#include "cache/source_health.h"
#include "fetch/source.h"

namespace imagefs {

class FillSources {
 public:
  // `health` must outlive this.
  explicit FillSources(SourceHealth& health) : health_(health) {}
  void SetBlob(const Digest& blob) { blob_ = blob; }

  // The source added last is asked first. Replaces a source with the same auth scope (newer
  // credentials).
  void Add(std::shared_ptr<ImageSource> source);
  void Clear() { sources_.clear(); }
  bool empty() const { return sources_.empty(); }
  // The source that is asked first. REQUIRES: !empty().
  const std::shared_ptr<ImageSource>& first() const { return sources_.back(); }

  struct Choice {
    std::shared_ptr<ImageSource> source;  // null: there is none
    Moment when = Moment::InfiniteFuture();
  };
  // Returns the source to ask at that priority: the first one that may be asked at `now`,
  // preferring others to `silent`; else the one that may be asked soonest.
  Choice Next(Priority priority, Moment now, const ImageSource* silent) const;
  // The source sent wrong bytes: all others now come before it.
  void PutLast(const ImageSource& source);
  // Returns why the blob is unavailable if that is certain for every source.
  std::optional<absl::Status> Certain() const;
  // The trouble with the source that is asked first; "" = none.
  std::string Trouble(Moment now) const;
  std::vector<std::string> AuthScopes() const;
  SourceHealth::Place PlaceOf(const ImageSource& source) const;

 private:
  SourceHealth& health_;
  Digest blob_;
  std::vector<std::shared_ptr<ImageSource>> sources_;
};

}  // namespace imagefs
