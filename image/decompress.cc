#include "image/decompress.h"

#include <isa-l/igzip_lib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>

#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr std::string_view kGzipMagic = "\x1f\x8b";
constexpr uint32_t kZstdMagic = 0xFD2FB528;
constexpr uint32_t kZstdSkippableMask = 0xFFFFFFF0;
constexpr uint32_t kZstdSkippable = 0x184D2A50;
constexpr int kZstdWindowLog = 27;  // 128 MiB: what zstd's own tool accepts without asking

class PlainDecompressor : public Decompressor {
 public:
  absl::StatusOr<Step> Run(std::string_view in, absl::Span<char> out) override {
    const size_t n = std::min(in.size(), out.size());
    std::memcpy(out.data(), in.data(), n);
    return Step{n, n};
  }
  absl::Status Finish() override { return absl::OkStatus(); }
};

// The header of a gzip member (RFC 1952), byte by byte. ISA-L's own reader of headers refuses right
// ones that carry a checksum of the header when they arrive in pieces. The checksum itself is not
// compared: the digest of the blob covers it.
class GzipHeader {
 public:
  bool done() const { return part_ == Part::kDone; }

  // Null, or why the byte cannot stand here.
  const char* Feed(uint8_t byte) {
    switch (part_) {
      case Part::kFixed:
        if ((at_ == 0 && byte != 0x1f) || (at_ == 1 && byte != 0x8b)) {
          return "invalid member header";
        }
        if (at_ == 2 && byte != 8) return "unsupported compression method";
        if (at_ == 3) flags_ = byte;
        if ((flags_ & kReservedFlags) != 0) return "unsupported flags in a member header";
        if (++at_ == kFixedBytes) Enter(Part::kExtraLength);
        break;
      case Part::kExtraLength:
        left_ |= static_cast<uint32_t>(byte) << (8 * at_);
        if (++at_ == 2) Enter(left_ > 0 ? Part::kExtra : Part::kName);
        break;
      case Part::kExtra:
        if (--left_ == 0) Enter(Part::kName);
        break;
      case Part::kName:
        if (byte == 0) Enter(Part::kComment);
        break;
      case Part::kComment:
        if (byte == 0) Enter(Part::kChecksum);
        break;
      case Part::kChecksum:
        if (++at_ == 2) part_ = Part::kDone;
        break;
      case Part::kDone:
        break;
    }
    return nullptr;
  }

 private:
  enum class Part { kFixed, kExtraLength, kExtra, kName, kComment, kChecksum, kDone };
  static constexpr uint32_t kFixedBytes = 10;
  static constexpr uint8_t kReservedFlags = 0xe0, kHasChecksum = 2, kHasExtra = 4, kHasName = 8,
                           kHasComment = 16;

  // The first part from `part` on that this header has.
  void Enter(Part part) {
    if (part == Part::kExtraLength && (flags_ & kHasExtra) == 0) part = Part::kName;
    if (part == Part::kName && (flags_ & kHasName) == 0) part = Part::kComment;
    if (part == Part::kComment && (flags_ & kHasComment) == 0) part = Part::kChecksum;
    if (part == Part::kChecksum && (flags_ & kHasChecksum) == 0) part = Part::kDone;
    part_ = part;
    at_ = 0;
  }

  Part part_ = Part::kFixed;
  uint8_t flags_ = 0;
  uint32_t at_ = 0;    // bytes of the part so far
  uint32_t left_ = 0;  // bytes of the extra field
};

// Members one after another; after the last one zeros may follow (padding to a record size),
// nothing else.
class GzipDecompressor : public Decompressor {
 public:
  GzipDecompressor() : state_(std::make_unique<inflate_state>()) { StartMember(); }

  absl::StatusOr<Step> Run(std::string_view in, absl::Span<char> out) override {
    Step step;
    while (step.produced < out.size()) {
      if (place_ == Place::kBetween) {
        const size_t skipped = SkipPadding(in.substr(step.consumed));
        step.consumed += skipped;
        if (step.consumed == in.size()) break;
        if (padded_) return Corrupt("bytes follow the padding after the last member");
        StartMember();
      }
      while (!header_.done() && step.consumed < in.size()) {
        const char* const reason = header_.Feed(static_cast<uint8_t>(in[step.consumed]));
        if (reason != nullptr) return Corrupt(reason);
        ++step.consumed;
        ++consumed_;
      }
      if (step.consumed == in.size() && !output_pending_) break;
      IMAGEFS_RETURN_IF_ERROR(Inflate(in, out, step));
    }
    return step;
  }

  absl::Status Finish() override {
    if (place_ == Place::kBetween) return absl::OkStatus();
    return absl::DataLossError(
        StrCat("the gzip stream is truncated: it ends inside a member, after byte ", consumed_));
  }

 private:
  enum class Place { kInMember, kBetween };

  void StartMember() {
    isal_inflate_init(state_.get());
    state_->crc_flag = ISAL_GZIP_NO_HDR_VER;  // checks CRC-32 and length in the trailer
    header_ = GzipHeader();
    place_ = Place::kInMember;
    output_pending_ = false;
  }

  size_t SkipPadding(std::string_view in) {
    size_t zeros = 0;
    while (zeros < in.size() && in[zeros] == '\0') ++zeros;
    consumed_ += zeros;
    padded_ = padded_ || zeros > 0;
    return zeros;
  }

  absl::Status Inflate(std::string_view in, absl::Span<char> out, Step& step) {
    const std::string_view rest = in.substr(step.consumed);
    const absl::Span<char> room = out.subspan(step.produced);
    // ISA-L counts in 32 bits; callers pass a few hundred KiB.
    const auto avail_in = static_cast<uint32_t>(std::min<size_t>(rest.size(), 1u << 30));
    const auto avail_out = static_cast<uint32_t>(std::min<size_t>(room.size(), 1u << 30));
    state_->next_in = reinterpret_cast<uint8_t*>(const_cast<char*>(rest.data()));
    state_->avail_in = avail_in;
    state_->next_out = reinterpret_cast<uint8_t*>(room.data());
    state_->avail_out = avail_out;
    const int result = isal_inflate(state_.get());
    step.consumed += avail_in - state_->avail_in;
    step.produced += avail_out - state_->avail_out;
    consumed_ += avail_in - state_->avail_in;
    if (result != ISAL_DECOMP_OK) return Corrupt(Reason(result));
    output_pending_ = state_->avail_out == 0;
    if (state_->block_state == ISAL_BLOCK_FINISH) place_ = Place::kBetween;
    if (avail_in == state_->avail_in && avail_out == state_->avail_out &&
        place_ == Place::kInMember && avail_in > 0) {
      return Corrupt("no progress");
    }
    return absl::OkStatus();
  }

  absl::Status Corrupt(std::string_view reason) const {
    return absl::DataLossError(
        StrCat("the gzip stream is corrupt near compressed byte ", consumed_, ": ", reason));
  }

  static std::string_view Reason(int code) {
    switch (code) {
      case ISAL_INVALID_BLOCK:
        return "invalid block";
      case ISAL_INVALID_SYMBOL:
        return "invalid symbol";
      case ISAL_INVALID_LOOKBACK:
        return "reference before the start of the output";
      case ISAL_INCORRECT_CHECKSUM:
        return "wrong checksum";
      default:
        return "invalid data";
    }
  }

  const std::unique_ptr<inflate_state> state_;
  GzipHeader header_;
  Place place_ = Place::kInMember;
  bool output_pending_ = false;  // the output was full: there may be more without further input
  bool padded_ = false;
  uint64_t consumed_ = 0;
};

class ZstdDecompressor : public Decompressor {
 public:
  static absl::StatusOr<std::unique_ptr<Decompressor>> Create() {
    auto decompressor = std::make_unique<ZstdDecompressor>();
    if (decompressor->stream_ == nullptr) {
      return absl::ResourceExhaustedError("no memory for a zstd stream");
    }
    ZSTD_DCtx_setParameter(decompressor->stream_.get(), ZSTD_d_windowLogMax, kZstdWindowLog);
    return decompressor;
  }
  ZstdDecompressor() : stream_(ZSTD_createDStream()) {}

  absl::StatusOr<Step> Run(std::string_view in, absl::Span<char> out) override {
    ZSTD_inBuffer input = {in.data(), in.size(), 0};
    ZSTD_outBuffer output = {out.data(), out.size(), 0};
    while (output.pos < output.size && (input.pos < input.size || output_pending_)) {
      const size_t before = input.pos;
      const size_t result = ZSTD_decompressStream(stream_.get(), &output, &input);
      consumed_ += input.pos - before;
      if (ZSTD_isError(result) != 0) {
        return absl::DataLossError(StrCat("the zstd stream is corrupt near compressed byte ",
                                          consumed_, ": ", ZSTD_getErrorName(result)));
      }
      // 0 says that a frame ended here and all its output is out; another may follow.
      in_frame_ = result != 0;
      output_pending_ = result != 0 && output.pos == output.size;
      if (input.pos == input.size && !output_pending_) break;
    }
    return Step{input.pos, output.pos};
  }

  absl::Status Finish() override {
    if (!in_frame_ && consumed_ > 0) return absl::OkStatus();
    return absl::DataLossError(
        StrCat("the zstd stream is truncated: it ends inside a frame, after byte ", consumed_));
  }

 private:
  struct Free {
    void operator()(ZSTD_DStream* stream) const { ZSTD_freeDStream(stream); }
  };
  const std::unique_ptr<ZSTD_DStream, Free> stream_;
  bool in_frame_ = true;
  bool output_pending_ = false;
  uint64_t consumed_ = 0;
};

}  // namespace

LayerCompression SniffCompression(std::string_view head) {
  if (head.starts_with(kGzipMagic)) return LayerCompression::kGzip;
  if (head.size() >= 4) {
    uint32_t magic = 0;
    for (int i = 3; i >= 0; --i) {
      magic = magic << 8 | static_cast<uint8_t>(head[static_cast<size_t>(i)]);
    }
    if (magic == kZstdMagic || (magic & kZstdSkippableMask) == kZstdSkippable) {
      return LayerCompression::kZstd;
    }
  }
  return LayerCompression::kNone;
}

absl::StatusOr<std::unique_ptr<Decompressor>> Decompressor::Create(LayerCompression compression) {
  switch (compression) {
    case LayerCompression::kGzip:
      return std::make_unique<GzipDecompressor>();
    case LayerCompression::kZstd:
      return ZstdDecompressor::Create();
    case LayerCompression::kNone:
      return std::make_unique<PlainDecompressor>();
    case LayerCompression::kUnknown:
      break;
  }
  return absl::InvalidArgumentError("the compression is not known");
}

}  // namespace imagefs
