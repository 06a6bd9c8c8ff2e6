// SPDX-License-Identifier: Apache-2.0
#include "cache/hot_pages.h"

#include <algorithm>

namespace imagefs {
namespace {

uint64_t FirstPage(ByteRange range) { return range.begin / kHotPageBytes; }
uint64_t EndPage(ByteRange range) { return (range.end + kHotPageBytes - 1) / kHotPageBytes; }

}  // namespace

void HotPages::SetEarlier(ByteRange range) {
  for (uint64_t page = FirstPage(range); page < EndPage(range); ++page) {
    if (pages_.try_emplace(page, Page{0, true, true}).second) bytes_here_ += kHotPageBytes;
  }
  served_ = true;
}

bool HotPages::Expect(HotOffer offer, uint32_t layer,
                      absl::FunctionRef<bool(ByteRange page)> present) {
  for (const HotPack::Frame& frame : offer.pack->frames) {
    for (uint32_t i = frame.first; i < frame.last; ++i) {
      const HotPack::Piece& piece = offer.pack->pieces[i];
      if (piece.layer != layer) continue;
      for (uint64_t page = FirstPage(piece.range); page < EndPage(piece.range); ++page) {
        const ByteRange range = {page * kHotPageBytes,
                                 std::min((page + 1) * kHotPageBytes, piece.range.end)};
        if (!present(range)) coming_ |= pages_.try_emplace(page, Page{frame.blob.end}).second;
      }
    }
  }
  if (coming_) offer_ = std::move(offer);
  return coming_;
}

void HotPages::EndComing() {
  if (!std::exchange(coming_, false)) return;
  absl::erase_if(pages_, [](const auto& one) { return !one.second.here; });
  offer_.arrival.reset();
  offer_.pack.reset();
}

std::optional<uint64_t> HotPages::ComesWith(uint64_t page) const {
  const auto it = pages_.find(page);
  if (it == pages_.end() || it->second.earlier || distrusted_) return std::nullopt;
  return it->second.here ? 0 : it->second.comes_with;
}

bool HotPages::Provides(ByteRange range) const {
  for (uint64_t page = FirstPage(range); page < EndPage(range) && !pages_.empty(); ++page) {
    if (ComesWith(page).has_value()) return true;
  }
  return false;
}

void HotPages::SetHere(ByteRange range) {
  for (uint64_t page = FirstPage(range); page < EndPage(range); ++page) {
    const auto it = pages_.find(page);
    if (it == pages_.end() || std::exchange(it->second.here, true)) continue;
    bytes_here_ += kHotPageBytes;
  }
}

void HotPages::Forget(ByteRange range) {
  for (uint64_t page = FirstPage(range); page < EndPage(range) && !pages_.empty(); ++page) {
    const auto it = pages_.find(page);
    if (it == pages_.end()) continue;
    if (it->second.here) bytes_here_ -= kHotPageBytes;
    pages_.erase(it);
  }
}

std::vector<ByteRange> HotPages::Here(ByteRange range) const {
  std::vector<ByteRange> out;
  if (pages_.empty()) return out;
  for (uint64_t page = FirstPage(range); page < EndPage(range); ++page) {
    const auto it = pages_.find(page);
    if (it == pages_.end() || !it->second.here) continue;
    const ByteRange part = {std::max(range.begin, page * kHotPageBytes),
                            std::min(range.end, (page + 1) * kHotPageBytes)};
    if (!out.empty() && out.back().end == part.begin) {
      out.back().end = part.end;
    } else {
      out.push_back(part);
    }
  }
  return out;
}

}  // namespace imagefs
