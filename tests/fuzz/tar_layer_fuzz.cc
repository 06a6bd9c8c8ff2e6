// SPDX-License-Identifier: Apache-2.0
// Any bytes as a layer's tar: read, built into a tree, and what the tree says checked for sense.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include "image/layer_builder.h"
#include "image/tar.h"

namespace {

void Check(bool holds) {
  if (!holds) std::abort();
}

// Gives every block that looks like a header a right checksum, or mutations would all end there.
void FixChecksums(std::string& tar) {
  constexpr size_t kBlock = 512, kChecksum = 148, kMagic = 257;
  for (size_t at = 0; at + kBlock <= tar.size(); at += kBlock) {
    if (tar.compare(at + kMagic, 5, "ustar") != 0) continue;
    tar.replace(at + kChecksum, 8, 8, ' ');
    unsigned sum = 0;
    for (size_t i = 0; i < kBlock; ++i) sum += static_cast<unsigned char>(tar[at + i]);
    for (size_t i = 6; i-- > 0; sum /= 8) {
      tar[at + kChecksum + i] = static_cast<char>('0' + sum % 8);
    }
    tar[at + kChecksum + 6] = 0;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  // The first byte says into how large pieces the stream is cut.
  const size_t piece = data[0] == 0 ? size : 3 * size_t{data[0]};
  std::string tar(reinterpret_cast<const char*>(data) + 1, size - 1);
  FixChecksums(tar);
  std::string_view rest(tar);
  const auto source = [&]() -> absl::StatusOr<std::string_view> {
    const std::string_view given = rest.substr(0, piece);
    rest.remove_prefix(given.size());
    return given;
  };
  imagefs::LayerBuilder builder;
  const absl::Status status =
      imagefs::ReadTar(source, [&](imagefs::TarEntry& entry) { return builder.Add(entry); });
  if (!status.ok()) return 0;
  Check(rest.empty());
  const uint64_t tar_size = size - 1;
  const auto result = std::move(builder).Finish(tar_size);
  if (!result.ok()) return 0;
  Check(result->data_size % 512 == 0);
  for (const imagefs::LayerBuilder::Move& move : result->moves) {
    Check(move.from + move.length <= tar_size && move.to + move.length <= result->data_size);
    Check(move.to >= tar_size);
  }
  for (imagefs::InodeId id = 0; id < result->tree.inode_count(); ++id) {
    for (const imagefs::Extent& extent : result->tree.Extents(id)) {
      Check(extent.data_offset % 512 == 0 && extent.file_offset % 512 == 0);
      Check(extent.file_offset + extent.length <= result->tree.inode(id).size);
    }
  }
  return 0;
}
