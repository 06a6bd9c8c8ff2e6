// SPDX-License-Identifier: Apache-2.0
// A compressed blob with its span table, made as by a pass over it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "image/span_table.h"

namespace imagefs {

// Returns bytes that are partly compressible; the same for the same seed.
std::string MixedBytes(size_t size, uint32_t seed);

// A ustar archive of regular files: names and contents.
std::string TarOf(const std::vector<std::pair<std::string, std::string>>& files);

// One gzip member, or with `members` several one after the other. `level` 0 stores.
std::string GzipBytes(std::string_view data, int level = 6, int members = 1, int strategy = 0);
// Several zstd frames.
std::string ZstdBytes(std::string_view data, int frames);

// Returns the span table of `blob`, which contains `tar`, with points `spacing` apart. Fails the
// test if it cannot be made. `whole_frame_bytes`: see SpanTableInput.
SpanTable MakeTable(std::string_view tar, std::string_view blob, uint64_t spacing,
                    uint64_t whole_frame_bytes = UINT64_MAX);

// Returns the table as it was before it was written, with its windows.
SpanTable CopyOf(const SpanTableReader& table);

// Returns a table of a blob of that many equal gzip spans, of which nothing can be decoded.
std::unique_ptr<SpanTableReader> EvenTable(uint32_t spans, uint32_t blob_bytes,
                                           uint32_t data_bytes);

}  // namespace imagefs
