// SPDX-License-Identifier: Apache-2.0
#include "cache/span_stream.h"

#include <algorithm>
#include <utility>

#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"

namespace imagefs {
namespace {

constexpr uint64_t kMaxGapBytes = 1 << 20;  // between two spans: members without content, trailers
constexpr uint64_t kRestBytes = 256 << 10;  // of the blob after the last span, at a time

absl::Status Unusable(std::string_view why) {
  return absl::DataLossError(StrCat("its span table does not fit: ", why));
}

}  // namespace

// A run of the blob that nobody has read before, with the span that ends with it. If the span
// begins within a byte of the one before, that byte comes first.
struct SpanStream::Piece {
  SpanEntry span;                        // data_bytes = 0: there is none
  uint64_t begin = 0;                    // of `blob`, in the blob
  size_t blob_bytes = 0, old_bytes = 0;  // of them, at the beginning, the piece before had them
  std::unique_ptr<char[]> blob, data;
  std::string window;
  bool decoded = false;  // guarded by mu_
  uint64_t size() const { return blob_bytes + span.data_bytes; }
  std::string_view tar() const { return {data.get(), span.data_bytes}; }
};

absl::Status SpanStream::Check(const SpanTableReader& table, const Digest& blob, uint64_t blob_size,
                               const Digest& diff_id) {
  if (table.blob_digest() != blob || table.blob_size() != blob_size || table.diff_id() != diff_id) {
    return Unusable("it is that of another layer");
  }
  if (table.layout() != DataLayout::kTar) return Unusable("it is not that of a tar");
  uint64_t data_end = 0, blob_end = 0;
  for (size_t i = 0; i < table.span_count(); ++i) {
    const SpanEntry span = table.span(i);
    if (IsZstdPart(span.codec)) return Unusable("a zstd frame has to be decoded in order");
    if (span.data_begin != data_end || span.skip != 0) return Unusable("it has gaps");
    const bool shares = span.blob_begin + 1 == blob_end;
    if ((span.blob_begin < blob_end && !shares) || span.blob_end() <= blob_end) {
      return Unusable("its spans are not in the order of the blob");
    }
    if (span.blob_begin > blob_end + kMaxGapBytes) return Unusable("it leaves out parts");
    if (span.data_bytes > kMaxSpanBytes || span.blob_bytes > kMaxSpanBytes) {
      return Unusable("its spans are too large");
    }
    data_end = span.data_end();
    blob_end = span.blob_end();
  }
  return data_end == table.tar_bytes() ? absl::OkStatus() : Unusable("it ends early");
}

SpanStream::SpanStream(const Decoding& decoding, Read read, Admit admit, int data_fd)
    : decoding_(decoding), read_(read), admit_(admit), data_fd_(data_fd) {
  reader_ = std::thread([this] {
    EnterThread(ThreadRole::kUnpack);
    if (const absl::Status status = ReadAll(); !status.ok()) return Stop(status);
    absl::MutexLock lock(&mu_);
    all_read_ = true;
  });
  const auto hash = [this](Follower who, Sha256& to, auto bytes_of) {
    EnterThread(ThreadRole::kUnpack);
    while (true) {
      const absl::StatusOr<PieceRef> piece = Follow(who, who != kBlobHash);
      if (!piece.ok() || *piece == nullptr) return;
      to.Update(bytes_of(**piece));
    }
  };
  blob_hasher_ = std::thread([this, hash] {
    hash(kBlobHash, blob_hash_, [](const Piece& piece) {
      return std::string_view(piece.blob.get(), piece.blob_bytes).substr(piece.old_bytes);
    });
  });
  tar_hasher_ = std::thread(
      [this, hash] { hash(kTarHash, tar_hash_, [](const Piece& piece) { return piece.tar(); }); });
}

SpanStream::~SpanStream() {
  Stop(absl::CancelledError("the layer is no longer wanted"));
  for (std::thread* thread : {&reader_, &blob_hasher_, &tar_hasher_}) {
    if (thread->joinable()) thread->join();
  }
  absl::MutexLock lock(&mu_);
  auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return decoding_now_ == 0; };
  mu_.Await(absl::Condition(&none));
}

void SpanStream::Stop(const absl::Status& why) {
  absl::MutexLock lock(&mu_);
  if (status_.ok()) status_ = why;
}

absl::Status SpanStream::ReadExact(absl::Span<char> out, uint64_t offset) {
  while (!out.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(const size_t got, read_(out, offset));
    if (got == 0) return absl::DataLossError(StrCat("the blob ends at byte ", offset));
    out.remove_prefix(got);
    offset += got;
  }
  return absl::OkStatus();
}

absl::Status SpanStream::ReadAll() {
  const SpanTableReader& table = decoding_.table;
  uint64_t at = 0;  // all before it was read
  char last = 0;    // the byte before it
  for (size_t i = 0; at < table.blob_size(); ++i) {
    auto piece = std::make_shared<Piece>();
    uint64_t end = std::min(at + kRestBytes, table.blob_size());
    if (i < table.span_count()) {
      piece->span = table.span(i);
      end = piece->span.blob_end();
    }
    piece->begin = i < table.span_count() ? std::min(at, piece->span.blob_begin) : at;
    piece->old_bytes = at - piece->begin;
    piece->blob_bytes = end - piece->begin;
    IMAGEFS_RETURN_IF_ERROR(admit_(piece->span.data_bytes));
    piece->blob = std::make_unique_for_overwrite<char[]>(piece->blob_bytes);
    if (piece->old_bytes > 0) piece->blob[0] = last;
    IMAGEFS_RETURN_IF_ERROR(
        ReadExact(absl::MakeSpan(piece->blob.get() + piece->old_bytes, end - at), at));
    at = end;
    last = piece->blob[piece->blob_bytes - 1];
    if (piece->span.window_bytes > 0) {
      IMAGEFS_ASSIGN_OR_RETURN(piece->window, decoding_.window(piece->span));
    }
    IMAGEFS_RETURN_IF_ERROR(Push(std::move(piece)));
  }
  return absl::OkStatus();
}

absl::Status SpanStream::Push(PieceRef piece) {
  const bool decode = piece->span.data_bytes > 0;
  piece->decoded = !decode;
  {
    absl::MutexLock lock(&mu_);
    auto room = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return !status_.ok() || pieces_.empty() || held_bytes_ + piece->size() <= kMostBytes;
    };
    MayBlock("waiting for the next thread of a layer");
    mu_.Await(absl::Condition(&room));
    IMAGEFS_RETURN_IF_ERROR(status_);
    held_bytes_ += piece->size();
    pieces_.push_back(piece);
    if (decode) ++decoding_now_;
  }
  if (decode) {
    decoding_.threads.Submit(decoding_.priority,
                             [this, piece = std::move(piece)] { Decode(*piece); });
  }
  return absl::OkStatus();
}

void SpanStream::Decode(Piece& piece) {
  absl::Status status;
  {
    absl::MutexLock lock(&mu_);
    status = status_;
  }
  if (status.ok()) {
    SpanEntry span = piece.span;
    // The digest of the whole tar says as much.
    span.digest_of = SpanDigest::kNone;
    const std::string_view blob(piece.blob.get() + (span.blob_begin - piece.begin),
                                span.blob_bytes);
    piece.data = std::make_unique_for_overwrite<char[]>(span.data_bytes);
    status =
        DecodeSpan(span, piece.window, blob, absl::MakeSpan(piece.data.get(), span.data_bytes));
    status = Annotate(status, StrCat("the span at byte ", span.blob_begin));
    if (status.ok()) status = PwriteFull(data_fd_, piece.tar(), span.data_begin);
  }
  absl::MutexLock lock(&mu_);
  if (status_.ok()) status_ = status;
  piece.decoded = status.ok();
  --decoding_now_;
}

absl::StatusOr<SpanStream::PieceRef> SpanStream::Follow(Follower who, bool decoded) {
  absl::MutexLock lock(&mu_);
  if (std::exchange(holds_[who], false)) ++next_[who];
  const uint64_t done = *std::min_element(std::begin(next_), std::end(next_));
  for (; first_ < done; ++first_) {
    held_bytes_ -= pieces_.front()->size();
    pieces_.pop_front();
  }
  auto ready = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (!status_.ok()) return true;
    const uint64_t place = next_[who] - first_;
    return place < pieces_.size() ? !decoded || pieces_[place]->decoded : all_read_;
  };
  MayBlock("waiting for the thread before it in a layer");
  mu_.Await(absl::Condition(&ready));
  IMAGEFS_RETURN_IF_ERROR(status_);
  const uint64_t place = next_[who] - first_;
  if (place == pieces_.size()) return PieceRef();
  holds_[who] = true;
  return pieces_[place];
}

absl::StatusOr<std::string_view> SpanStream::Next() {
  while (true) {
    IMAGEFS_ASSIGN_OR_RETURN(const PieceRef piece, Follow(kCaller, true));
    if (piece == nullptr) return std::string_view();
    // It is held until the next call.
    if (piece->span.data_bytes > 0) return piece->tar();
  }
}

absl::StatusOr<SpanStream::Hashes> SpanStream::Finish() {
  for (std::thread* thread : {&reader_, &blob_hasher_, &tar_hasher_}) thread->join();
  absl::MutexLock lock(&mu_);
  IMAGEFS_RETURN_IF_ERROR(status_);
  return Hashes{blob_hash_.Finish(), std::move(tar_hash_)};
}

}  // namespace imagefs
