// SPDX-License-Identifier: Apache-2.0
#include "image/decompress.h"

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "base/byte_budget.h"
#include "base/text.h"

namespace imagefs {
namespace {

// Partly random, so that blocks of every type occur.
std::string Sample(size_t size) {
  std::mt19937 random(7);
  std::string data;
  while (data.size() < size) {
    if (random() % 4 == 0) {
      for (int i = 0; i < 300; ++i) data.push_back(static_cast<char>(random()));
    } else {
      data += "the quick brown fox jumps over the lazy dog " + std::to_string(random() % 1000);
    }
  }
  data.resize(size);
  return data;
}

std::string Gzip(std::string_view data, int level = 6) {
  z_stream stream = {};
  EXPECT_EQ(deflateInit2(&stream, level, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, data.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
  stream.avail_in = static_cast<uInt>(data.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// A gzip header with name, comment, extra field and header checksum.
std::string GzipWithAllFields(std::string_view data) {
  z_stream stream = {};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string extra, name = "layer.tar", comment = "comment";
  extra = std::string("ab\4\0wxyz", 8);
  gz_header header = {};
  header.extra = reinterpret_cast<Bytef*>(extra.data());
  header.extra_len = static_cast<uInt>(extra.size());
  header.name = reinterpret_cast<Bytef*>(name.data());
  header.comment = reinterpret_cast<Bytef*>(comment.data());
  header.hcrc = 1;
  EXPECT_EQ(deflateSetHeader(&stream, &header), Z_OK);
  std::string out(deflateBound(&stream, data.size()) + 100, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
  stream.avail_in = static_cast<uInt>(data.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string Zstd(std::string_view data, int window_log = 0) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  if (window_log != 0) {
    ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window_log);
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
  }
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  std::string out(ZSTD_compressBound(data.size()), '\0');
  ZSTD_inBuffer in = {data.data(), data.size(), 0};
  ZSTD_outBuffer to = {out.data(), out.size(), 0};
  // Flushed first, so that the frame does not declare its size and keeps the requested window.
  EXPECT_EQ(ZSTD_compressStream2(context, &to, &in, ZSTD_e_flush), 0u);
  EXPECT_EQ(ZSTD_compressStream2(context, &to, &in, ZSTD_e_end), 0u);
  ZSTD_freeCCtx(context);
  out.resize(to.pos);
  return out;
}

absl::StatusOr<std::string> Decompress(LayerCompression compression, std::string_view in,
                                       size_t in_piece = 1 << 20, size_t out_piece = 1 << 16) {
  auto decompressor = Decompressor::Create(compression);
  if (!decompressor.ok()) return decompressor.status();
  std::string out, buffer(out_piece, '\0');
  while (true) {
    const std::string piece(
        in.substr(0, in_piece));  // a copy, so that ASan detects reads past its end
    const auto step = (*decompressor)->Run(piece, absl::MakeSpan(buffer.data(), buffer.size()));
    if (!step.ok()) return step.status();
    out.append(buffer, 0, step->produced);
    in.remove_prefix(step->consumed);
    if (in.empty() && step->produced < buffer.size()) break;
    if (step->consumed == 0 && step->produced == 0) return absl::InternalError("no progress");
  }
  const absl::Status finished = (*decompressor)->Finish();
  if (!finished.ok()) return finished;
  return out;
}

void ExpectLoss(LayerCompression compression, std::string_view in, std::string_view what) {
  const auto out = Decompress(compression, in);
  EXPECT_EQ(out.status().code(), absl::StatusCode::kDataLoss) << out.status();
  EXPECT_NE(
      std::string_view(out.status().message().data(), out.status().message().size()).find(what),
      std::string_view::npos)
      << out.status();
}

TEST(DecompressTest, Sniff) {
  EXPECT_EQ(SniffCompression(Gzip("x").substr(0, 6)), LayerCompression::kGzip);
  EXPECT_EQ(SniffCompression(Zstd("x").substr(0, 6)), LayerCompression::kZstd);
  EXPECT_EQ(SniffCompression(std::string_view("\x5a\x2a\x4d\x18\0\0", 6)), LayerCompression::kZstd);
  EXPECT_EQ(SniffCompression("etc/pa"), LayerCompression::kNone);
  EXPECT_EQ(SniffCompression(""), LayerCompression::kNone);
  EXPECT_EQ(SniffCompression("\x1f"), LayerCompression::kNone);
}

TEST(DecompressTest, PiecesOfEverySize) {
  const std::string data = Sample(100'000);
  for (const auto& [compression, bytes] : std::vector<std::pair<LayerCompression, std::string>>{
           {LayerCompression::kGzip, Gzip(data)},
           {LayerCompression::kGzip, Gzip(data, 1)},
           {LayerCompression::kGzip, Gzip(data, 0)},
           {LayerCompression::kGzip, GzipWithAllFields(data)},
           {LayerCompression::kZstd, Zstd(data)},
           {LayerCompression::kNone, data}}) {
    for (size_t in_piece : {1, 3, 17, 1000, 1 << 20}) {
      for (size_t out_piece : {1, 13, 4096, 1 << 20}) {
        const auto out = Decompress(compression, bytes, in_piece, out_piece);
        ASSERT_TRUE(out.ok()) << out.status() << " " << in_piece << " " << out_piece;
        ASSERT_TRUE(*out == data);
      }
    }
  }
}

TEST(DecompressTest, ManyMembersAndPadding) {
  const std::string a = Sample(5000), b = "b", c;
  for (size_t in_piece : {1, 2, 5, 1 << 20}) {
    std::string bytes = Gzip(a) + Gzip(b) + Gzip(c) + GzipWithAllFields(a);
    auto out = Decompress(LayerCompression::kGzip, bytes, in_piece);
    ASSERT_TRUE(out.ok()) << out.status();
    EXPECT_TRUE(*out == a + b + a);
    out = Decompress(LayerCompression::kGzip, bytes + std::string(700, '\0'), in_piece);
    ASSERT_TRUE(out.ok()) << out.status();
    EXPECT_TRUE(*out == a + b + a);
    const std::string skippable("\x51\x2a\x4d\x18\3\0\0\0abc", 11);
    bytes = skippable + Zstd(a) + skippable + Zstd(b) + Zstd(c) + skippable;
    out = Decompress(LayerCompression::kZstd, bytes, in_piece);
    ASSERT_TRUE(out.ok()) << out.status();
    EXPECT_TRUE(*out == a + b);
  }
}

TEST(DecompressTest, GarbageBehindTheEnd) {
  ExpectLoss(LayerCompression::kGzip, Gzip("x") + "garbage behind it", "corrupt");
  ExpectLoss(LayerCompression::kGzip, Gzip("x") + std::string(10, '\0') + "g", "padding");
  ExpectLoss(LayerCompression::kZstd, Zstd("x") + "garbage behind it", "corrupt");
}

TEST(DecompressTest, EveryTruncationIsSeen) {
  const std::string gzip = Gzip(Sample(2000)), zstd = Zstd(Sample(2000));
  for (size_t size = 0; size < gzip.size(); ++size) {
    ExpectLoss(LayerCompression::kGzip, std::string_view(gzip).substr(0, size), "truncated");
  }
  for (size_t size = 0; size < zstd.size(); ++size) {
    ExpectLoss(LayerCompression::kZstd, std::string_view(zstd).substr(0, size), "truncated");
  }
}

TEST(DecompressTest, ChecksumAndLengthAreChecked) {
  std::string bytes = Gzip(Sample(2000));
  for (size_t back = 1; back <= 8; ++back) {
    std::string bad = bytes;
    bad[bad.size() - back] ^= 1;
    ExpectLoss(LayerCompression::kGzip, bad, "corrupt");
  }
  bytes = Zstd(Sample(2000));
  bytes.back() ^= 1;
  ExpectLoss(LayerCompression::kZstd, bytes, "corrupt");
}

TEST(DecompressTest, CorruptInput) {
  ExpectLoss(LayerCompression::kGzip, "this is not gzip at all", "corrupt");
  ExpectLoss(LayerCompression::kZstd, "this is not zstd at all", "corrupt");
  ExpectLoss(LayerCompression::kGzip, "", "truncated");
  ExpectLoss(LayerCompression::kZstd, "", "truncated");
  const std::string good = Gzip(Sample(20'000));
  for (size_t at = 10; at < good.size(); at += 101) {
    std::string bad = good;
    bad[at] ^= 0x10;
    EXPECT_FALSE(Decompress(LayerCompression::kGzip, bad).ok()) << at;
  }
}

// A frame with one raw block whose header requests a window of 2^log bytes.
std::string RawFrame(int window_log, std::string_view data) {
  std::string frame("\x28\xb5\x2f\xfd\0", 5);
  frame += static_cast<char>((window_log - 10) << 3);
  const size_t block = data.size() << 3 | 1;
  for (int shift : {0, 8, 16}) frame += static_cast<char>(block >> shift & 0xff);
  return frame.append(data);
}

TEST(DecompressTest, TheWindowOfZstdIsBounded) {
  for (int log : {10, 27, 28, 29}) {
    EXPECT_EQ(Decompress(LayerCompression::kZstd, RawFrame(log, "data")).value_or("?"), "data");
  }
  EXPECT_EQ(Decompress(LayerCompression::kZstd, Zstd("data", 28)).value_or("?"), "data");
  for (int log : {30, 31, 41}) {
    for (size_t piece : {1, 1000}) {
      const auto out =
          Decompress(LayerCompression::kZstd, Zstd("before") + RawFrame(log, "data"), piece);
      EXPECT_EQ(out.status().code(), absl::StatusCode::kFailedPrecondition) << out.status();
      EXPECT_NE(out.status().ToString().find("asks for a window of"), std::string::npos);
      EXPECT_NE(out.status().ToString().find("--long=29"), std::string::npos);
    }
  }
}

// The grants requested, and the result.
std::string Grants(std::string_view in, size_t piece, uint64_t total = uint64_t{1} << 30) {
  ByteBudget budget(total, total);
  std::string out;
  const auto grant = [&](uint64_t bytes) {
    StrAppend(&out, bytes >> 20, " with ", budget.held() >> 20, " held; ");
    absl::StatusOr<ByteBudget::Lease> lease = absl::UnknownError("no answer");
    budget.Take("s", bytes, CancelToken(),
                [&](absl::StatusOr<ByteBudget::Lease> given) { lease = std::move(given); });
    return lease;
  };
  auto decompressor = *Decompressor::Create(LayerCompression::kZstd, 0, grant);
  std::string text, buffer(3, '\0');
  while (!in.empty()) {
    const auto step = decompressor->Run(in.substr(0, piece), absl::MakeSpan(buffer));
    if (!step.ok()) return StrCat(out, absl::StatusCodeToString(step.status().code()));
    text.append(buffer, 0, step->produced);
    in.remove_prefix(step->consumed);
  }
  StrAppend(&out, text, ", ", budget.held() >> 20, " held");
  decompressor.reset();
  return budget.held() == 0 ? out : "a lease is left";
}

TEST(DecompressTest, LargeWindowsAreGranted) {
  const std::string small = RawFrame(23, "s"), skip("\x50\x2a\x4d\x18\3\0\0\0abc", 11);
  for (size_t piece : {1, 3, 1000}) {
    EXPECT_EQ(Grants(small + skip + small, piece), "ss, 0 held");
    EXPECT_EQ(Grants(RawFrame(24, "a") + skip + RawFrame(24, "b") + small, piece),
              "16 with 0 held; abs, 16 held");
    // The smaller window is released before the larger one is requested.
    EXPECT_EQ(Grants(RawFrame(24, "a") + RawFrame(29, "b") + RawFrame(28, "c"), piece),
              "16 with 0 held; 512 with 0 held; abc, 512 held");
    EXPECT_EQ(Grants(RawFrame(29, "a"), piece, 1 << 20), "512 with 0 held; RESOURCE_EXHAUSTED");
  }
}

TEST(DecompressTest, NothingIsAnEmptyPlainStream) {
  const auto out = Decompress(LayerCompression::kNone, "");
  ASSERT_TRUE(out.ok());
  EXPECT_EQ(*out, "");
  EXPECT_FALSE(Decompressor::Create(LayerCompression::kUnknown).ok());
}

// So that two machines make the same table of one layer.
TEST(DecompressorTest, PointsOfAPlainTarDoNotDependOnTheBuffers) {
  const std::string tar(100'000, 'x');
  for (const size_t piece : {1000u, 7777u, 100'000u}) {
    auto decompressor = *Decompressor::Create(LayerCompression::kNone, 30'000);
    std::string out(tar.size(), '\0');
    for (size_t at = 0; at < tar.size();) {
      const auto step = decompressor->Run(std::string_view(tar).substr(at, piece),
                                          absl::MakeSpan(out).subspan(at));
      ASSERT_TRUE(step.ok()) << step.status();
      at += step->consumed;
    }
    EXPECT_EQ(out, tar);
    std::vector<uint64_t> places;
    for (const RestartPoint& point : decompressor->points()) places.push_back(point.blob_offset);
    EXPECT_EQ(places, (std::vector<uint64_t>{0, 30'000, 60'000, 90'000})) << piece;
  }
}

}  // namespace
}  // namespace imagefs
