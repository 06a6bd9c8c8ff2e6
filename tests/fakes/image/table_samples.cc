// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/image/table_samples.h"

#include <random>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "tests/fakes/image/tree_samples.h"

namespace imagefs {

std::string MixedData(uint64_t seed, size_t size) {
  std::mt19937_64 random(seed);
  std::string data;
  while (data.size() < size) {
    if (random() % 4 == 0) {
      for (int i = 0; i < 300; ++i) data.push_back(static_cast<char>(random()));
    } else {
      StrAppend(&data, "a line of text that compresses well ", random() % 1000, "\n");
    }
  }
  data.resize(size);
  return data;
}

std::vector<TocWriter::Entry> SampleEntries() {
  return {
      {.name = "etc/", .type = "dir", .mode = 0755},
      {.name = "etc/empty"},
      {.name = "etc/hosts", .data = "127.0.0.1 localhost\n", .mode = 0640, .uid = 7, .gid = 8},
      {.name = "usr/bin/tool",
       .data = MixedData(1, 300'000),
       .mode = 04755,
       .xattrs = {{"security.capability", std::string("\1\0\0\2\0\x20", 6)}, {"user.x", "y"}}},
      {.name = "usr/bin/tool2", .type = "hardlink", .link = "usr/bin/tool", .mode = 04755},
      {.name = "usr/bin/sh", .type = "symlink", .link = "tool", .mode = 0777},
      {.name = "dev/null", .type = "char", .mode = 0666, .major = 1, .minor = 3},
      {.name = "dev/sda", .type = "block", .mode = 0660, .major = 8},
      {.name = "run/fifo", .type = "fifo", .mode = 0600, .mtime = -5},
      {.name = "var/", .type = "dir", .mode = 01777, .mtime = 0},
      {.name = "var/.wh.gone"},
      {.name = "var/new/.wh..wh..opq"},
      {.name = "var/new/block", .data = MixedData(2, 512)},
      {.name = "var/new/holes",
       .data = MixedData(3, 50'000) + std::string(100'000, '\0') + MixedData(4, 70'001)},
      {.name = "./var/new/last", .data = "x"},
  };
}

absl::StatusOr<LayerBuilder::Result> BuildFromTar(std::string_view tar) {
  LayerBuilder builder;
  bool given = false;
  const auto source = [&]() -> absl::StatusOr<std::string_view> {
    return std::exchange(given, true) ? std::string_view() : tar;
  };
  IMAGEFS_RETURN_IF_ERROR(ReadTar(source, [&](TarEntry& entry) { return builder.Add(entry); }));
  return std::move(builder).Finish(tar.size());
}

std::string TarText(std::string_view tar) {
  const auto result = BuildFromTar(tar);
  if (!result.ok()) return result.status().ToString();
  const std::vector<std::string> devices = {std::string(tar)};
  return TreeText(result->tree, &devices);
}

absl::StatusOr<std::string> DataFileOf(const SpanTable& span_table, std::string_view blob) {
  std::string data(span_table.data_bytes, '\0');
  for (const SpanEntry& span : span_table.spans) {
    IMAGEFS_RETURN_IF_ERROR(Annotate(
        DecodeSpan(
            span,
            std::string_view(span_table.windows).substr(span.window_offset, span.window_bytes),
            blob.substr(span.blob_begin, span.blob_bytes),
            absl::Span<char>(data.data() + span.data_begin, span.data_bytes)),
        StrCat("span at ", span.data_begin)));
  }
  return data;
}

std::string TableText(const TableLayer& table, std::string_view blob) {
  if (std::string broken = BrokenRule(table); !broken.empty()) return broken;
  const auto data = DataFileOf(table.span_table, blob);
  if (!data.ok()) return data.status().ToString();
  const std::vector<std::string> devices = {*data};
  return TreeText(table.layer.tree, &devices);
}

std::string BrokenRule(const TableLayer& table) {
  const SpanTable& span_table = table.span_table;
  if (span_table.data_bytes % 512 != 0 || span_table.data_bytes != table.layer.data_size) {
    return "the size of the data file";
  }
  if (span_table.tar_bytes > span_table.data_bytes) return "the size of the tar";
  if ((span_table.layout == DataLayout::kTable) != (span_table.tar_bytes == 0)) return "the layout";
  uint64_t end = 0;
  for (const SpanEntry& span : span_table.spans) {
    if (span.data_bytes == 0 || span.blob_bytes == 0) return "an empty span";
    if (span.data_bytes > kMaxSpanDataBytes || span.blob_bytes > kMaxSpanBlobBytes ||
        span.skip > kMaxSpanSkip) {
      return "a large span";
    }
    if (span.data_begin < end || span.data_end() > span_table.data_bytes) return "a span's place";
    if (span.blob_end() > span_table.blob_size) return "a span's place in the blob";
    if (span.bit > 7 || (span.bit > 0 && span.codec != SpanCodec::kDeflate)) return "bits";
    if (span.window_offset + span.window_bytes > span_table.windows.size()) return "a window";
    end = span.data_end();
  }
  for (InodeId id = 0; id < table.layer.tree.inode_count(); ++id) {
    for (const Extent& extent : table.layer.tree.Extents(id)) {
      if (extent.data_offset % 512 != 0 || extent.device != 1) return "an extent";
      if (extent.length > span_table.data_bytes ||
          extent.data_offset > span_table.data_bytes - extent.length) {
        return "an extent's place";
      }
    }
  }
  return "";
}

}  // namespace imagefs
