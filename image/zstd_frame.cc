#include "image/zstd_frame.h"

#include <zstd.h>

#include <algorithm>
#include <memory>

#include "base/text.h"

namespace imagefs {
namespace {

constexpr size_t kFirstOutput = 256 << 10;

}  // namespace

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
  // The size is a claim: memory is taken for what has come.
  const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(ZSTD_createDCtx(),
                                                                     &ZSTD_freeDCtx);
  if (context == nullptr) return absl::ResourceExhaustedError("no memory for a zstd frame");
  ZSTD_inBuffer input = {frame.data(), frame.size(), 0};
  std::string out;
  size_t produced = 0, left = 1;
  while (left != 0) {
    if (produced == out.size()) {
      out.resize(std::min<size_t>(announced, std::max(2 * out.size(), kFirstOutput)));
    }
    ZSTD_outBuffer output = {out.data(), out.size(), produced};
    const size_t before = input.pos;
    left = ZSTD_decompressStream(context.get(), &output, &input);
    if (ZSTD_isError(left) != 0) {
      return absl::DataLossError(StrCat("a damaged zstd frame: ", ZSTD_getErrorName(left)));
    }
    if (left != 0 && output.pos == produced && input.pos == before) {
      return absl::DataLossError(
          "a damaged zstd frame: it ends too early, or is larger than it says");
    }
    produced = output.pos;
  }
  if (input.pos != frame.size()) {
    return absl::DataLossError("a damaged zstd frame: bytes follow it");
  }
  out.resize(produced);
  return out;
}

}  // namespace imagefs
