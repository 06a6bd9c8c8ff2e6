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

// What tells entries apart.
void Note(const imagefs::TarEntry& entry, std::string& notes) {
  notes += entry.path + '\n' + entry.link + '\n' + std::to_string(entry.size);
  for (const imagefs::Extent& extent : entry.extents) {
    notes += ' ' + std::to_string(extent.data_offset) + '+' + std::to_string(extent.length);
  }
}

// A scan that is given `more` bytes with each header finds what the pass found.
void CheckScan(std::string_view tar, size_t more, const std::string& notes,
               const absl::Status& status) {
  imagefs::TarScan scan(tar.size());
  imagefs::LayerBuilder builder;
  std::string found;
  uint64_t begin = 0, asked = 0, at = 0;
  std::string_view part;
  while (true) {
    const auto needed = scan.Continue(begin, part, [&](imagefs::TarEntry& entry) {
      Note(entry, found);
      return builder.Add(entry);
    });
    if (!needed.ok() || !needed->has_value()) {
      Check(needed.status().code() == status.code());
      return Check(found == notes);
    }
    Check(**needed > scan.position() && **needed <= tar.size());
    Check(scan.position() > at || **needed > asked);
    begin = at = scan.position();
    asked = **needed;
    part = tar.substr(begin, asked + more - begin);
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
  std::string notes;
  const absl::Status status = imagefs::ReadTar(source, [&](imagefs::TarEntry& entry) {
    Note(entry, notes);
    return builder.Add(entry);
  });
  CheckScan(tar, piece % 2000, notes, status);
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
