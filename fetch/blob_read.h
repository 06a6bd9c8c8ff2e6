// SPDX-License-Identifier: Apache-2.0
// One read of parts of a blob: splits them into ranges, keeps a few in flight, resumes each where
// it was interrupted, and copes with servers that ignore Range. Runs on the HTTP client's thread.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "base/byte_range.h"
#include "fetch/failover_call.h"
#include "fetch/source.h"

namespace imagefs {

class BlobRead : public std::enable_shared_from_this<BlobRead> {
 public:
  struct What {
    Descriptor blob;
    RangeSet wanted;  // within the blob
    ImageSource::ReadOptions options;
    bool in_memory = false;  // the sink buffers it in memory: the time limit depends on its size
  };
  // May be called on any thread.
  static void Run(std::shared_ptr<RegistryShared> shared, std::shared_ptr<RegistryRoute> route,
                  What what, CancelToken cancel, ImageSource::BlobSink sink,
                  ImageSource::BlobDone done);

 private:
  // A range in flight. `next` is the first byte not yet delivered to the sink.
  struct Piece {
    ByteRange range;
    uint64_t next = 0;
    bool asked_before = false;
    int small_answers = 0;  // consecutive responses far shorter than the requested range
    bool whole = false;     // the response is the whole blob; `position` is the offset in it
    uint64_t position = 0;
    CancelSource cancel;
  };

  BlobRead(std::shared_ptr<RegistryShared> shared, std::shared_ptr<RegistryRoute> route, What what,
           ImageSource::BlobSink sink, ImageSource::BlobDone done);

  void Split(const RangeSet& wanted);
  void Pump();
  void StartPiece(std::shared_ptr<Piece> piece);
  std::optional<std::string> RangeHeader(Piece& piece);
  absl::StatusOr<HttpClient::Sink> OnHeaders(const std::shared_ptr<Piece>& piece,
                                             const RegistryEndpoint& endpoint,
                                             const HttpResponse& response);
  // Whether the response should be the whole blob, from its first byte on.
  bool AskedForAll(const Piece& piece) const;
  void NoteRanges(const RegistryEndpoint& endpoint, RegistryShared::Host::Ranges ranges);
  // What is known of the endpoint that is likely to answer.
  RegistryShared::Host::Ranges KnownRanges();
  // Returns kOutOfRange for an unusable range.
  absl::Status TakeRange(Piece& piece, const RegistryEndpoint& endpoint,
                         const HttpResponse& response);
  // The place that `piece` was requested from has no such range: request what is missing without
  // Range.
  void LeaveRanges(const Piece& piece);
  absl::Status TakeWhole(Piece& piece, const RegistryEndpoint& endpoint,
                         const HttpResponse& response);
  absl::Status Deliver(uint64_t offset, std::string_view data);
  absl::Status OnRangeData(Piece& piece, std::string_view data);
  absl::Status OnWholeData(Piece& piece, std::string_view data);
  void OnPieceDone(const std::shared_ptr<Piece>& piece, const absl::Status& status);
  void Finish(absl::Status status);
  absl::Status Mismatch(const std::string& why) const;
  absl::Status NoParts() const;

  const std::shared_ptr<RegistryShared> shared_;
  const std::shared_ptr<RegistryRoute> route_;
  const Digest digest_;
  const uint64_t size_;
  const std::vector<std::string> urls_;
  const std::string what_;
  const ImageSource::ReadOptions options_;
  const bool in_memory_;
  ImageSource::BlobSink sink_;
  GuardedDone<absl::Status> done_;
  CancelToken::Registration registration_;

  std::string answering_;           // host of the endpoint that answered last, for messages
  std::vector<std::string> avoid_;  // endpoints that delivered wrong bytes
  bool plain_get_ = false;          // reading the whole of a small blob: no Range header at first
  bool probing_ = false;            // a single request is checking whether this host supports Range
  bool whole_mode_ = false;
  std::deque<ByteRange> waiting_;  // ascending, disjoint
  std::vector<std::shared_ptr<Piece>> in_flight_;
  std::deque<ByteRange> wanted_;  // whole_mode_: not yet delivered to the sink
};

}  // namespace imagefs
