// SPDX-License-Identifier: Apache-2.0
// Shared by the tests of foreign tables of contents.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "image/table_layer.h"
#include "tests/fakes/image/toc_writer.h"

namespace imagefs {

// Partly random text, so that deflate emits blocks of every type.
std::string MixedData(uint64_t seed, size_t size);

// Entries of every type: whiteouts, links, devices, xattrs, an empty and a large file.
std::vector<TocWriter::Entry> SampleEntries();

// Builds a layer in a full pass over a tar.
absl::StatusOr<LayerBuilder::Result> BuildFromTar(std::string_view tar);
// Its tree and content, one line per inode.
std::string TarText(std::string_view tar);

// Decodes every span of a table from the blob.
absl::StatusOr<std::string> DataFileOf(const SpanTable& span_table, std::string_view blob);
// Tree and content, in the format of TarText; or the error.
std::string TableText(const TableLayer& table, std::string_view blob);

// Returns the rule of image/span_table.h that the table violates, or "".
std::string BrokenRule(const TableLayer& table);

}  // namespace imagefs
