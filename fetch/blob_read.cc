// SPDX-License-Identifier: Apache-2.0
#include "fetch/blob_read.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "fetch/registry.h"

namespace imagefs {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kSmallAnswerBytes = 16 << 10;
constexpr int kMaxSmallAnswers = 16;

}  // namespace

std::optional<ContentRange> ParseContentRange(std::string_view header) {
  if (ToLower(header.substr(0, 5)) != "bytes") return std::nullopt;
  header.remove_prefix(5);
  while (ConsumePrefix(&header, " ") || ConsumePrefix(&header, "=")) {
  }
  const size_t dash = header.find('-');
  const size_t slash = header.find('/');
  if (dash == std::string_view::npos || slash == std::string_view::npos || slash < dash) {
    return std::nullopt;
  }
  const std::optional<uint64_t> first = ParseDecimal(header.substr(0, dash));
  const std::optional<uint64_t> last = ParseDecimal(header.substr(dash + 1, slash - dash - 1));
  if (!first || !last || *last < *first || *last == UINT64_MAX) return std::nullopt;
  ContentRange range{*first, *last + 1, std::nullopt};
  const std::string_view total = header.substr(slash + 1);
  if (total == "*") return range;
  range.total = ParseDecimal(total);
  if (!range.total || *range.total < range.end) return std::nullopt;
  return range;
}

void BlobRead::Run(std::shared_ptr<RegistryShared> shared, std::shared_ptr<RegistryRoute> route,
                   What what, CancelToken cancel, ImageSource::BlobSink sink,
                   ImageSource::BlobDone done) {
  HttpClient& http = shared->http;
  RangeSet wanted = std::move(what.wanted);
  std::shared_ptr<BlobRead> read(new BlobRead(std::move(shared), std::move(route), std::move(what),
                                              std::move(sink), std::move(done)));
  http.After({}, [read = std::move(read), wanted = std::move(wanted), cancel = std::move(cancel)] {
    read->registration_ = OnCancelAt(read->shared_->http, cancel, [weak = std::weak_ptr(read)] {
      if (const auto self = weak.lock()) self->Finish(absl::CancelledError("read cancelled"));
    });
    read->Split(wanted);
    read->Pump();
  });
}

BlobRead::BlobRead(std::shared_ptr<RegistryShared> shared, std::shared_ptr<RegistryRoute> route,
                   What what, ImageSource::BlobSink sink, ImageSource::BlobDone done)
    : shared_(std::move(shared)),
      route_(std::move(route)),
      digest_(what.blob.digest),
      size_(what.blob.size),
      urls_(what.blob.urls),
      what_(StrCat("blob ", digest_.Short(), " of ", route_->Name())),
      options_(std::move(what.options)),
      in_memory_(what.in_memory),
      sink_(std::move(sink)),
      done_(std::move(done)) {}

RegistryShared::Host::Ranges BlobRead::KnownRanges() {
  return shared_->HostState(route_->endpoints().front()->at.host).ranges;
}

void BlobRead::Split(const RangeSet& wanted) {
  if (options_.anew) avoid_ = shared_->health.Blame(digest_, wanted.ranges(), Clock::now());
  const uint64_t step = std::max<uint64_t>(1, shared_->options.range_bytes);
  for (const ByteRange& range : wanted.ranges()) {
    for (uint64_t begin = range.begin; begin < range.end;) {
      const uint64_t end = range.end - begin > step ? begin + step : range.end;
      waiting_.push_back({begin, end});
      begin = end;
    }
  }
  plain_get_ = waiting_.size() == 1 && waiting_.front() == ByteRange{0, size_};
  const auto support = KnownRanges();
  if (!plain_get_) {
    probing_ = support == RegistryShared::Host::Ranges::kUnknown;
    whole_mode_ = support == RegistryShared::Host::Ranges::kIgnored;
  }
}

// Starts as many pieces as may be in flight; finishes when nothing is left.
void BlobRead::Pump() {
  if (done_.called()) return;
  if (whole_mode_ && options_.only_parts) return Finish(NoParts());
  if (whole_mode_ && in_flight_.empty() && !waiting_.empty()) {
    // A single stream delivers everything.
    wanted_.assign(waiting_.begin(), waiting_.end());
    waiting_.clear();
    auto piece = std::make_shared<Piece>();
    piece->range = {0, size_};
    piece->whole = true;
    return StartPiece(std::move(piece));
  }
  const size_t limit = probing_ ? 1 : std::max(1, shared_->options.ranges_per_blob);
  while (!whole_mode_ && !waiting_.empty() && in_flight_.size() < limit && !done_.called()) {
    auto piece = std::make_shared<Piece>();
    piece->range = waiting_.front();
    piece->next = piece->range.begin;
    waiting_.pop_front();
    StartPiece(std::move(piece));
  }
  if (in_flight_.empty() && waiting_.empty()) Finish(absl::OkStatus());
}

void BlobRead::StartPiece(std::shared_ptr<Piece> piece) {
  in_flight_.push_back(piece);
  FailoverCall::What what;
  what.avoid = avoid_;
  RegistryCall::Spec& spec = what.spec;
  spec.path = StrCat("blobs/", digest_.ToString());
  spec.what = what_;
  spec.priority = options_.priority;
  spec.once = options_.once;
  spec.hedge = options_.hedge;
  spec.anew = options_.anew;
  if (in_memory_) spec.sink_collects = piece->range.size();
  spec.restarts = KnownRanges() != RegistryShared::Host::Ranges::kSupported;
  spec.keep_redirect = true;
  spec.image_urls = urls_;
  spec.range = [self = shared_from_this(), piece] { return self->RangeHeader(*piece); };
  spec.answers = [piece](int status) { return status == 416 && !piece->whole; };
  spec.on_headers = [self = shared_from_this(), piece](const RegistryEndpoint& endpoint,
                                                       const HttpResponse& response) {
    return self->OnHeaders(piece, endpoint, response);
  };
  FailoverCall::Run(
      shared_, route_, std::move(what), piece->cancel.token(),
      [self = shared_from_this(), piece](absl::StatusOr<HttpResponse> response) {
        if (response.ok() ? response->status == 416 : absl::IsOutOfRange(response.status())) {
          self->LeaveRanges(*piece);
        }
        self->OnPieceDone(piece, response.status());
      });
}

std::optional<std::string> BlobRead::RangeHeader(Piece& piece) {
  if (piece.whole) {
    if (wanted_.empty()) return std::nullopt;
    return "";
  }
  if (piece.next == piece.range.end) return std::nullopt;
  if (piece.next > piece.range.begin && piece.asked_before) {
    shared_->resumes.fetch_add(1, std::memory_order_relaxed);
  }
  piece.asked_before = true;
  if (plain_get_ && piece.next == 0) return "";
  return StrCat("bytes=", piece.next, "-", piece.range.end - 1);
}

absl::StatusOr<HttpClient::Sink> BlobRead::OnHeaders(const std::shared_ptr<Piece>& piece,
                                                     const RegistryEndpoint& endpoint,
                                                     const HttpResponse& response) {
  if (done_.called()) return absl::CancelledError("read is over");
  answering_ = endpoint.host;
  // Without a Content-Range, treat 206 as 200 if the whole blob was requested.
  const bool part = response.status == 206 &&
                    (!AskedForAll(*piece) || response.headers.contains("content-range"));
  const absl::Status status =
      part ? TakeRange(*piece, endpoint, response) : TakeWhole(*piece, endpoint, response);
  if (!status.ok()) return status;
  if (route_->endpoints().size() > 1) {
    const ByteRange served =
        piece->whole ? ByteRange{0, size_} : ByteRange{piece->next, piece->range.end};
    shared_->health.Serves(endpoint.name, digest_, served);
  }
  if (probing_ && !whole_mode_) {
    probing_ = false;
    Pump();
  }
  return HttpClient::Sink([self = shared_from_this(), piece](std::string_view data) {
    if (self->done_.called()) return absl::CancelledError("read is over");
    // A cancelled transfer may continue briefly.
    if (self->whole_mode_ && !piece->whole)
      return absl::CancelledError("another stream delivers it");
    return piece->whole ? self->OnWholeData(*piece, data) : self->OnRangeData(*piece, data);
  });
}

absl::Status BlobRead::Mismatch(const std::string& why) const {
  return absl::DataLossError(
      StrCat(what_, ": ", answering_, " ", why,
             "; check the registry and everything in between, or have the image pushed again"));
}

absl::Status BlobRead::NoParts() const {
  return absl::UnimplementedError(
      StrCat(what_, ": ", answering_.empty() ? "its host" : answering_, " sends whole blobs only"));
}

bool BlobRead::AskedForAll(const Piece& piece) const {
  return piece.whole || (plain_get_ && piece.next == 0);
}

// The behavior of an image's own URLs says nothing about its registry.
void BlobRead::NoteRanges(const RegistryEndpoint& endpoint, RegistryShared::Host::Ranges ranges) {
  if (urls_.empty()) shared_->HostState(endpoint.at.host).ranges = ranges;
}

absl::Status BlobRead::TakeRange(Piece& piece, const RegistryEndpoint& endpoint,
                                 const HttpResponse& response) {
  const std::string header = response.Header("content-range");
  const std::optional<ContentRange> range = ParseContentRange(header);
  if (piece.whole) {
    const bool all = range && range->begin == 0 && range->end == size_;
    return all ? TakeWhole(piece, endpoint, response)
               : Mismatch(StrCat("answered with range \"", Printable(header),
                                 "\" where all of it was asked for"));
  }
  if (!range || range->begin != piece.next || range->end > piece.range.end ||
      range->total.value_or(size_) != size_ ||
      ToLower(response.Header("content-type")).starts_with("multipart/")) {
    return absl::OutOfRangeError(StrCat(what_, ": ", endpoint.host, " answers with range \"",
                                        Printable(header), "\" where bytes ", piece.next, "-",
                                        piece.range.end - 1, " were asked for"));
  }
  NoteRanges(endpoint, RegistryShared::Host::Ranges::kSupported);
  return absl::OkStatus();
}

void BlobRead::LeaveRanges(const Piece& piece) {
  if (whole_mode_ || done_.called()) return;
  LogDebug("blob_ranges_left blob=", digest_.Short(), " host=", answering_);
  whole_mode_ = true;
  for (const auto& other : in_flight_) {
    if (other->next < other->range.end) waiting_.push_back({other->next, other->range.end});
    if (other.get() != &piece) other->cancel.Cancel();
  }
  std::sort(waiting_.begin(), waiting_.end());
}

// Handles a response with the whole blob, whether requested or because the server ignores Range.
absl::Status BlobRead::TakeWhole(Piece& piece, const RegistryEndpoint& endpoint,
                                 const HttpResponse& response) {
  if (const std::optional<uint64_t> length = ParseDecimal(response.Header("content-length"));
      length && *length != size_) {
    return Mismatch(StrCat("has ", *length, " bytes of it where the manifest says ", size_));
  }
  if (!piece.whole && AskedForAll(piece)) return absl::OkStatus();
  if (!whole_mode_) {
    NoteRanges(endpoint, RegistryShared::Host::Ranges::kIgnored);
    if (options_.only_parts) {
      Finish(NoParts());
      return absl::CancelledError("read is over");
    }
    whole_mode_ = true;
    wanted_.assign(waiting_.begin(), waiting_.end());
    waiting_.clear();
    // This stream also delivers the other pieces.
    for (const auto& other : in_flight_) {
      if (other->next < other->range.end) wanted_.push_back({other->next, other->range.end});
      if (other.get() != &piece) other->cancel.Cancel();
    }
    std::sort(wanted_.begin(), wanted_.end());
    piece.whole = true;
  } else if (!piece.whole) {
    return absl::CancelledError("another stream delivers these bytes");
  }
  piece.position = 0;
  return absl::OkStatus();
}

// An error of the sink ends the read immediately, before another range delivers more.
absl::Status BlobRead::Deliver(uint64_t offset, std::string_view data) {
  absl::Status status = sink_(offset, data);
  if (!status.ok()) Finish(status);
  return status;
}

absl::Status BlobRead::OnRangeData(Piece& piece, std::string_view data) {
  if (data.size() > piece.range.end - piece.next) {
    return Mismatch(StrCat("sends more than the bytes up to ", piece.range.end));
  }
  IMAGEFS_RETURN_IF_ERROR(Deliver(piece.next, data));
  piece.next += data.size();
  return absl::OkStatus();
}

absl::Status BlobRead::OnWholeData(Piece& piece, std::string_view data) {
  if (data.size() > size_ - piece.position) {
    return Mismatch(StrCat("sends more than its ", size_, " bytes"));
  }
  const uint64_t begin = piece.position;
  piece.position += data.size();
  while (!wanted_.empty() && wanted_.front().begin < piece.position) {
    ByteRange& want = wanted_.front();
    const uint64_t from = std::max(want.begin, begin);
    const uint64_t to = std::min(want.end, piece.position);
    if (want.begin < begin) return Mismatch("lost its place");
    IMAGEFS_RETURN_IF_ERROR(Deliver(from, data.substr(from - begin, to - from)));
    want.begin = to;
    if (want.empty()) wanted_.pop_front();
  }
  if (!wanted_.empty()) return absl::OkStatus();
  // Everything wanted has been delivered: do not wait for the rest of the stream.
  if (piece.position < size_) {
    Finish(absl::OkStatus());
    return absl::CancelledError("read is over");
  }
  return absl::OkStatus();
}

void BlobRead::OnPieceDone(const std::shared_ptr<Piece>& piece, const absl::Status& status) {
  in_flight_.erase(std::remove(in_flight_.begin(), in_flight_.end(), piece), in_flight_.end());
  if (done_.called()) return;
  if (whole_mode_ && !piece->whole) return Pump();  // replaced by a stream of the whole blob
  if (!status.ok()) return Finish(status);
  if (piece->whole) {
    if (!wanted_.empty()) return Finish(Mismatch("ended the blob too early"));
  } else if (piece->next < piece->range.end) {
    if (plain_get_ || piece->next == piece->range.begin) {
      return Finish(Mismatch(StrCat("sent ", piece->next, " bytes of ", piece->range.end)));
    }
    // A server may return less than the requested range, but must not feed its client byte by byte.
    const uint64_t brought = piece->next - piece->range.begin;
    piece->small_answers = brought < kSmallAnswerBytes ? piece->small_answers + 1 : 0;
    if (piece->small_answers >= kMaxSmallAnswers) {
      return Finish(Mismatch(StrCat("repeatedly answers with only a few bytes (", brought,
                                    ") of the range that was asked for")));
    }
    piece->range.begin = piece->next;
    piece->asked_before = false;
    return StartPiece(piece);
  }
  Pump();
}

void BlobRead::Finish(absl::Status status) {
  if (done_.called()) return;
  const auto keep = shared_from_this();
  registration_.Reset();
  for (const auto& piece : in_flight_) piece->cancel.Cancel();
  waiting_.clear();
  done_(std::move(status));
}

}  // namespace imagefs
