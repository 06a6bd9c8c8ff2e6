// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/cache/lazy_blob.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <zlib.h>
#include <zstd.h>

#include <cstdio>
#include <cstring>
#include <random>

#include "base/fd.h"
#include "base/text.h"
#include "cache/span_table_maker.h"

namespace imagefs {

std::string MixedBytes(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::string data;
  while (data.size() < size) {
    if (random() % 4 == 0) {
      for (int i = 0; i < 300; ++i) data.push_back(static_cast<char>(random()));
    } else {
      data += StrCat("the quick brown fox jumps over the lazy dog ", random() % 1000);
    }
  }
  data.resize(size);
  return data;
}

std::string TarOf(const std::vector<std::pair<std::string, std::string>>& files) {
  std::string tar;
  for (const auto& [name, content] : files) {
    std::string header(512, '\0');
    header.replace(0, name.size(), name);
    header.replace(100, 7, "0000644");
    header.replace(108, 7, "0000000");
    header.replace(116, 7, "0000000");
    char text[16];
    snprintf(text, sizeof(text), "%011o", static_cast<unsigned>(content.size()));
    header.replace(124, 11, text);
    header.replace(136, 11, "00000000001");
    header[156] = '0';
    header.replace(257, 5, "ustar");
    header.replace(263, 2, "00");
    header.replace(148, 8, 8, ' ');
    unsigned sum = 0;
    for (const char c : header) sum += static_cast<unsigned char>(c);
    snprintf(text, sizeof(text), "%06o", sum);
    header.replace(148, 7, text, 7);
    tar += header + content;
    tar.append((512 - content.size() % 512) % 512, '\0');
  }
  return tar.append(1024, '\0');
}

std::string GzipBytes(std::string_view data, int level, int members, int strategy) {
  std::string all;
  for (int i = 0; i < members; ++i) {
    const size_t begin = data.size() * static_cast<size_t>(i) / static_cast<size_t>(members);
    const size_t end = data.size() * static_cast<size_t>(i + 1) / static_cast<size_t>(members);
    const std::string_view part = data.substr(begin, end - begin);
    z_stream stream = {};
    EXPECT_EQ(deflateInit2(&stream, level, Z_DEFLATED, 31, 8, strategy), Z_OK);
    std::string out(deflateBound(&stream, part.size()), '\0');
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(part.data()));
    stream.avail_in = static_cast<uInt>(part.size());
    stream.next_out = reinterpret_cast<Bytef*>(out.data());
    stream.avail_out = static_cast<uInt>(out.size());
    EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
    all.append(out, 0, stream.total_out);
    deflateEnd(&stream);
  }
  return all;
}

std::string ZstdBytes(std::string_view data, int frames) {
  std::string all;
  for (int i = 0; i < frames; ++i) {
    const size_t begin = data.size() * static_cast<size_t>(i) / static_cast<size_t>(frames);
    const size_t end = data.size() * static_cast<size_t>(i + 1) / static_cast<size_t>(frames);
    std::string out(ZSTD_compressBound(end - begin), '\0');
    const size_t size = ZSTD_compress(out.data(), out.size(), data.data() + begin, end - begin, 3);
    EXPECT_EQ(ZSTD_isError(size), 0U);
    all.append(out, 0, size);
  }
  return all;
}

SpanTable MakeTable(std::string_view tar, std::string_view blob, uint64_t spacing,
                    uint64_t whole_frame_bytes) {
  auto decompressor = Decompressor::Create(SniffCompression(blob), spacing);
  EXPECT_TRUE(decompressor.ok()) << decompressor.status();
  std::string out(100'000, '\0');
  std::string_view rest = blob;
  uint64_t produced = 0;
  while (true) {
    auto step = (*decompressor)->Run(rest.substr(0, 70'000), absl::MakeSpan(out));
    EXPECT_TRUE(step.ok()) << step.status();
    if (!step.ok() || (step->consumed == 0 && step->produced == 0)) break;
    EXPECT_EQ(tar.substr(produced, step->produced),
              std::string_view(out).substr(0, step->produced));
    produced += step->produced;
    rest.remove_prefix(step->consumed);
  }
  EXPECT_EQ(produced, tar.size());
  const Fd data(memfd_create("data", MFD_CLOEXEC));
  EXPECT_TRUE(PwriteFull(data.get(), tar, 0).ok());
  auto read_blob = [&blob](absl::Span<char> part, uint64_t offset) {
    std::memcpy(part.data(), blob.data() + offset, part.size());
    return absl::OkStatus();
  };
  const SpanTableInput input{Sha256Of(blob),
                             blob.size(),
                             Sha256Of(tar),
                             tar.size(),
                             (tar.size() + 511) / 512 * 512,
                             (*decompressor)->points(),
                             {},
                             data.get(),
                             read_blob,
                             whole_frame_bytes};
  auto table = MakeSpanTable(input, CancelToken());
  EXPECT_TRUE(table.ok()) << table.status();
  return table.ok() ? *std::move(table) : SpanTable();
}

SpanTable CopyOf(const SpanTableReader& table) {
  SpanTable copy;
  copy.blob_digest = table.blob_digest();
  copy.diff_id = table.diff_id();
  copy.layout = table.layout();
  copy.blob_size = table.blob_size();
  copy.tar_bytes = table.tar_bytes();
  copy.data_bytes = table.data_bytes();
  for (size_t i = 0; i < table.span_count(); ++i) copy.spans.push_back(table.span(i));
  copy.moves = table.moves();
  copy.windows = table.bytes().substr(table.windows().begin);
  return copy;
}

std::unique_ptr<SpanTableReader> EvenTable(uint32_t spans, uint32_t blob_bytes,
                                           uint32_t data_bytes) {
  SpanTable table;
  table.blob_digest = Sha256Of("blob");
  table.diff_id = Sha256Of("tar");
  table.blob_size = uint64_t{spans} * blob_bytes;
  table.tar_bytes = table.data_bytes = uint64_t{spans} * data_bytes;
  for (uint32_t i = 0; i < spans; ++i) {
    SpanEntry span;
    span.codec = SpanCodec::kGzip;
    span.data_begin = uint64_t{i} * data_bytes;
    span.data_bytes = data_bytes;
    span.blob_begin = uint64_t{i} * blob_bytes;
    span.blob_bytes = blob_bytes;
    table.spans.push_back(span);
  }
  return *SpanTableReader::FromBytes(*WriteSpanTable(table));
}

}  // namespace imagefs
