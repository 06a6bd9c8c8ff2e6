#include "image/index_bundle.h"

#include <memory>

#include "base/status.h"
#include "base/text.h"
#include "image/erofs_reader.h"
#include "image/layer_access.h"
#include "image/zstd_frame.h"

namespace imagefs {
namespace {

constexpr std::string_view kMagic = "imgfsidx";
constexpr size_t kHeaderBytes = 16;  // magic, length of the index
constexpr int kLevel = 12;

}  // namespace

std::string PackBundle(const IndexBundle& bundle) {
  std::string plain(kMagic);
  const uint64_t length = bundle.index.size();
  for (int i = 0; i < 8; ++i) plain.push_back(static_cast<char>(length >> (8 * i)));
  plain += bundle.index;
  plain += bundle.access;
  return CompressZstd(plain, kLevel);
}

absl::StatusOr<IndexBundle> UnpackBundle(std::string_view bytes) {
  IMAGEFS_ASSIGN_OR_RETURN(const std::string plain, DecompressZstd(bytes, kMaxUnpackedBundle));
  if (plain.size() < kHeaderBytes || !plain.starts_with(kMagic)) {
    return absl::DataLossError("a published index of an unknown format");
  }
  uint64_t length = 0;
  for (size_t i = kHeaderBytes; i-- > kMagic.size();) {
    length = length << 8 | static_cast<uint8_t>(plain[i]);
  }
  if (length > plain.size() - kHeaderBytes) {
    return absl::DataLossError("a published index that is truncated");
  }
  return IndexBundle{plain.substr(kHeaderBytes, length), plain.substr(kHeaderBytes + length)};
}

absl::Status CheckBundle(const IndexBundle& bundle, const Digest& blob, uint64_t blob_size,
                         const Digest& diff_id) {
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<LayerAccess> access,
                           LayerAccess::FromBytes(bundle.access));
  if (access->blob_digest() != blob || access->blob_size() != blob_size ||
      access->diff_id() != diff_id) {
    return absl::DataLossError(StrCat("it describes blob ", access->blob_digest().ToString(),
                                      " and not ", blob.ToString()));
  }
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<ErofsImage> index,
                           ErofsImage::FromMemory(bundle.index));
  if (index->devices().size() != 1 || index->devices()[0].tag != diff_id.hex() ||
      index->devices()[0].size_bytes != access->data_bytes()) {
    return absl::DataLossError("its tree is of another data file");
  }
  // Reads every inode, name and extent once, so that nothing malformed is met later.
  IMAGEFS_ASSIGN_OR_RETURN(const Tree tree, index->ToTree());
  return absl::OkStatus();
}

}  // namespace imagefs
