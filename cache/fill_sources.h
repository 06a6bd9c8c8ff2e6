// Where the bytes of one layer may be had from, and whom to ask now.
//
// Not thread-safe: the layer's lock guards it.
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

  // The one added last is asked first. A source whose auth scope is known replaces the one before
  // (newer credentials).
  void Add(std::shared_ptr<ImageSource> source);
  void Clear() { sources_.clear(); }
  bool empty() const { return sources_.empty(); }
  // The one that is asked first. REQUIRES: !empty().
  const std::shared_ptr<ImageSource>& first() const { return sources_.back(); }

  struct Choice {
    std::shared_ptr<ImageSource> source;  // null: there is none
    Moment when = Moment::InfiniteFuture();
  };
  // Whom a request of that urgency asks: the first that may be asked at `now`, rather not
  // `silent`; else the one that may be asked soonest.
  Choice Next(Priority priority, Moment now, const ImageSource* silent) const;
  // What came from that source was wrong: the others come first.
  void PutLast(const ImageSource& source);
  // Why the blob cannot be had: of all sources, when that is certain of all of them.
  std::optional<absl::Status> Certain() const;
  // The trouble with the one that is asked first, "" = none.
  std::string Trouble(Moment now) const;
  std::vector<std::string> AuthScopes() const;
  SourceHealth::Place PlaceOf(const ImageSource& source) const;

 private:
  SourceHealth& health_;
  Digest blob_;
  std::vector<std::shared_ptr<ImageSource>> sources_;
};

}  // namespace imagefs
