#include "image/zstd_frame.h"

#include <zstd.h>

#include <algorithm>

#include "base/text.h"

namespace imagefs {

std::string CompressZstd(std::string_view data, int level) {
  std::string out(ZSTD_compressBound(data.size()), '\0');
  const size_t size = ZSTD_compress(out.data(), out.size(), data.data(), data.size(), level);
  // It can only fail for want of memory or room, and there is room.
  out.resize(ZSTD_isError(size) != 0 ? 0 : size);
  return out;
}

absl::StatusOr<std::string> DecompressZstd(std::string_view frame, size_t max_bytes) {
  const unsigned long long announced = ZSTD_getFrameContentSize(frame.data(), frame.size());
  if (announced == ZSTD_CONTENTSIZE_ERROR || announced == ZSTD_CONTENTSIZE_UNKNOWN) {
    return absl::DataLossError("no zstd frame that says its size");
  }
  if (announced > max_bytes) {
    return absl::ResourceExhaustedError(
        StrCat("a zstd frame of ", announced, " bytes where at most ", max_bytes, " are allowed"));
  }
  std::string out(announced, '\0');
  const size_t size = ZSTD_decompress(out.data(), out.size(), frame.data(), frame.size());
  if (ZSTD_isError(size) != 0) {
    return absl::DataLossError(StrCat("a damaged zstd frame: ", ZSTD_getErrorName(size)));
  }
  out.resize(size);
  return out;
}

}  // namespace imagefs
