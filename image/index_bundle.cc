// SPDX-License-Identifier: Apache-2.0
#include "image/index_bundle.h"

#include <sys/stat.h>

#include <algorithm>

#include "base/fd.h"
#include "base/little_endian.h"
#include "base/status.h"
#include "base/text.h"
#include "image/zstd_frame.h"

namespace imagefs {
namespace {

constexpr std::string_view kMagic = "imgfsidx";
constexpr size_t kHeaderBytes = 16;  // magic, index length
constexpr int kLevel = 12;
constexpr uint32_t kNoOwner = UINT32_MAX;  // chown(2)'s "do not change", invalid in the kernel

}  // namespace

std::string PackBundle(const IndexBundle& bundle) {
  std::string plain(kMagic);
  PutLittleEndian<uint64_t>(plain, bundle.index.size());
  plain += bundle.index;
  plain += bundle.span_table;
  return CompressZstd(plain, kLevel);
}

absl::Status UnpackBundle(std::string_view packed, uint64_t max_bytes, int index, int span_table) {
  IMAGEFS_ASSIGN_OR_RETURN(const uint64_t announced, ZstdFrameBytes(packed));
  if (announced > max_bytes) {
    return absl::ResourceExhaustedError(
        StrCat("a published index of ", announced, " bytes where ", max_bytes, " are allowed"));
  }
  std::string head;
  uint64_t index_bytes = 0, index_left = 0, span_table_bytes = 0;
  const auto sink = [&](std::string_view piece) -> absl::Status {
    if (head.size() < kHeaderBytes) {
      const std::string_view part = piece.substr(0, kHeaderBytes - head.size());
      head += part;
      piece.remove_prefix(part.size());
      if (head.size() < kHeaderBytes) return absl::OkStatus();
      if (!head.starts_with(kMagic)) {
        return absl::DataLossError("a published index of an unknown format");
      }
      for (size_t i = kHeaderBytes; i-- > kMagic.size();) {
        index_left = index_left << 8 | static_cast<uint8_t>(head[i]);
      }
      if (index_left > announced) return absl::DataLossError("a published index that is truncated");
    }
    const std::string_view part = piece.substr(0, std::min<uint64_t>(piece.size(), index_left));
    IMAGEFS_RETURN_IF_ERROR(PwriteFull(index, part, index_bytes));
    index_bytes += part.size();
    index_left -= part.size();
    piece.remove_prefix(part.size());
    IMAGEFS_RETURN_IF_ERROR(PwriteFull(span_table, piece, span_table_bytes));
    span_table_bytes += piece.size();
    return absl::OkStatus();
  };
  IMAGEFS_RETURN_IF_ERROR(DecompressZstdTo(packed, announced, sink));
  if (head.size() < kHeaderBytes || index_left > 0) {
    return absl::DataLossError("a published index that is truncated");
  }
  return absl::OkStatus();
}

absl::StatusOr<Tree> TreeOfBundle(const ErofsImage& index, const SpanTableReader& span_table,
                                  const Digest& blob, uint64_t blob_size, const Digest& diff_id,
                                  uint64_t max_bytes) {
  if (span_table.blob_digest() != blob || span_table.blob_size() != blob_size ||
      span_table.diff_id() != diff_id) {
    return absl::DataLossError(StrCat("it describes blob ", span_table.blob_digest().ToString(),
                                      " and not ", blob.ToString()));
  }
  if (span_table.layout() != DataLayout::kTar) {
    return absl::DataLossError("its span table is not that of a tar");
  }
  if (!span_table.has_digests()) {
    return absl::DataLossError("its span table has spans without a digest");
  }
  if (index.devices().size() != 1 || index.devices()[0].tag != diff_id.hex() ||
      index.devices()[0].size_bytes != span_table.data_bytes()) {
    return absl::DataLossError("its tree refers to another data file");
  }
  if ((index.flags() & kIndexOverlayForm) == 0) {
    return absl::DataLossError("its tree is a merged one, not that of a layer");
  }
  // Visits every inode, name and extent, so that nothing malformed can be encountered later.
  IMAGEFS_ASSIGN_OR_RETURN(Tree tree, index.ToTree(0, max_bytes));
  for (InodeId id = 0; id < tree.inode_count(); ++id) {
    const Inode& inode = tree.inode(id);
    if (inode.uid == kNoOwner || inode.gid == kNoOwner) {
      return absl::DataLossError("it has a file with an invalid owner");
    }
    if ((inode.opaque || inode.implied) && !S_ISDIR(inode.mode)) {
      return absl::DataLossError("it has a file with the marks of a directory");
    }
  }
  return tree;
}

}  // namespace imagefs
