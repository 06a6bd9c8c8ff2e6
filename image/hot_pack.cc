// SPDX-License-Identifier: Apache-2.0
#include "image/hot_pack.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "base/little_endian.h"
#include "base/status.h"
#include "base/text.h"
#include "image/manifest.h"
#include "image/raw_digest.h"
#include "image/zstd_frame.h"

namespace imagefs {
namespace {

constexpr std::string_view kMagic = "imgfspak";
constexpr uint32_t kVersion = 1;
constexpr size_t kFixedBytes = 24, kLayerBytes = 40, kPieceBytes = 8, kFrameBytes = 40;
constexpr uint64_t kMaxDataFileBytes = uint64_t{1} << 44;  // page numbers have 32 bits
constexpr int kLevel = 15;
// Unpacked bytes of the frames that are made. The first ones are smaller: a program waits for them.
constexpr std::array<uint64_t, 3> kFirstFrames = {32 << 10, 64 << 10, 128 << 10};
constexpr uint64_t kOtherFrames = 192 << 10;

uint64_t PagesOf(ByteRange range) {
  return (range.end - range.begin + kHotPageBytes - 1) / kHotPageBytes;
}

absl::Status ParsePieces(std::string_view records, HotPack& pack) {
  for (size_t at = 0; at < records.size(); at += kPieceBytes) {
    const uint64_t page = GetLittleEndian<uint32_t>(records, at);
    const uint64_t pages = GetLittleEndian<uint16_t>(records, at + 4);
    const uint32_t layer = GetLittleEndian<uint16_t>(records, at + 6);
    if (layer >= pack.layers.size()) return absl::DataLossError("a hot pack of an unknown layer");
    const uint64_t begin = page * kHotPageBytes, data_bytes = pack.layers[layer].data_bytes;
    if (pages == 0 || begin >= data_bytes || (pages - 1) * kHotPageBytes >= data_bytes - begin) {
      return absl::DataLossError("a hot pack with pages outside of their layer");
    }
    const uint64_t end = std::min(begin + pages * kHotPageBytes, data_bytes);
    pack.data_bytes += end - begin;
    if (pack.data_bytes > kMaxPackDataBytes) {
      return absl::ResourceExhaustedError("a hot pack with too many pages");
    }
    pack.pieces.push_back({layer, {begin, end}});
  }
  std::vector<HotPack::Piece> sorted = pack.pieces;
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
    return std::pair(a.layer, a.range.begin) < std::pair(b.layer, b.range.begin);
  });
  for (size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i].layer == sorted[i - 1].layer && sorted[i].range.begin < sorted[i - 1].range.end) {
      return absl::DataLossError("a hot pack with a page twice");
    }
  }
  return absl::OkStatus();
}

absl::Status ParseFrames(std::string_view records, uint64_t header_bytes, uint64_t pack_bytes,
                         HotPack& pack) {
  uint64_t at_blob = header_bytes;
  uint32_t piece = 0;
  for (size_t at = 0; at < records.size(); at += kFrameBytes) {
    HotPack::Frame frame;
    const uint64_t pieces = GetLittleEndian<uint32_t>(records, at);
    const uint64_t packed = GetLittleEndian<uint32_t>(records, at + 4);
    frame.digest = GetDigest(records, at + 8);
    if (pieces == 0 || pieces > pack.pieces.size() - piece || packed == 0 ||
        packed > pack_bytes - at_blob) {
      return absl::DataLossError("a hot pack with an impossible frame");
    }
    frame.first = piece;
    frame.last = piece += static_cast<uint32_t>(pieces);
    for (uint32_t i = frame.first; i < frame.last; ++i) {
      frame.data_bytes += pack.pieces[i].range.size();
    }
    if (frame.data_bytes > kMaxPackFrameBytes) {
      return absl::ResourceExhaustedError("a hot pack with a frame that is too large");
    }
    frame.blob = {at_blob, at_blob + packed};
    at_blob = frame.blob.end;
    pack.frames.push_back(frame);
  }
  if (piece != pack.pieces.size() || at_blob != pack_bytes) {
    return absl::DataLossError("a hot pack with bytes that belong to no frame");
  }
  return absl::OkStatus();
}

// Pages of `parts` that are not in an earlier one, as pieces of at most one frame, up to the limit.
std::vector<HotPack::Piece> DistinctPages(const std::vector<HotPack::Layer>& layers,
                                          const std::vector<HotPack::Piece>& parts,
                                          uint64_t max_data_bytes) {
  // Few enough for a header whatever the frames are: each has at least one piece.
  const size_t most = (kMaxPackHeaderBytes - kFixedBytes - layers.size() * kLayerBytes) /
                      (kPieceBytes + kFrameBytes);
  std::vector<HotPack::Piece> out;
  absl::flat_hash_set<std::pair<uint32_t, uint64_t>> seen;
  uint64_t total = 0;
  for (const HotPack::Piece& part : parts) {
    if (part.layer >= layers.size()) continue;
    const uint64_t data_bytes = layers[part.layer].data_bytes;
    const uint64_t end = std::min(part.range.end, data_bytes);
    for (uint64_t page = part.range.begin / kHotPageBytes; page * kHotPageBytes < end; ++page) {
      if (!seen.insert({part.layer, page}).second) continue;
      const ByteRange range = {page * kHotPageBytes,
                               std::min((page + 1) * kHotPageBytes, data_bytes)};
      if (total + range.size() > max_data_bytes) return out;
      total += range.size();
      HotPack::Piece* last = out.empty() ? nullptr : &out.back();
      if (last != nullptr && last->layer == part.layer && last->range.end == range.begin &&
          last->range.size() < kFirstFrames[0]) {
        last->range.end = range.end;
        continue;
      }
      if (out.size() == most) return out;
      out.push_back({part.layer, range});
    }
  }
  return out;
}

// Groups pieces into frames. Inside a frame they are sorted, which compresses and is written
// better, and adjacent ones are joined.
void MakeFrames(const std::vector<HotPack::Piece>& touched, HotPack& pack) {
  for (size_t at = 0; at < touched.size();) {
    const size_t number = pack.frames.size();
    const uint64_t target = number < kFirstFrames.size() ? kFirstFrames[number] : kOtherFrames;
    size_t end = at;
    uint64_t bytes = 0;
    while (end < touched.size() && (end == at || bytes + touched[end].range.size() <= target)) {
      bytes += touched[end++].range.size();
    }
    std::vector<HotPack::Piece> pieces(touched.begin() + static_cast<ptrdiff_t>(at),
                                       touched.begin() + static_cast<ptrdiff_t>(end));
    std::sort(pieces.begin(), pieces.end(), [](const auto& a, const auto& b) {
      return std::pair(a.layer, a.range.begin) < std::pair(b.layer, b.range.begin);
    });
    HotPack::Frame frame;
    frame.first = static_cast<uint32_t>(pack.pieces.size());
    frame.data_bytes = bytes;
    for (const HotPack::Piece& piece : pieces) {
      const bool joins = pack.pieces.size() > frame.first &&
                         pack.pieces.back().layer == piece.layer &&
                         pack.pieces.back().range.end == piece.range.begin;
      joins ? void(pack.pieces.back().range.end = piece.range.end) : pack.pieces.push_back(piece);
    }
    frame.last = static_cast<uint32_t>(pack.pieces.size());
    pack.frames.push_back(frame);
    pack.data_bytes += bytes;
    at = end;
  }
}

std::string WriteHeader(const HotPack& pack) {
  std::string out(kMagic);
  PutLittleEndian<uint32_t>(out, kVersion);
  PutLittleEndian<uint32_t>(out, static_cast<uint32_t>(pack.layers.size()));
  PutLittleEndian<uint32_t>(out, static_cast<uint32_t>(pack.pieces.size()));
  PutLittleEndian<uint32_t>(out, static_cast<uint32_t>(pack.frames.size()));
  for (const HotPack::Layer& layer : pack.layers) {
    PutDigest(out, layer.diff_id);
    PutLittleEndian<uint64_t>(out, layer.data_bytes);
  }
  for (const HotPack::Piece& piece : pack.pieces) {
    PutLittleEndian<uint32_t>(out, static_cast<uint32_t>(piece.range.begin / kHotPageBytes));
    PutLittleEndian<uint16_t>(out, static_cast<uint16_t>(PagesOf(piece.range)));
    PutLittleEndian<uint16_t>(out, static_cast<uint16_t>(piece.layer));
  }
  for (const HotPack::Frame& frame : pack.frames) {
    PutLittleEndian<uint32_t>(out, frame.last - frame.first);
    PutLittleEndian<uint32_t>(out, static_cast<uint32_t>(frame.blob.size()));
    PutDigest(out, frame.digest);
  }
  return out;
}

}  // namespace

absl::StatusOr<PublishedHotPack> ParsePublishedHotPack(const Descriptor& blob) {
  PublishedHotPack out;
  out.blob = blob;
  const auto digest = blob.annotations.find(std::string(kPackHeaderAnnotation));
  const auto bytes = blob.annotations.find(std::string(kPackHeaderBytesAnnotation));
  std::optional<uint64_t> header_bytes;
  if (bytes != blob.annotations.end()) header_bytes = ParseDecimal(bytes->second);
  if (digest == blob.annotations.end() || !header_bytes.has_value()) {
    return absl::DataLossError("a hot pack without the digest and size of its header");
  }
  out.header_bytes = *header_bytes;
  IMAGEFS_ASSIGN_OR_RETURN(out.header, Digest::Parse(digest->second));
  if (out.header_bytes > kMaxPackHeaderBytes || blob.size > kMaxPackBytes ||
      out.header_bytes > blob.size) {
    return absl::ResourceExhaustedError("a hot pack that is too large");
  }
  return out;
}

absl::StatusOr<HotPack> HotPack::Parse(std::string_view header, uint64_t pack_bytes) {
  if (header.size() > kMaxPackHeaderBytes || pack_bytes > kMaxPackBytes ||
      header.size() > pack_bytes) {
    return absl::ResourceExhaustedError("a hot pack that is too large");
  }
  if (header.size() < kFixedBytes || !header.starts_with(kMagic) ||
      GetLittleEndian<uint32_t>(header, 8) != kVersion) {
    return absl::DataLossError("a hot pack of an unknown format");
  }
  const uint64_t layers = GetLittleEndian<uint32_t>(header, 12);
  const uint64_t pieces = GetLittleEndian<uint32_t>(header, 16);
  const uint64_t frames = GetLittleEndian<uint32_t>(header, 20);
  // 32-bit numbers: none of these products overflows.
  const uint64_t pieces_at = kFixedBytes + layers * kLayerBytes;
  const uint64_t frames_at = pieces_at + pieces * kPieceBytes;
  if (layers > kMaxLayers || frames_at + frames * kFrameBytes != header.size()) {
    return absl::DataLossError("a hot pack whose header has another size than it says");
  }
  HotPack pack;
  for (uint64_t i = 0; i < layers; ++i) {
    const size_t at = kFixedBytes + i * kLayerBytes;
    pack.layers.push_back(
        {GetDigest(header, at), GetLittleEndian<uint64_t>(header, at + Digest::kSize)});
    if (pack.layers.back().data_bytes > kMaxDataFileBytes) {
      return absl::DataLossError("a hot pack of a layer that is too large");
    }
  }
  IMAGEFS_RETURN_IF_ERROR(ParsePieces(header.substr(pieces_at, pieces * kPieceBytes), pack));
  IMAGEFS_RETURN_IF_ERROR(ParseFrames(header.substr(frames_at), header.size(), pack_bytes, pack));
  return pack;
}

absl::StatusOr<std::string> UnpackHotFrame(const HotPack::Frame& frame, std::string_view packed) {
  IMAGEFS_ASSIGN_OR_RETURN(std::string bytes, DecompressZstd(packed, frame.data_bytes));
  if (bytes.size() != frame.data_bytes || Sha256Of(bytes) != frame.digest) {
    return absl::DataLossError("a frame of a hot pack does not have its digest");
  }
  return bytes;
}

absl::StatusOr<PackedHotPack> PackHotPages(const std::vector<HotPack::Layer>& layers,
                                           const std::vector<HotPack::Piece>& parts,
                                           uint64_t max_data_bytes, ReadHotBytes read) {
  HotPack pack;
  pack.layers = layers;
  MakeFrames(DistinctPages(layers, parts, std::min(max_data_bytes, kMaxPackDataBytes)), pack);
  PackedHotPack out;
  if (pack.frames.empty()) return out;
  std::string frames;
  for (HotPack::Frame& frame : pack.frames) {
    std::string plain(frame.data_bytes, '\0');
    uint64_t at = 0;
    for (uint32_t i = frame.first; i < frame.last; ++i) {
      const HotPack::Piece& piece = pack.pieces[i];
      IMAGEFS_RETURN_IF_ERROR(
          read(piece.layer, piece.range.begin, absl::MakeSpan(&plain[at], piece.range.size())));
      at += piece.range.size();
    }
    frame.digest = Sha256Of(plain);
    const std::string packed = CompressZstd(plain, kLevel);
    frame.blob = {frames.size(), frames.size() + packed.size()};
    frames += packed;
  }
  out.bytes = WriteHeader(pack);
  out.header_bytes = out.bytes.size();
  out.bytes += frames;
  out.data_bytes = pack.data_bytes;
  return out;
}

}  // namespace imagefs
