// What tests of foreign tables of contents share.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "image/table_layer.h"
#include "tests/fakes/image/toc_writer.h"

namespace imagefs {

// Partly random text, so that deflate makes blocks of every kind.
std::string MixedData(uint64_t seed, size_t size);

// Entries of every kind: whiteouts, links, devices, xattrs, an empty and a large file.
std::vector<TocWriter::Entry> SampleEntries();

// What a full pass over a tar makes of it.
absl::StatusOr<LayerBuilder::Result> BuildFromTar(std::string_view tar);
// Tree and content of it, one line an inode.
std::string TarText(std::string_view tar);

// Decodes every span of a table from the blob.
absl::StatusOr<std::string> DataFileOf(const SpanTable& span_table, std::string_view blob);
// Tree and content, in the form of TarText; or the error.
std::string TableText(const TableLayer& table, std::string_view blob);

// "", or what rule of image/span_table.h the table breaks.
std::string BrokenRule(const TableLayer& table);

}  // namespace imagefs
