// SPDX-License-Identifier: Apache-2.0
#include "image/hot_pack.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/little_endian.h"
#include "base/text.h"
#include "image/zstd_frame.h"

namespace imagefs {
namespace {

constexpr uint64_t kPage = kHotPageBytes;

char ByteAt(uint32_t layer, uint64_t offset) {
  return static_cast<char>(layer * 31 + offset / 512 * 7 + offset % 13);
}

absl::Status Read(uint32_t layer, uint64_t offset, absl::Span<char> out) {
  for (size_t i = 0; i < out.size(); ++i) out[i] = ByteAt(layer, offset + i);
  return absl::OkStatus();
}

class HotPackTest : public ::testing::Test {
 protected:
  PackedHotPack Pack(const std::vector<HotPack::Piece>& parts, uint64_t most = UINT64_MAX) const {
    auto packed = PackHotPages(layers_, parts, most, Read);
    EXPECT_TRUE(packed.ok()) << packed.status();
    return *std::move(packed);
  }
  static absl::StatusOr<HotPack> Parse(const PackedHotPack& packed) {
    return HotPack::Parse(std::string_view(packed.bytes).substr(0, packed.header_bytes),
                          packed.bytes.size());
  }
  // Two pieces in one frame: layer 0, page 3, and layer 1, its last page, which is cut.
  PackedHotPack Two() const { return Pack({{0, {3 * kPage, 4 * kPage}}, {1, {kPage, kPage + 1}}}); }
  static absl::Status Changed(PackedHotPack packed, size_t at, const std::string& bytes) {
    packed.bytes.replace(at, bytes.size(), bytes);
    return Parse(packed).status();
  }
  template <typename T>
  static std::string Number(T value) {
    std::string out;
    PutLittleEndian<T>(out, value);
    return out;
  }

  const std::vector<HotPack::Layer> layers_ = {{Sha256Of("a"), 1000 * kPage},
                                               {Sha256Of("b"), kPage + 512}};
  static constexpr size_t kPiecesAt = 24 + 2 * 40, kFramesAt = kPiecesAt + 2 * 8;
};

TEST_F(HotPackTest, EachTouchedPageIsThereOnceInTheOrderOfItsTouch) {
  const PackedHotPack packed = Pack({{0, {100 * kPage + 5, 101 * kPage + 1}},
                                     {1, {kPage, kPage + 1}},
                                     {0, {0, 200 * kPage}},
                                     {0, {3 * kPage, 4 * kPage}}});
  const auto pack = Parse(packed);
  ASSERT_TRUE(pack.ok()) << pack.status();
  EXPECT_EQ(pack->data_bytes, 200 * kPage + 512);
  EXPECT_EQ(packed.data_bytes, pack->data_bytes);
  EXPECT_LT(pack->frames[0].data_bytes, pack->frames.back().data_bytes * 8);
  EXPECT_LE(pack->frames[0].data_bytes, uint64_t{32} << 10);
  std::map<std::pair<uint32_t, uint64_t>, size_t> frame_of;
  for (size_t i = 0; i < pack->frames.size(); ++i) {
    const HotPack::Frame& frame = pack->frames[i];
    const auto bytes = UnpackHotFrame(
        frame, std::string_view(packed.bytes).substr(frame.blob.begin, frame.blob.size()));
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    size_t at = 0;
    for (uint32_t p = frame.first; p < frame.last; ++p) {
      const HotPack::Piece& piece = pack->pieces[p];
      for (uint64_t offset = piece.range.begin; offset < piece.range.end; ++offset) {
        ASSERT_EQ((*bytes)[at++], ByteAt(piece.layer, offset));
        if (offset % kPage == 0) frame_of[{piece.layer, offset / kPage}] = i;
      }
    }
    EXPECT_EQ(at, bytes->size());
  }
  EXPECT_EQ(frame_of.size(), 201U);
  EXPECT_EQ((frame_of[{0, 100}]), 0U);
  EXPECT_EQ((frame_of[{0, 101}]), 0U);
  EXPECT_EQ((frame_of[{1, 1}]), 0U);
  EXPECT_LT((frame_of[{0, 3}]), (frame_of[{0, 199}]));
}

TEST_F(HotPackTest, WhatExceedsTheLimitIsLeftOutAtTheEnd) {
  const auto pack =
      Parse(Pack({{0, {500 * kPage, 510 * kPage}}, {0, {0, 400 * kPage}}}, 20 * kPage));
  ASSERT_TRUE(pack.ok());
  EXPECT_EQ(pack->data_bytes, 20 * kPage);
  bool first = false, eleventh = false;
  for (const HotPack::Piece& piece : pack->pieces) {
    first |= piece.range.begin == 500 * kPage;
    eleventh |= piece.range.begin <= 10 * kPage && piece.range.end > 10 * kPage;
  }
  EXPECT_TRUE(first);
  EXPECT_FALSE(eleventh);
  EXPECT_EQ(Pack({}).bytes, "");
  EXPECT_EQ(Pack({{7, {0, 1}}}).bytes, "");
}

TEST_F(HotPackTest, SinglePagesFarApartFitIntoAHeader) {
  std::vector<HotPack::Piece> parts;
  for (uint64_t page = 0; page < 40'000; ++page)
    parts.push_back({0, {page * 2 * kPage, page * 2 * kPage + 1}});
  const std::vector<HotPack::Layer> large = {{Sha256Of("a"), 100'000 * kPage}};
  const auto packed =
      PackHotPages(large, parts, UINT64_MAX, [](uint32_t, uint64_t, absl::Span<char> out) {
        std::fill(out.begin(), out.end(), '\0');
        return absl::OkStatus();
      });
  ASSERT_TRUE(packed.ok());
  EXPECT_LE(packed->header_bytes, kMaxPackHeaderBytes);
  EXPECT_TRUE(Parse(*packed).ok()) << Parse(*packed).status();
}

TEST_F(HotPackTest, AFrameThatIsNotWhatTheHeaderSaysIsRefused) {
  const PackedHotPack packed = Two();
  const HotPack pack = *Parse(packed);
  const HotPack::Frame& frame = pack.frames[0];
  const std::string_view bytes = std::string_view(packed.bytes).substr(frame.blob.begin);
  ASSERT_TRUE(UnpackHotFrame(frame, bytes).ok());
  EXPECT_FALSE(UnpackHotFrame(frame, bytes.substr(1)).ok());
  EXPECT_FALSE(UnpackHotFrame(frame, CompressZstd(std::string(frame.data_bytes, 'x'), 3)).ok());
  // A bomb: it unpacks to more than the header says, and nothing of that is made.
  EXPECT_TRUE(absl::IsResourceExhausted(
      UnpackHotFrame(frame, CompressZstd(std::string(32 << 20, '\0'), 3)).status()));
}

TEST_F(HotPackTest, HeadersThatLieAreRefused) {
  const PackedHotPack packed = Two();
  ASSERT_TRUE(Parse(packed).ok());
  ASSERT_EQ(packed.header_bytes, kFramesAt + 40);
  EXPECT_FALSE(Changed(packed, 0, "X").ok());
  EXPECT_FALSE(Changed(packed, 8, Number<uint32_t>(2)).ok());  // the version
  for (const size_t count : {12, 16, 20}) {
    EXPECT_FALSE(Changed(packed, count, Number<uint32_t>(0)).ok());
    EXPECT_FALSE(Changed(packed, count, Number<uint32_t>(UINT32_MAX)).ok());
  }
  EXPECT_FALSE(Changed(packed, 24 + 32, Number<uint64_t>(UINT64_MAX)).ok());  // a data file's size
  EXPECT_FALSE(Changed(packed, kPiecesAt, Number<uint32_t>(1000)).ok());      // outside
  EXPECT_FALSE(Changed(packed, kPiecesAt, Number<uint32_t>(UINT32_MAX)).ok());
  EXPECT_FALSE(Changed(packed, kPiecesAt + 4, Number<uint16_t>(0)).ok());  // of nothing
  EXPECT_FALSE(Changed(packed, kPiecesAt + 4, Number<uint16_t>(998)).ok());
  EXPECT_FALSE(Changed(packed, kPiecesAt + 6, Number<uint16_t>(2)).ok());  // no such layer
  // The second piece becomes the first one's page.
  EXPECT_FALSE(Changed(packed, kPiecesAt + 8, packed.bytes.substr(kPiecesAt, 8)).ok());
  EXPECT_FALSE(Changed(packed, kFramesAt, Number<uint32_t>(1)).ok());  // a piece is left over
  EXPECT_FALSE(Changed(packed, kFramesAt, Number<uint32_t>(3)).ok());
  EXPECT_FALSE(Changed(packed, kFramesAt + 4, Number<uint32_t>(1)).ok());  // bytes are left over
  EXPECT_FALSE(Changed(packed, kFramesAt + 4, Number<uint32_t>(UINT32_MAX)).ok());
  // 257 pages in one frame.
  EXPECT_TRUE(absl::IsResourceExhausted(Changed(packed, kPiecesAt + 4, Number<uint16_t>(257))));
  EXPECT_FALSE(HotPack::Parse("", 0).ok());
  EXPECT_FALSE(HotPack::Parse(packed.bytes.substr(0, packed.header_bytes), 10).ok());
  EXPECT_FALSE(HotPack::Parse(packed.bytes.substr(0, packed.header_bytes), kMaxPackBytes + 1).ok());
}

}  // namespace
}  // namespace imagefs
