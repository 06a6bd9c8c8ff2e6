// SPDX-License-Identifier: Apache-2.0
// The work of one layer flight of LayerStore. Begin (on the worker for short tasks) decides where
// the bytes come from. Run (when it is the source's turn: with the first bytes, or when all are
// present) is the pass. End finishes the flight. A registry that never answers therefore holds no
// worker, and a slow one holds no more than its share.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "cache/layer_store.h"

namespace imagefs {

class LayerStore::Job : public std::enable_shared_from_this<Job> {
 public:
  Job(LayerStore& store, Request request, FlightTable<LayerRef>::Context context);
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  void Start();
  // True once callers are being told the result.
  bool over() const;
  LayerProgress progress() const;

 private:
  using Activity = LayerProgress::Activity;
  using ReadBytes = absl::FunctionRef<absl::StatusOr<size_t>(absl::Span<char>, uint64_t)>;
  void Begin();
  void RunOfFile(const LocalBlob& file, FairWorkers::Id turn);
  absl::Status BeginDownload();
  void Download(const std::shared_ptr<DownloadFile>& download,
                const std::shared_ptr<DownloadFile::Reader>& reader);
  SourceTurns::Claim ClaimTurn(bool whole) const;
  void Schedule(const std::shared_ptr<DownloadFile::Reader>& reader, bool whole);
  void Run(FairWorkers::Id turn, ReadBytes read);
  absl::StatusOr<LayerRef> Make(const std::string& directory, FairWorkers::Id turn, ReadBytes read);
  absl::StatusOr<LayerOutput> MakeFiles(const LayerInput& input, const std::string& directory);
  Origin MakeOrigin();
  void OfferBlob();
  void StartAccess(const LayerRef& layer);
  bool TryAgain(const absl::Status& status);
  void EndTransfer(const absl::Status& status);
  void End(absl::StatusOr<LayerRef> result);

  LayerStore& store_;
  const Request request_;
  const Descriptor& blob_;  // of request_
  const std::string
      download_name_;  // scoped so that downloads from one registry are shared only by its users
  const FlightTable<LayerRef>::Context context_;
  std::atomic<Activity> activity_{Activity::kWaiting};
  // Used by the pass, on its worker.
  LayerOutput made_;
  std::optional<SpanTableBuilder::BlobFile> local_;
  bool from_file_ = false;
  std::atomic<uint64_t> unpacked_bytes_{0};
  mutable absl::Mutex mu_;
  std::shared_ptr<DownloadFile> download_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<DownloadFile::Reader> reader_ ABSL_GUARDED_BY(mu_);
  FlightTicket ticket_ ABSL_GUARDED_BY(mu_);
  CancelToken::Registration on_cancel_ ABSL_GUARDED_BY(mu_);
  std::optional<FairWorkers::Id> turn_ ABSL_GUARDED_BY(mu_);  // of the pass
  int attempts_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace imagefs
