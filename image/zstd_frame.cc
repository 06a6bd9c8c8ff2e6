// SPDX-License-Identifier: Apache-2.0
#include "image/zstd_frame.h"

#include <zstd.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "image/zstd_window.h"

namespace imagefs {
namespace {

constexpr int kWindowLog = 25;  // the largest that writers of small frames choose
constexpr size_t kFirstOutput = 256 << 10;

absl::Status TooLarge(uint64_t bytes, uint64_t max_bytes) {
  return absl::ResourceExhaustedError(
      StrCat("a zstd frame of ", bytes, " bytes where at most ", max_bytes, " are allowed"));
}

class Stream final : public ZstdStream {
 public:
  using Context = std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)>;
  explicit Stream(Context context) : context_(std::move(context)) {}

  absl::StatusOr<Step> Run(std::string_view in, absl::Span<char> out) override {
    ZSTD_inBuffer input = {in.data(), in.size(), 0};
    ZSTD_outBuffer output = {out.data(), out.size(), 0};
    while (true) {
      const size_t before = input.pos, had = output.pos;
      const size_t left = ZSTD_decompressStream(context_.get(), &output, &input);
      if (ZSTD_isError(left) != 0) {
        return absl::DataLossError(StrCat("a damaged zstd frame: ", ZSTD_getErrorName(left)));
      }
      const bool stands = input.pos == before && output.pos == had;
      if (left == 0 || stands || output.pos == output.size) {
        return Step{input.pos, output.pos, left == 0};
      }
    }
  }
  void Reset() override { ZSTD_DCtx_reset(context_.get(), ZSTD_reset_session_only); }

 private:
  const Context context_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ZstdStream>> ZstdStream::Create() {
  Stream::Context context(ZSTD_createDCtx(), ZSTD_freeDCtx);
  if (context == nullptr) return absl::ResourceExhaustedError("no memory for zstd");
  ZSTD_DCtx_setParameter(context.get(), ZSTD_d_windowLogMax, kMaxZstdWindowLog);
  return std::make_unique<Stream>(std::move(context));
}

std::string CompressZstd(std::string_view data, int level) {
  std::string out(ZSTD_compressBound(data.size()), '\0');
  const size_t size = ZSTD_compress(out.data(), out.size(), data.data(), data.size(), level);
  // Fails only if out of memory; the buffer is large enough.
  out.resize(ZSTD_isError(size) != 0 ? 0 : size);
  return out;
}

absl::StatusOr<std::string> DecompressZstd(std::string_view frame, size_t max_bytes) {
  IMAGEFS_ASSIGN_OR_RETURN(const uint64_t announced, ZstdFrameBytes(frame));
  if (announced > max_bytes) return TooLarge(announced, max_bytes);
  // The size is untrusted: allocate only as output arrives. If the window is larger than the
  // content, memory use is that of the content.
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<ZstdStream> stream, ZstdStream::Create());
  std::string out;
  size_t produced = 0;
  for (bool ended = false; !ended;) {
    if (produced == out.size()) {
      out.resize(std::min<size_t>(announced, std::max(2 * out.size(), kFirstOutput)));
    }
    IMAGEFS_ASSIGN_OR_RETURN(const ZstdStream::Step step,
                             stream->Run(frame, absl::MakeSpan(out).subspan(produced)));
    ended = step.ended;
    if (!ended && step.consumed == 0 && step.produced == 0) {
      return absl::DataLossError(
          "a damaged zstd frame: it ends too early, or is larger than it says");
    }
    frame.remove_prefix(step.consumed);
    produced += step.produced;
  }
  if (!frame.empty()) {
    return absl::DataLossError("a damaged zstd frame: bytes follow it");
  }
  if (produced != announced) {
    return absl::DataLossError(StrCat("a damaged zstd frame: it says that it holds ", announced,
                                      " bytes and holds ", produced));
  }
  out.resize(produced);
  return out;
}

absl::StatusOr<uint64_t> ZstdFrameBytes(std::string_view head) {
  const unsigned long long announced = ZSTD_getFrameContentSize(head.data(), head.size());
  if (announced == ZSTD_CONTENTSIZE_ERROR || announced == ZSTD_CONTENTSIZE_UNKNOWN) {
    return absl::DataLossError("not a zstd frame that declares its size");
  }
  return announced;
}

absl::Status DecompressZstdTo(std::string_view frame, uint64_t max_bytes,
                              absl::FunctionRef<absl::Status(std::string_view)> sink) {
  const std::optional<ZstdDemand> demand = ZstdDemandOf(frame.substr(0, kMaxZstdHeadBytes));
  if (demand.has_value() && demand->window > uint64_t{1} << kWindowLog) {
    return absl::ResourceExhaustedError(StrCat("a zstd frame with a window of ", demand->window,
                                               " bytes where at most ", 1 << kWindowLog,
                                               " are allowed"));
  }
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<ZstdStream> stream, ZstdStream::Create());
  std::string buffer(ZSTD_DStreamOutSize(), '\0');
  uint64_t total = 0;
  for (bool ended = false; !ended;) {
    IMAGEFS_ASSIGN_OR_RETURN(const ZstdStream::Step step,
                             stream->Run(frame, absl::MakeSpan(buffer)));
    ended = step.ended;
    frame.remove_prefix(step.consumed);
    total += step.produced;
    if (total > max_bytes) return TooLarge(total, max_bytes);
    if (step.produced > 0) {
      IMAGEFS_RETURN_IF_ERROR(sink(std::string_view(buffer.data(), step.produced)));
    }
    if (!ended && step.consumed == 0 && step.produced == 0) {
      return absl::DataLossError("a truncated zstd frame");
    }
  }
  if (!frame.empty()) return absl::DataLossError("bytes after the end of a zstd frame");
  return absl::OkStatus();
}

}  // namespace imagefs
