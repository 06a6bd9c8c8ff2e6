// SPDX-License-Identifier: Apache-2.0
// The pages of one layer that come with a hot pack (image/hot_pack.h): which are on their way,
// which are in the data file although their spans are not, and whether any was served. Bookkeeping
// only.
//
// Not thread-safe: guarded by the layer's lock.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "base/byte_range.h"
#include "cache/hot_arrival.h"
#include "image/hot_pack.h"

namespace imagefs {

// A pack that is offered to the layers of an image.
struct HotOffer {
  std::shared_ptr<const HotPack> pack;
  std::shared_ptr<const HotArrival> arrival;
  // Called if bytes of the pack are not those of a layer; may be called more than once. Must not
  // block.
  std::function<void()> lied;
};

class HotPages {
 public:
  // Pages of an earlier process, which are only compared.
  void SetEarlier(ByteRange range);
  // Expects the pages of that layer of the pack, except for those that arrived and those that
  // `present` says are not needed. Returns false, and takes no offer, if there are none. REQUIRES:
  // !coming().
  bool Expect(HotOffer offer, uint32_t layer, absl::FunctionRef<bool(ByteRange page)> present);
  // No more pages come.
  void EndComing();
  // The pack has lied: nothing of it is served any more, and what was is still compared.
  void Distrust() {
    EndComing();
    distrusted_ = true;
  }
  bool distrusted() const { return distrusted_; }
  bool coming() const { return coming_; }
  const HotOffer& offer() const { return offer_; }
  bool empty() const { return pages_.empty(); }
  uint64_t bytes_here() const { return bytes_here_; }

  // Returns up to which byte the pack must arrive for that page: 0 if it arrived and may be served,
  // nullopt if it does not come.
  std::optional<uint64_t> ComesWith(uint64_t page) const;
  bool Provides(ByteRange range) const;  // whether any page of it may be served, or is coming
  void SetHere(ByteRange range);  // of the data file; pages that are not expected are ignored
  // The data file no longer has the pages that `range` is part of.
  void Forget(ByteRange range);
  // Returns the parts of `range` that came with a pack, in order.
  std::vector<ByteRange> Here(ByteRange range) const;
  // A page was served. Until then no reader has seen any byte of a pack.
  void SetServed() { served_ = true; }
  bool served() const { return served_; }

 private:
  struct Page {
    uint64_t comes_with = 0;
    bool here = false, earlier = false;
  };

  HotOffer offer_;
  bool coming_ = false, distrusted_ = false, served_ = false;
  absl::flat_hash_map<uint64_t, Page> pages_;
  uint64_t bytes_here_ = 0;
};

}  // namespace imagefs
