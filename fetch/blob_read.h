// One transfer of parts of a blob: splits them into ranges, keeps a few in flight, resumes each
// where it was cut, and makes do with servers that ignore Range. On the HTTP client's thread.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "base/byte_range.h"
#include "fetch/registry_call.h"
#include "fetch/source.h"

namespace imagefs {

class BlobRead : public std::enable_shared_from_this<BlobRead> {
 public:
  struct What {
    Descriptor blob;
    RangeSet wanted;  // inside the blob
    ImageSource::ReadOptions options;
    bool in_memory = false;  // the sink collects it: it has a time in proportion to its size
  };
  // From any thread.
  static void Run(std::shared_ptr<RegistryShared> shared,
                  std::shared_ptr<const RegistryEndpoint> endpoint, What what, CancelToken cancel,
                  ImageSource::BlobSink sink, ImageSource::BlobDone done);

 private:
  // A range in flight. `next` is the first byte that the sink has not had.
  struct Piece {
    ByteRange range;
    uint64_t next = 0;
    bool asked_before = false;
    int small_answers = 0;  // in a row, each far shorter than what was asked for
    bool whole = false;     // the answer is the whole blob; `position` is where it is in it
    uint64_t position = 0;
    CancelSource cancel;
  };

  BlobRead(std::shared_ptr<RegistryShared> shared, std::shared_ptr<const RegistryEndpoint> endpoint,
           What what, ImageSource::BlobSink sink, ImageSource::BlobDone done);

  void Split(const RangeSet& wanted);
  void Pump();
  void StartPiece(std::shared_ptr<Piece> piece);
  std::optional<std::string> RangeHeader(Piece& piece);
  absl::StatusOr<HttpClient::Sink> OnHeaders(const std::shared_ptr<Piece>& piece,
                                             const HttpResponse& response);
  // Whether an answer is to be all of the blob, from its first byte on.
  bool AskedForAll(const Piece& piece) const;
  void NoteRanges(RegistryShared::Host::Ranges ranges);
  // kOutOfRange for what is no part of the blob that makes sense.
  absl::Status TakeRange(Piece& piece, const HttpResponse& response);
  // Wherever `piece` was asked for, there was no such part: what is missing is asked for without
  // Range.
  void LeaveRanges(const Piece& piece);
  absl::Status TakeWhole(Piece& piece, const HttpResponse& response);
  absl::Status Deliver(uint64_t offset, std::string_view data);
  absl::Status OnRangeData(Piece& piece, std::string_view data);
  absl::Status OnWholeData(Piece& piece, std::string_view data);
  void OnPieceDone(const std::shared_ptr<Piece>& piece, const absl::Status& status);
  void Finish(absl::Status status);
  absl::Status Mismatch(const std::string& why) const;

  const std::shared_ptr<RegistryShared> shared_;
  const std::shared_ptr<const RegistryEndpoint> endpoint_;
  const Digest digest_;
  const uint64_t size_;
  const std::vector<std::string> urls_;
  const std::string what_;
  const ImageSource::ReadOptions options_;
  const bool in_memory_;
  ImageSource::BlobSink sink_;
  GuardedDone<absl::Status> done_;
  CancelToken::Registration registration_;

  bool plain_get_ = false;  // the whole blob is wanted and small: no Range header at first
  bool probing_ = false;    // whether this host honours Range is being found out by one request
  bool whole_mode_ = false;
  std::deque<ByteRange> waiting_;  // ascending, disjoint
  std::vector<std::shared_ptr<Piece>> in_flight_;
  std::deque<ByteRange> wanted_;  // whole_mode_: what the sink has not had
};

}  // namespace imagefs
