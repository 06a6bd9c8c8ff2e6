// SPDX-License-Identifier: Apache-2.0
#include <isa-l/igzip_lib.h>

#include <algorithm>
#include <cstring>

#include "base/status.h"
#include "base/text.h"
#include "image/decompress.h"
#include "image/span_table.h"
#include "image/zstd_frame.h"

namespace imagefs {
namespace {

constexpr int kWindowLevel = 9;

absl::Status WrongBytes(std::string_view why) {
  return absl::DataLossError(StrCat("the bytes of a span are not what its table says: ", why));
}

absl::Status UnpackWindow(std::string_view packed, char* window) {
  std::memset(window, 0, kDeflateWindowBytes);
  if (packed.empty()) return absl::OkStatus();
  IMAGEFS_ASSIGN_OR_RETURN(const std::string bytes, DecompressZstd(packed, kDeflateWindowBytes));
  // A short window is right-aligned: it ends where the span begins.
  std::memcpy(window + kDeflateWindowBytes - bytes.size(), bytes.data(), bytes.size());
  return absl::OkStatus();
}

// Decodes a stream into the span's buffer, discarding the bytes to skip.
class SpanOutput {
 public:
  SpanOutput(uint32_t skip, absl::Span<char> out) : skip_(skip), out_(out) {
    if (skip_ > 0) {
      scratch_size_ = std::min<size_t>(skip_, 256 << 10);
      scratch_ = std::make_unique_for_overwrite<char[]>(scratch_size_);
    }
  }
  bool full() const { return skip_ == 0 && out_.empty(); }
  absl::Span<char> room() {
    if (skip_ == 0) return out_;
    return absl::MakeSpan(scratch_.get(), std::min<size_t>(skip_, scratch_size_));
  }
  void Produced(size_t n) {
    if (skip_ > 0) {
      skip_ -= static_cast<uint32_t>(n);
    } else {
      out_ = out_.subspan(n);
    }
  }

 private:
  uint32_t skip_;
  absl::Span<char> out_;
  size_t scratch_size_ = 0;
  std::unique_ptr<char[]> scratch_;
};

absl::Status DecodeStream(LayerCompression compression, std::string_view in, SpanOutput& out) {
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<Decompressor> decompressor,
                           Decompressor::Create(compression));
  while (!out.full()) {
    IMAGEFS_ASSIGN_OR_RETURN(const Decompressor::Step step, decompressor->Run(in, out.room()));
    in.remove_prefix(step.consumed);
    out.Produced(step.produced);
    if (step.consumed == 0 && step.produced == 0) return WrongBytes("they end too early");
  }
  return absl::OkStatus();
}

// Decodes the rest of a deflate stream from a block on, with a 32 KiB window.
class DeflateTail {
 public:
  DeflateTail(uint8_t bit, std::string_view in, std::string_view window)
      : state_(std::make_unique_for_overwrite<inflate_state>()) {
    isal_inflate_init(state_.get());
    state_->crc_flag = ISAL_DEFLATE;
    isal_inflate_set_dict(state_.get(),
                          reinterpret_cast<uint8_t*>(const_cast<char*>(window.data())),
                          static_cast<uint32_t>(window.size()));
    if (bit != 0 && !in.empty()) {
      state_->read_in = static_cast<uint8_t>(in[0]) >> bit;
      state_->read_in_length = 8 - bit;
      in.remove_prefix(1);
    }
    state_->next_in = reinterpret_cast<uint8_t*>(const_cast<char*>(in.data()));
    state_->avail_in = static_cast<uint32_t>(in.size());
  }

  // Fills `out` until the input or the stream ends.
  absl::StatusOr<size_t> Run(absl::Span<char> out) {
    state_->next_out = reinterpret_cast<uint8_t*>(out.data());
    state_->avail_out = static_cast<uint32_t>(out.size());
    if (isal_inflate(state_.get()) != ISAL_DECOMP_OK)
      return WrongBytes("not a valid deflate stream");
    return out.size() - state_->avail_out;
  }
  bool ended() const { return state_->block_state == ISAL_BLOCK_FINISH; }
  // Input after the end, including whole bytes that the decoder has buffered.
  size_t left() const { return state_->avail_in + static_cast<size_t>(state_->read_in_length / 8); }

 private:
  const std::unique_ptr<inflate_state> state_;
};

// Decodes the rest of a member from a block on, then the members after its trailer.
absl::Status DecodeDeflate(const SpanEntry& span, std::string_view packed_window,
                           std::string_view in, SpanOutput& out) {
  auto window = std::make_unique_for_overwrite<char[]>(kDeflateWindowBytes);
  IMAGEFS_RETURN_IF_ERROR(UnpackWindow(packed_window, window.get()));
  DeflateTail tail(span.bit, in, std::string_view(window.get(), kDeflateWindowBytes));
  while (!out.full() && !tail.ended()) {
    IMAGEFS_ASSIGN_OR_RETURN(const size_t produced, tail.Run(out.room()));
    out.Produced(produced);
    if (produced == 0 && !tail.ended()) return WrongBytes("they end too early");
  }
  if (out.full()) return absl::OkStatus();
  constexpr size_t kTrailerBytes = 8;  // CRC-32 and length
  if (tail.left() < kTrailerBytes) return WrongBytes("they end too early");
  return DecodeStream(LayerCompression::kGzip, in.substr(in.size() - tail.left() + kTrailerBytes),
                      out);
}

absl::Status WrongSize() { return absl::InternalError("a span of a different size"); }

// Compares the digest of a span, if it is one of that kind, with what it is of.
absl::Status CheckDigest(const SpanEntry& span, SpanDigest of, std::string_view bytes) {
  if (span.digest_of != of || Sha256Of(bytes) == span.digest) return absl::OkStatus();
  return WrongBytes("a different digest");
}

}  // namespace

absl::StatusOr<std::string_view> StoredData(const SpanEntry& span, std::string_view blob_bytes) {
  if (blob_bytes.size() != span.blob_bytes) return WrongSize();
  const std::string_view data = blob_bytes.substr(span.skip, span.data_bytes);
  IMAGEFS_RETURN_IF_ERROR(CheckDigest(span, SpanDigest::kOfBlob, blob_bytes));
  IMAGEFS_RETURN_IF_ERROR(CheckDigest(span, SpanDigest::kOfData, data));
  return data;
}

absl::Status CheckBlobBytes(const SpanEntry& span, std::string_view blob_bytes) {
  if (blob_bytes.size() != span.blob_bytes) return WrongSize();
  return CheckDigest(span, SpanDigest::kOfBlob, blob_bytes);
}

absl::Status DecodeSpan(const SpanEntry& span, std::string_view packed_window,
                        std::string_view blob_bytes, absl::Span<char> out) {
  if (out.size() != span.data_bytes || blob_bytes.size() != span.blob_bytes) return WrongSize();
  if (span.codec == SpanCodec::kStored) {
    IMAGEFS_ASSIGN_OR_RETURN(const std::string_view data, StoredData(span, blob_bytes));
    std::memcpy(out.data(), data.data(), out.size());
    return absl::OkStatus();
  }
  IMAGEFS_RETURN_IF_ERROR(CheckDigest(span, SpanDigest::kOfBlob, blob_bytes));
  SpanOutput output(span.skip, out);
  absl::Status status;
  switch (span.codec) {
    case SpanCodec::kStored:  // see above
      break;
    case SpanCodec::kGzip:
      status = DecodeStream(LayerCompression::kGzip, blob_bytes, output);
      break;
    case SpanCodec::kDeflate:
      status = DecodeDeflate(span, packed_window, blob_bytes, output);
      break;
    case SpanCodec::kZstd:
      status = DecodeStream(LayerCompression::kZstd, blob_bytes, output);
      break;
    case SpanCodec::kZstdBegin:
    case SpanCodec::kZstdNext:
      return absl::InternalError("a part of a zstd frame has to be decoded after those before it");
  }
  IMAGEFS_RETURN_IF_ERROR(status);
  return CheckDigest(span, SpanDigest::kOfData, std::string_view(out.data(), out.size()));
}

// Decodes the same bytes over two windows whose bytes encode their own positions: output that comes
// from the window thus identifies its position, even through copies of copies. Only the first 32
// KiB of output can refer back beyond the span. A literal that happens to match keeps one byte too
// many.
absl::StatusOr<std::vector<bool>> UsedWindow(const SpanEntry& span, std::string_view blob_bytes) {
  constexpr size_t kWindow = kDeflateWindowBytes;
  std::string low(kWindow, '\0'), high(kWindow, '\0');
  for (size_t i = 0; i < kWindow; ++i) {
    low[i] = static_cast<char>(i & 0xff);
    high[i] = static_cast<char>(i >> 8);
  }
  std::string outputs[2];
  size_t got = 0;
  for (int i = 0; i < 2; ++i) {
    outputs[i].resize(kWindow);
    DeflateTail tail(span.bit, blob_bytes, i == 0 ? low : high);
    IMAGEFS_ASSIGN_OR_RETURN(got, tail.Run(absl::MakeSpan(outputs[i])));
  }
  std::vector<bool> used(kWindow, false);
  for (size_t i = 0; i < got; ++i) {
    const size_t place = static_cast<size_t>(static_cast<uint8_t>(outputs[1][i])) << 8 |
                         static_cast<uint8_t>(outputs[0][i]);
    if (place < kWindow) used[place] = true;
  }
  return used;
}

std::string PackWindow(std::string_view window, const std::vector<bool>& all_used) {
  std::string kept(
      window.substr(window.size() - std::min<size_t>(window.size(), kDeflateWindowBytes)));
  // Restrict `used` to exactly these bytes.
  std::vector<bool> used = all_used;
  if (used.size() > kept.size()) {
    used.erase(used.begin(), used.end() - static_cast<std::ptrdiff_t>(kept.size()));
  }
  bool any = used.empty() && !kept.empty();
  for (size_t i = 0; i < kept.size() && i < used.size(); ++i) {
    if (used[i]) {
      any = true;
    } else {
      kept[i] = '\0';
    }
  }
  if (!any) return "";
  // Drop the unused prefix.
  if (!used.empty()) {
    const size_t first =
        static_cast<size_t>(std::find(used.begin(), used.end(), true) - used.begin());
    kept.erase(0, first);
  }
  return CompressZstd(kept, kWindowLevel);
}

}  // namespace imagefs
