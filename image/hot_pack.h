// SPDX-License-Identifier: Apache-2.0
// The hot pack of an image: the pages that its first run touched, in the order of their first
// touch, compressed in frames that are usable one by one while the pack is still being received.
// docs/formats/published.md specifies the format. Pure. Hostile input yields an error, never a
// crash or memory use beyond the limits below.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/byte_range.h"
#include "base/digest.h"
#include "image/manifest.h"

namespace imagefs {

inline constexpr std::string_view kHotPackMediaType = "application/vnd.imagefs.hot-pack.v1";
// Annotations of the pack's descriptor: digest and size of its header, so that the header is
// authentic before anything that follows it is used.
inline constexpr std::string_view kPackHeaderAnnotation = "dev.imagefs.header";
inline constexpr std::string_view kPackHeaderBytesAnnotation = "dev.imagefs.header-bytes";

inline constexpr uint64_t kHotPageBytes = 4096;           // of a data file
inline constexpr uint64_t kMaxPackBytes = 160 << 20;      // as published
inline constexpr uint64_t kMaxPackDataBytes = 128 << 20;  // unpacked
inline constexpr uint64_t kMaxPackHeaderBytes = 1 << 20;
// As published, for layers whose blobs have so many bytes: beyond that, a profile costs no more.
constexpr uint64_t MaxHotPackBytes(uint64_t blob_bytes) {
  return std::min(kMaxPackBytes, std::max<uint64_t>(1 << 20, blob_bytes / 4));
}
inline constexpr uint64_t kMaxPackFrameBytes = 1 << 20;  // unpacked

// How an artifact names its pack. A value type.
struct PublishedHotPack {
  Descriptor blob;
  Digest header;
  uint64_t header_bytes = 0;
};
// Returns what an entry of the artifact's `layers` with that media type says; kDataLoss if its
// annotations are wrong.
absl::StatusOr<PublishedHotPack> ParsePublishedHotPack(const Descriptor& blob);

// What a header says. A value type.
struct HotPack {
  struct Layer {
    Digest diff_id;
    uint64_t data_bytes = 0;  // of the data file that the pages are of
  };
  struct Piece {
    uint32_t layer = 0;  // in `layers`
    ByteRange range;     // of the data file: whole pages, the last one cut at the file's end
  };
  struct Frame {
    uint32_t first = 0, last = 0;  // pieces [first, last): in this order in the frame
    ByteRange blob;                // of the pack
    uint64_t data_bytes = 0;       // unpacked
    Digest digest;                 // of the unpacked bytes
  };
  std::vector<Layer> layers;
  std::vector<Piece> pieces;  // no page twice
  std::vector<Frame> frames;  // in the order of first touch, adjacent in the pack
  uint64_t data_bytes = 0;    // of all pieces

  // `header`: the pack's first bytes, up to the first frame. `pack_bytes`: the size of the pack.
  static absl::StatusOr<HotPack> Parse(std::string_view header, uint64_t pack_bytes);
};

// Returns the unpacked bytes of a frame once they have its digest; kDataLoss if they do not.
absl::StatusOr<std::string> UnpackHotFrame(const HotPack::Frame& frame, std::string_view packed);

// Reads bytes of the data file of a layer; fills all of `out`.
using ReadHotBytes =
    absl::FunctionRef<absl::Status(uint32_t layer, uint64_t offset, absl::Span<char> out)>;

struct PackedHotPack {
  std::string bytes;
  uint64_t header_bytes = 0, data_bytes = 0;
};
// Makes a pack of the pages of `parts`, which are in the order of their first touch and may be of
// any size and overlap. What exceeds `max_data_bytes`, or the limits above, is left out at the end.
// `bytes` is empty if there is nothing to pack. Fails only if `read` does.
absl::StatusOr<PackedHotPack> PackHotPages(const std::vector<HotPack::Layer>& layers,
                                           const std::vector<HotPack::Piece>& parts,
                                           uint64_t max_data_bytes, ReadHotBytes read);

}  // namespace imagefs
