// SPDX-License-Identifier: Apache-2.0
#include "image/zstd_parts.h"

#include <gtest/gtest.h>
#include <zstd.h>

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace imagefs {
namespace {

// Partly compressible, with matches over long distances.
std::string Content(size_t size) {
  std::mt19937 random(5);
  std::string content;
  while (content.size() < size) {
    if (random() % 3 == 0 && content.size() > 100'000) {
      content += content.substr(random() % (content.size() - 5000), 5000);
    } else {
      for (int i = 0; i < 500; ++i) content.push_back(static_cast<char>('a' + random() % 20));
    }
  }
  content.resize(size);
  return content;
}

struct Settings {
  int level = 3;
  bool checksum = false;
  bool size = true;  // the header says how much it has
  int window_log = 0;
};

std::string Frame(std::string_view content, const Settings& settings) {
  const std::unique_ptr<ZSTD_CCtx, size_t (*)(ZSTD_CCtx*)> context(ZSTD_createCCtx(),
                                                                   ZSTD_freeCCtx);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, settings.level);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_checksumFlag, settings.checksum ? 1 : 0);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_windowLog, settings.window_log);
  std::string out(ZSTD_compressBound(content.size()), '\0');
  ZSTD_outBuffer to = {out.data(), out.size(), 0};
  // Without its size, an encoder does not know when it gets the last piece.
  if (settings.size) ZSTD_CCtx_setPledgedSrcSize(context.get(), content.size());
  for (size_t at = 0; at < content.size(); at += 50'000) {
    const std::string_view piece = content.substr(at, 50'000);
    ZSTD_inBuffer from = {piece.data(), piece.size(), 0};
    while (from.pos < from.size) {
      EXPECT_FALSE(ZSTD_isError(ZSTD_compressStream2(context.get(), &to, &from, ZSTD_e_continue)));
    }
  }
  ZSTD_inBuffer none = {nullptr, 0, 0};
  EXPECT_EQ(ZSTD_compressStream2(context.get(), &to, &none, ZSTD_e_end), 0U);
  out.resize(to.pos);
  return out;
}

struct Found {
  absl::StatusOr<std::vector<ZstdPart>> parts;
  std::string content;
};
Found Find(std::string_view blob, uint32_t part_bytes) {
  Found found{absl::UnknownError(""), ""};
  auto read = [&](absl::Span<char> out, uint64_t offset) {
    EXPECT_LE(offset + out.size(), blob.size());
    std::memcpy(out.data(), blob.data() + offset, out.size());
    return absl::OkStatus();
  };
  auto content = [&](std::string_view piece) {
    found.content += piece;
    return absl::OkStatus();
  };
  found.parts = FindZstdParts({0, blob.size()}, part_bytes, read, content);
  return found;
}

std::string_view BytesOf(std::string_view blob, const ZstdPart& part) {
  return blob.substr(part.blob.begin, part.blob.size());
}

// Decodes the parts as readers do.
std::string Decode(std::string_view blob, const std::vector<ZstdPart>& parts) {
  std::string all;
  std::unique_ptr<ZstdPartsDecoder> decoder;
  for (size_t i = 0; i < parts.size(); ++i) {
    const ZstdPart& part = parts[i];
    if (part.begins) decoder = *ZstdPartsDecoder::Create();
    std::string out(part.data_bytes, '\0');
    const bool last = i + 1 == parts.size() || parts[i + 1].begins;
    EXPECT_EQ(Sha256Of(BytesOf(blob, part)), part.digest);
    const absl::Status status = decoder->Next(BytesOf(blob, part), absl::MakeSpan(out), last);
    EXPECT_TRUE(status.ok()) << i << ": " << status;
    all += out;
  }
  return all;
}

TEST(ZstdParts, EveryKindOfFrameIsDecodedPartByPart) {
  const std::string content = Content(6 << 20);
  for (const Settings& settings :
       {Settings{}, Settings{.level = 1}, Settings{.level = 19, .checksum = true},
        Settings{.level = -5, .checksum = true, .size = false}, Settings{.size = false},
        Settings{.window_log = 20}}) {
    const std::string blob = Frame(content, settings);
    for (const uint32_t part_bytes : {uint32_t{1}, uint32_t{300'000}, uint32_t{100} << 20}) {
      const Found found = Find(blob, part_bytes);
      ASSERT_TRUE(found.parts.ok()) << found.parts.status();
      EXPECT_TRUE(found.content == content);
      EXPECT_TRUE(Decode(blob, *found.parts) == content);
      EXPECT_TRUE(found.parts->front().begins);
      EXPECT_EQ(found.parts->size() > 1, part_bytes < content.size());
      if (part_bytes == 300'000) {
        EXPECT_GE(found.parts->size(), 14U);
      }
      uint64_t end = 0;
      for (const ZstdPart& part : *found.parts) {
        EXPECT_EQ(part.blob.begin, end);
        EXPECT_LE(part.data_bytes, std::max<uint64_t>(part_bytes + (128 << 10), 1));
        end = part.blob.end;
      }
    }
  }
}

TEST(ZstdParts, FramesFollowEachOther) {
  const std::string content = Content(900'000);
  const std::string skipped("\x53\x2a\x4d\x18\x05\0\0\0other", 13);
  const std::string blob = skipped + Frame(content, {}) + Frame("", {}) +
                           Frame(content.substr(0, 10), {.checksum = true}) + skipped +
                           Frame(content, {.size = false});
  const Found found = Find(blob, 200'000);
  ASSERT_TRUE(found.parts.ok()) << found.parts.status();
  EXPECT_TRUE(found.content == content + content.substr(0, 10) + content);
  EXPECT_TRUE(Decode(blob, *found.parts) == found.content);
  int begins = 0;
  for (const ZstdPart& part : *found.parts) begins += part.begins ? 1 : 0;
  EXPECT_EQ(begins, 3);
}

TEST(ZstdParts, RepeatedBytesAndAnEmptyLastBlock) {
  // A frame of one block of 100,000 equal bytes, and one of none, by hand (RFC 8878).
  std::string blob("\x28\xb5\x2f\xfd\x00\x48", 6);  // no size, a window of 512 KiB
  const uint32_t repeated = 100'000U << 3 | 1U << 1;
  for (int i = 0; i < 3; ++i) blob.push_back(static_cast<char>(repeated >> (8 * i)));
  blob.push_back('x');
  blob.append("\x01\0\0", 3);  // raw, last, 0 bytes
  const Found found = Find(blob, 50'000);
  ASSERT_TRUE(found.parts.ok()) << found.parts.status();
  ASSERT_EQ(found.parts->size(), 1U);
  EXPECT_EQ(found.content, std::string(100'000, 'x'));
  EXPECT_EQ(Decode(blob, *found.parts), found.content);
}

TEST(ZstdParts, WhatIsNoFrameIsRefused) {
  const std::string blob = Frame(Content(500'000), {.checksum = true});
  for (const size_t size : {size_t{1}, size_t{5}, size_t{17}, size_t{1000}, blob.size() - 1}) {
    EXPECT_TRUE(absl::IsDataLoss(Find(blob.substr(0, size), 1000).parts.status())) << size;
  }
  EXPECT_TRUE(absl::IsDataLoss(Find(blob + "x", 1000).parts.status()));
  EXPECT_TRUE(absl::IsDataLoss(Find("this is no frame, however long", 1000).parts.status()));
  std::mt19937 random(3);
  for (int i = 0; i < 300; ++i) {
    std::string wrong = blob;
    wrong[random() % wrong.size()] ^= static_cast<char>(1 << random() % 8);
    const Found found = Find(wrong, 100'000);
    // Its checksum tells; a flag that nobody uses may have changed.
    EXPECT_TRUE(!found.parts.ok() || found.content == Find(blob, 100'000).content);
  }
}

TEST(ZstdParts, ALargeWindowIsNotKept) {
  // A window of 64 MiB, and no size.
  const std::string head("\x28\xb5\x2f\xfd\x00\x80\x01\0\0", 9);
  EXPECT_TRUE(absl::IsUnimplemented(ZstdPartsMemory(head).status()));
  EXPECT_TRUE(absl::IsUnimplemented(Find(head, 1000).parts.status()));
  EXPECT_TRUE(absl::IsDataLoss(ZstdPartsMemory("not a frame at all").status()));
  EXPECT_GE(ZstdPartsMemory(Frame("content", {.size = false})).value_or(0), 7U);
}

TEST(ZstdParts, ADecoderTakesOnlyWhatFits) {
  const std::string blob = Frame(Content(900'000), {});
  const auto parts = *Find(blob, 200'000).parts;
  ASSERT_GE(parts.size(), 3U);
  const auto next = [&](size_t part, int64_t more, bool last) {
    const auto decoder = *ZstdPartsDecoder::Create();
    absl::Status status;
    for (size_t i = 0; i <= part && status.ok(); ++i) {
      std::string out(static_cast<size_t>(parts[i].data_bytes + (i == part ? more : 0)), '\0');
      status = decoder->Next(BytesOf(blob, parts[i]), absl::MakeSpan(out), last && i == part);
    }
    return status;
  };
  EXPECT_TRUE(next(1, 0, false).ok());
  EXPECT_TRUE(absl::IsDataLoss(next(1, -1, false)));
  EXPECT_TRUE(absl::IsDataLoss(next(1, 1, false)));
  EXPECT_TRUE(next(1, -1, true).ok());  // the tar may end before its frame
  EXPECT_TRUE(absl::IsDataLoss(next(1, 1, true)));
  EXPECT_TRUE(absl::IsDataLoss(next(parts.size() - 1, 1, true)));
  // Out of order.
  const auto decoder = *ZstdPartsDecoder::Create();
  std::string out(parts[1].data_bytes, '\0');
  EXPECT_TRUE(absl::IsDataLoss(decoder->Next(BytesOf(blob, parts[1]), absl::MakeSpan(out), false)));
}

}  // namespace
}  // namespace imagefs
