// SPDX-License-Identifier: Apache-2.0
#include "image/decompress.h"

#include <isa-l/igzip_lib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr std::string_view kGzipMagic = "\x1f\x8b";

class PlainDecompressor : public Decompressor {
 public:
  explicit PlainDecompressor(uint64_t point_spacing) : Decompressor(point_spacing) {}
  absl::StatusOr<Step> Run(std::string_view in, absl::Span<char> out) override {
    if (PointIsDue(at_)) AddPoint({at_, at_, SpanCodec::kStored, 0});
    // A point is where it is due, and not where the caller's buffer happens to begin.
    const size_t n = std::min<uint64_t>({in.size(), out.size(), UntilPointIsDue(at_)});
    std::memcpy(out.data(), in.data(), n);
    at_ += n;
    return Step{n, n};
  }
  absl::Status Finish() override { return absl::OkStatus(); }

 private:
  uint64_t at_ = 0;
};

// Parses a gzip member header (RFC 1952) byte by byte. ISA-L's header parser rejects valid headers
// with a header checksum when they arrive in pieces. This does not verify that checksum: the digest
// of the blob covers it.
class GzipHeader {
 public:
  bool done() const { return part_ == Part::kDone; }

  // Returns null, or why the byte is invalid.
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

  // Enters the first part from `part` on that this header has.
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
  uint32_t left_ = 0;  // bytes remaining in the extra field
};

// A sequence of members; only zeros may follow the last one (padding to a record size).
class GzipDecompressor : public Decompressor {
 public:
  explicit GzipDecompressor(uint64_t point_spacing)
      : Decompressor(point_spacing), state_(std::make_unique<inflate_state>()) {
    StartMember();
  }

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
    state_->crc_flag = ISAL_GZIP_NO_HDR_VER;  // verifies CRC-32 and length in the trailer
    header_ = GzipHeader();
    place_ = Place::kInMember;
    output_pending_ = false;
    level_ = 0;
    if (PointIsDue(consumed_)) AddPoint({consumed_, produced_, SpanCodec::kGzip, 0});
  }

  size_t SkipPadding(std::string_view in) {
    size_t zeros = 0;
    while (zeros < in.size() && in[zeros] == '\0') ++zeros;
    consumed_ += zeros;
    padded_ = padded_ || zeros > 0;
    return zeros;
  }

  absl::Status Inflate(std::string_view in, absl::Span<char> out, Step& step) {
    // ISA-L counts in 32 bits; callers pass a few hundred KiB.
    const std::string_view rest = in.substr(step.consumed, 1u << 30);
    const absl::Span<char> room = out.subspan(step.produced, 1u << 30);
    Step done;
    if (const uint64_t until = UntilPointIsDue(consumed_); until == 0) {
      IMAGEFS_ASSIGN_OR_RETURN(done, SearchBlock(rest, room));
    } else {
      IMAGEFS_ASSIGN_OR_RETURN(done, InflatePiece(rest.substr(0, until), room));
    }
    step.consumed += done.consumed;
    step.produced += done.produced;
    return absl::OkStatus();
  }

  absl::StatusOr<Step> InflatePiece(std::string_view in, absl::Span<char> out) {
    state_->next_in = reinterpret_cast<uint8_t*>(const_cast<char*>(in.data()));
    state_->avail_in = static_cast<uint32_t>(in.size());
    state_->next_out = reinterpret_cast<uint8_t*>(out.data());
    state_->avail_out = static_cast<uint32_t>(out.size());
    const int result = isal_inflate(state_.get());
    const Step step{in.size() - state_->avail_in, out.size() - state_->avail_out};
    consumed_ += step.consumed;
    produced_ += step.produced;
    if (result != ISAL_DECOMP_OK) return Corrupt(Reason(result));
    output_pending_ = state_->avail_out == 0;
    if (state_->block_state == ISAL_BLOCK_FINISH) place_ = Place::kBetween;
    if (step.consumed == 0 && step.produced == 0 && place_ == Place::kInMember && !in.empty()) {
      return Corrupt("no progress");
    }
    return step;
  }

  // Decodes up to the next block boundary. ISA-L does not report block boundaries, but stops
  // exactly at one if its input ends there. The input is therefore fed in pieces; if the code
  // tables changed within a piece, a block began in it, and the piece is decoded again in smaller
  // pieces. A block whose header fits into the smallest piece may be missed. Pieces end at
  // multiples of their size, so that the points found do not depend on how the input was split.
  absl::StatusOr<Step> SearchBlock(std::string_view in, absl::Span<char> out) {
    const size_t size = kSearchPieces[level_];
    size_t piece = std::min(in.size(), size - static_cast<size_t>(consumed_ % size));
    bool stored_end = false;
    if (state_->block_state == ISAL_BLOCK_TYPE0) {
      const int32_t left = state_->type0_block_len - state_->read_in_length / 8;
      stored_end = left > 0 && static_cast<size_t>(left) <= piece;
      if (stored_end) piece = static_cast<size_t>(left);
    }
    const bool last_level = level_ + 1 == kSearchPieces.size();
    if (!last_level) {
      if (saved_ == nullptr) saved_ = std::make_unique_for_overwrite<inflate_state>();
      std::memcpy(saved_.get(), state_.get(), sizeof(inflate_state));
    }
    const uint64_t consumed = consumed_, produced = produced_;
    const bool pending = output_pending_;
    IMAGEFS_ASSIGN_OR_RETURN(const Step step, InflatePiece(in.substr(0, piece), out));
    if ((stored_end || consumed_ % size == 0) && NotePoint()) {
      level_ = 0;
      return step;
    }
    if (!last_level && !SameCodes(*saved_, *state_)) {
      std::memcpy(state_.get(), saved_.get(), sizeof(inflate_state));
      consumed_ = consumed;
      produced_ = produced;
      output_pending_ = pending;
      place_ = Place::kInMember;
      ++level_;
      return SearchBlock(in, out);
    }
    // The block found at the coarsest level has been passed.
    if (consumed_ % kSearchPieces[0] == 0) level_ = 0;
    return step;
  }

  // Returns true if the decoder is at a block boundary and has delivered all output before it.
  bool NotePoint() {
    if (state_->block_state != ISAL_BLOCK_NEW_HDR && state_->block_state != ISAL_BLOCK_HDR) {
      return false;
    }
    if (output_pending_ || state_->read_in_length < 0) return false;
    const uint64_t bits = (consumed_ - static_cast<uint64_t>(state_->tmp_in_size)) * 8 -
                          static_cast<uint64_t>(state_->read_in_length);
    AddPoint({bits / 8, produced_, SpanCodec::kDeflate, static_cast<uint8_t>(bits % 8)});
    return true;
  }

  static bool SameCodes(const inflate_state& a, const inflate_state& b) {
    return std::memcmp(&a.lit_huff_code, &b.lit_huff_code, sizeof(a.lit_huff_code)) == 0 &&
           std::memcmp(&a.dist_huff_code, &b.dist_huff_code, sizeof(a.dist_huff_code)) == 0;
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

  static constexpr std::array<size_t, 3> kSearchPieces = {8 << 10, 512, 16};

  const std::unique_ptr<inflate_state> state_;
  std::unique_ptr<inflate_state> saved_;
  size_t level_ = 0;  // search level: index into kSearchPieces
  GzipHeader header_;
  Place place_ = Place::kInMember;
  bool output_pending_ = false;  // the output was full: more may follow without further input
  bool padded_ = false;
  uint64_t consumed_ = 0;
  uint64_t produced_ = 0;
};

class ZstdDecompressor : public Decompressor {
 public:
  static absl::StatusOr<std::unique_ptr<Decompressor>> Create(uint64_t point_spacing,
                                                              ZstdWindowGrant grant) {
    auto decompressor = std::make_unique<ZstdDecompressor>(point_spacing, std::move(grant));
    IMAGEFS_RETURN_IF_ERROR(decompressor->Renew());
    return decompressor;
  }
  ZstdDecompressor(uint64_t point_spacing, ZstdWindowGrant grant)
      : Decompressor(point_spacing), grant_(std::move(grant)) {}

  absl::StatusOr<Step> Run(std::string_view in, absl::Span<char> out) override {
    ZSTD_inBuffer input = {in.data(), in.size(), 0};
    ZSTD_outBuffer output = {out.data(), out.size(), 0};
    while (output.pos < output.size &&
           (input.pos < input.size || output_pending_ || head_fed_ < head_.size())) {
      if (place_ != Place::kInFrame) {
        IMAGEFS_ASSIGN_OR_RETURN(const bool begun, BeginFrame(input, produced_ + output.pos));
        if (!begun) break;
      }
      IMAGEFS_RETURN_IF_ERROR(Decode(input, output));
    }
    produced_ += output.pos;
    return Step{input.pos, output.pos};
  }

  absl::Status Finish() override {
    if (place_ == Place::kBetween && head_.empty()) return absl::OkStatus();
    return absl::DataLossError(
        StrCat("the zstd stream is truncated: it ends inside a frame, after byte ", consumed_));
  }

 private:
  enum class Place { kStart, kBetween, kInFrame };
  struct Free {
    void operator()(ZSTD_DStream* stream) const { ZSTD_freeDStream(stream); }
  };

  absl::Status Renew() {
    stream_.reset(ZSTD_createDStream());
    if (stream_ == nullptr) return absl::ResourceExhaustedError("no memory for a zstd stream");
    ZSTD_DCtx_setParameter(stream_.get(), ZSTD_d_windowLogMax, kMaxZstdWindowLog);
    return absl::OkStatus();
  }

  // Obtains memory for the frame that begins here. Returns false if the input ends before the
  // amount is known; the partial header is kept in head_.
  absl::StatusOr<bool> BeginFrame(ZSTD_inBuffer& input, uint64_t produced) {
    if (head_.empty() && PointIsDue(consumed_)) {
      AddPoint({consumed_, produced, SpanCodec::kZstd, 0});
    }
    const std::string_view rest(static_cast<const char*>(input.src) + input.pos,
                                input.size - input.pos);
    std::optional<ZstdDemand> demand;
    if (head_.empty()) demand = ZstdDemandOf(rest.substr(0, kMaxZstdHeadBytes));
    for (size_t i = 0; !demand.has_value() && i < rest.size(); ++i) {
      head_.push_back(rest[i]);
      ++input.pos;
      ++consumed_;
      demand = ZstdDemandOf(head_);
    }
    if (!demand.has_value()) return false;
    IMAGEFS_RETURN_IF_ERROR(Admit(*demand));
    place_ = Place::kInFrame;
    return true;
  }

  absl::Status Admit(const ZstdDemand& demand) {
    if (demand.window > uint64_t{1} << kMaxZstdWindowLog) {
      return absl::FailedPreconditionError(StrCat(
          "the zstd frame at compressed byte ", consumed_ - head_.size(), " asks for a window of ",
          demand.window >> 20, " MiB, but at most ", (1 << kMaxZstdWindowLog) >> 20,
          " MiB are allowed, as in the runtimes; compress the layer with --long=",
          kMaxZstdWindowLog, " or less"));
    }
    if (demand.memory <= std::max(kSmallZstdWindow, lease_.bytes()) || grant_ == nullptr) {
      return absl::OkStatus();
    }
    // Release the smaller window first: holding one while waiting for more can deadlock.
    if (lease_.bytes() > 0) IMAGEFS_RETURN_IF_ERROR(Renew());
    lease_.Return();
    IMAGEFS_ASSIGN_OR_RETURN(lease_, grant_(demand.memory));
    return absl::OkStatus();
  }

  absl::Status Decode(ZSTD_inBuffer& input, ZSTD_outBuffer& output) {
    size_t result;
    if (head_fed_ < head_.size()) {
      ZSTD_inBuffer head = {head_.data(), head_.size(), head_fed_};
      result = ZSTD_decompressStream(stream_.get(), &output, &head);
      head_fed_ = head.pos;
    } else {
      const size_t before = input.pos;
      result = ZSTD_decompressStream(stream_.get(), &output, &input);
      consumed_ += input.pos - before;
    }
    if (ZSTD_isError(result) != 0) {
      return absl::DataLossError(StrCat("the zstd stream is corrupt near compressed byte ",
                                        consumed_, ": ", ZSTD_getErrorName(result)));
    }
    // 0: a frame has ended and all its output has been written; another may follow.
    if (result == 0) {
      place_ = Place::kBetween;
      head_.clear();
      head_fed_ = 0;
    }
    output_pending_ = result != 0 && output.pos == output.size;
    return absl::OkStatus();
  }

  const ZstdWindowGrant grant_;
  ByteBudget::Lease lease_;  // for the memory of stream_
  std::unique_ptr<ZSTD_DStream, Free> stream_;
  Place place_ = Place::kStart;
  std::string head_;     // the frame's first bytes, if they arrived in pieces
  size_t head_fed_ = 0;  // how many of them stream_ has received
  bool output_pending_ = false;
  uint64_t consumed_ = 0;
  uint64_t produced_ = 0;
};

}  // namespace

LayerCompression SniffCompression(std::string_view head) {
  if (head.starts_with(kGzipMagic)) return LayerCompression::kGzip;
  if (head.size() >= 4) {
    uint32_t magic = 0;
    for (int i = 3; i >= 0; --i) {
      magic = magic << 8 | static_cast<uint8_t>(head[static_cast<size_t>(i)]);
    }
    if (magic == kZstdMagic || IsSkippableZstd(magic)) return LayerCompression::kZstd;
  }
  return LayerCompression::kNone;
}

absl::StatusOr<std::unique_ptr<Decompressor>> Decompressor::Create(LayerCompression compression,
                                                                   uint64_t point_spacing,
                                                                   ZstdWindowGrant grant) {
  switch (compression) {
    case LayerCompression::kGzip:
      return std::make_unique<GzipDecompressor>(point_spacing);
    case LayerCompression::kZstd:
      return ZstdDecompressor::Create(point_spacing, std::move(grant));
    case LayerCompression::kNone:
      return std::make_unique<PlainDecompressor>(point_spacing);
    case LayerCompression::kUnknown:
      break;
  }
  return absl::InvalidArgumentError("unknown compression");
}

}  // namespace imagefs
