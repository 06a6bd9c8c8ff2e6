// SPDX-License-Identifier: Apache-2.0
// A layer whose bytes are fetched on demand: an index, a span table, and a sparse data file that
// fills (cache/filling_layer_options.h lists the files). Owns the flights of ranges: a span is
// requested once regardless of the number of waiters (single-flight), which hold no threads.
//
// Bytes are written to `data` only after their digest was verified (if there is one: SpanDigest),
// and are read only while a ReadPin is held, which prevents Evict from removing them. Pages of a
// hot pack are there before their spans, and are compared with these (cache/filling_layer_pack.cc).
// If the disk takes no bytes, those that somebody waits for are kept in memory instead, and nothing
// else is requested (cache/filling_layer_memory.cc). What can only be decoded from its beginning is
// requested in order (cache/filling_layer_frames.cc).
//
// Failed requests are retried when cache/source_health.h allows it, until each waiter's deadline; a
// certain failure is reported at once. If a request is silent while a reader waits for it, a second
// one (a hedge) is started; the first to deliver the bytes ends the other.
//
// Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/cancel.h"
#include "base/fd.h"
#include "base/log_context.h"
#include "base/monotonic.h"
#include "base/timer_queue.h"
#include "cache/chain.h"
#include "cache/download_file.h"
#include "cache/fill_report.h"
#include "cache/fill_scheduler.h"
#include "cache/fill_sources.h"
#include "cache/filling_layer_options.h"
#include "cache/frame_feeds.h"
#include "cache/hot_marks.h"
#include "cache/hot_pages.h"
#include "cache/late_windows.h"
#include "cache/present_map.h"
#include "cache/span_map.h"
#include "cache/span_memory.h"
#include "cache/span_troubles.h"
#include "cache/touch_log.h"
#include "fetch/source.h"
#include "image/span_table.h"

namespace imagefs {

class Readahead;

class FillingLayer final : public LayerFill,
                           public FillClient,
                           public std::enable_shared_from_this<FillingLayer> {
 public:
  using Options = FillingLayerOptions;
  // `scheduler` must outlive everything but the last pin.
  static absl::StatusOr<std::shared_ptr<FillingLayer>> Open(Options options,
                                                            FillScheduler& scheduler);
  ~FillingLayer() override;

  void Start();  // call once; starts the check if nothing is missing
  void AddSource(std::shared_ptr<ImageSource> source);         // FillSources::Add
  void AddWindowsSource(std::shared_ptr<ImageSource> source);  // LateWindows::AddSource
  void Ensure(ByteRange range, ReaderId reader, CancelToken cancel, Done done) override;
  bool complete() const override { return complete_.load(std::memory_order_acquire); }
  Progress progress() const override;
  void AllowWaiting(absl::Duration at_most) override;

  void Prefetch(ByteRange range, Priority priority);  // will be wanted soon
  // Requests all that is missing. At kForeground, Options::failing reports if it is unavailable.
  void WantAll(Priority priority);
  // Frees about `bytes` of `data` (and of `blob`), what was not read lately first; returns how many
  // were freed. Frees nothing of a layer that a caller waits for as a whole, or that is being
  // checked. Waits for its readers.
  uint64_t Evict(uint64_t bytes);
  // Reads of the pack's pages of layer `number` wait for it while that is not slower than asking
  // for spans. Returns false if it has nothing for this layer, or another pack is coming.
  bool ExpectHot(HotOffer offer, uint32_t number);
  void AddHot(ByteRange range, std::string_view bytes);  // of the data file; blocks on the disk
  void EndHot(bool lied);  // no more come; `lied`: those that did are not served any more
  void Recheck(const std::vector<uint32_t>& spans);  // verifies them again and refetches wrong ones
  bool Fail(const absl::Status& why);  // fails every Ensure from now on; false if it already did

  // What readers requested, each part with the order (NextOrder) of its first request.
  std::vector<std::pair<uint64_t, ByteRange>> ReadParts() const;
  Moment last_read() const;  // SpanMap::last_read
  Moment last_use() const;
  FillReport Report() const;
  FillPicture Picture() const;
  // The file that begins with the whole blob of an unproven layer. REQUIRES: `check` is running.
  std::string BlobPath() const { return options_.directory + (download_ ? "/blob" : "/data"); }
  CancelToken closing() const { return cancel_.token(); }  // cancelled when the store closes
  bool anonymous() const;                                  // no byte was fetched with credentials
  std::vector<std::string> AuthScopes() const;             // of the sources of these bytes
  const SpanTableReader& span_table() const { return *table_; }
  const std::string& directory() const { return options_.directory; }
  std::optional<Want> MostUrgent(Moment now, Moment& look_again) override;
  void Launch(Priority priority, FillSlot slot) override;
  void Cancel() override;

 private:
  using State = SpanMap::State;
  struct Waiter;
  struct Batch;
  using WaiterRef = std::shared_ptr<Waiter>;
  using BatchRef = std::shared_ptr<Batch>;
  using FramePart = FrameFeeds<Batch>::Part;
  using Run = SpanTableReader::Frame;  // spans [first, second)
  using Spans = std::vector<uint32_t>;
  using Finished = std::vector<std::pair<WaiterRef, absl::Status>>;
  FillingLayer(Options options, FillScheduler& scheduler);
  absl::Status OpenFiles();
  void QueueLocked(uint32_t span, Priority priority) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void NoteReadLocked(const Waiter& waiter) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FindFiles();
  std::optional<uint32_t> NextLocked(Priority, Moment now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AwaitPartsLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::optional<Run> NextPartsLocked(Priority, Moment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool InFlightLocked(uint32_t span) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void RaiseLocked(uint32_t span) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Feed(uint32_t span);
  void DecodePart(const FramePart& part);
  void TakeDecoder(const FramePart& part);
  void OnWrongPart(const FramePart& part, const absl::Status& why);
  BatchRef TakeBatchLocked(uint32_t, Priority, Moment now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  BatchRef NewBatchLocked(uint32_t first, uint32_t last, ByteRange blob, Priority,
                          FillSources::Choice) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  BatchRef SilentLocked(Moment now, Moment& look_again) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::vector<BatchRef> SilentHedgesLocked(Moment, Moment&) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  BatchRef TakeHedgeLocked(const BatchRef& silent, Moment now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Run AwaitedLocked(const Batch&) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool InFlightElsewhereLocked(uint32_t span) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Duration SilenceLocked(const Batch& batch) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Begin(const BatchRef& batch, Priority priority);
  void Request(const BatchRef& batch);
  LogContext ContextLocked(const Batch& batch) const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  bool TakeOver(Batch& batch);
  absl::Status OnBytes(const BatchRef& batch, uint64_t offset, std::string_view data);
  void OnReceived(const BatchRef& batch);
  void BeginFromDisk(const BatchRef& batch);
  BatchRef EndBatchLocked(const BatchRef& batch, const absl::Status& status, Finished& finished)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnEnd(const BatchRef& batch, absl::Status status);
  void TellFailing(const absl::Status& why, bool for_good);
  void DecodeLater(const BatchRef& batch, uint32_t span);
  void OnWindowsFailed(const absl::Status& why);
  void Decode(const BatchRef& batch, uint32_t span);
  absl::Status Store(uint32_t span, std::string_view bytes);
  void OnUnstored(uint32_t span, std::string bytes, const absl::Status& why);
  void StoreLater();
  void StoreFromMemory();
  absl::flat_hash_set<uint32_t> WantedLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SettleLocked(uint32_t span, Spans&, Finished&) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnDamage(const absl::Status& why);
  void Recheck(uint32_t span);
  void OnSpan(uint32_t span, const absl::Status& status, const ImageSource* source);
  bool OnWrongLocked(uint32_t span, const absl::Status&, const ImageSource*, Finished&)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FailSpanLocked(uint32_t, const absl::Status&, Finished&) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FailAllLocked(const absl::Status&, Finished&, Run spans = {0, UINT32_MAX})
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Deliver(Finished finished);
  void NoteWait(Waiter& waiter, bool ok);
  absl::Status RefusalLocked(const Waiter& waiter) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool AllHereLocked(const Waiter& waiter) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void GiveUp();
  bool ArmLocked(const WaiterRef& waiter, Spans& unverified) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CheckUnverified(const Spans& unverified);
  void FindPartsLocked(Waiter&) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status AskLocked(const WaiterRef&, Spans& unverified) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::optional<uint64_t> HotEndLocked(const Waiter&) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool AllReadableLocked(ByteRange) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Duration TryHotLocked(const WaiterRef&) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ServeHotLocked(Waiter&) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FailHotLocked(const absl::Status&, Finished&) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SettleHotLocked(Spans& unverified, Finished& finished) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AskInstead(const WaiterRef& waiter);
  void ForsakeLocked(const WaiterRef& waiter) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CompareHot(uint32_t span, std::string_view right);
  absl::Status ForgetHot(uint32_t span);
  absl::Status WriteHot(ByteRange, std::string_view, const std::vector<ByteRange>& parts)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(hot_mu_);
  void Watch(const WaiterRef&, const CancelToken&, absl::Duration deadline, absl::Duration pack);
  void Expire(const WaiterRef& waiter);
  absl::Status RunMoves(const std::vector<uint32_t>& moves);
  void Leave(const WaiterRef& waiter, const absl::Status& why);
  void SubmitCheck(absl::AnyInvocable<void()> part);
  void BeginCheck();
  void Check();
  void CheckWhole();
  void EndCheck(const absl::Status& status);
  std::vector<ByteRange> RestOfBlob() const;
  absl::Status CheckBlob();
  void FetchRest(std::vector<ByteRange> ranges);

  const Options options_;
  FillScheduler& scheduler_;
  std::unique_ptr<SpanTableReader> table_;
  std::shared_ptr<LateWindows> windows_;  // null: the table was opened with its windows
  Descriptor blob_;
  std::unique_ptr<PresentMap> present_;
  Fd data_;
  std::shared_ptr<DownloadFile> download_;  // the file `blob`, else null
  std::atomic<bool> complete_{false};
  CancelSource cancel_;
  const std::shared_ptr<Timeline> timeline_;
  mutable absl::Mutex mu_;
  SpanMap spans_ ABSL_GUARDED_BY(mu_);
  FrameFeeds<Batch> frames_ ABSL_GUARDED_BY(mu_);
  std::vector<bool> moved_ ABSL_GUARDED_BY(mu_);  // by move of the table
  absl::flat_hash_map<uint32_t, std::vector<WaiterRef>> waiters_ ABSL_GUARDED_BY(mu_);  // by span
  uint64_t waiting_ ABSL_GUARDED_BY(mu_) = 0;                                           // waiters
  absl::Mutex hot_mu_ ABSL_ACQUIRED_BEFORE(mu_);  // held while pages of a pack are written
  HotMarks hot_marks_ ABSL_GUARDED_BY(hot_mu_);
  HotPages hot_ ABSL_GUARDED_BY(mu_);
  std::vector<WaiterRef> hot_waiters_ ABSL_GUARDED_BY(mu_);  // for pages that are coming
  std::optional<absl::Duration> deadline_ ABSL_GUARDED_BY(mu_);
  TimedOutReads timed_out_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const void> epoch_ ABSL_GUARDED_BY(mu_) = std::make_shared<int>(0);
  SpanMemory memory_ ABSL_GUARDED_BY(mu_);
  bool store_later_ ABSL_GUARDED_BY(mu_) = false;
  Moment unstored_told_ ABSL_GUARDED_BY(mu_) = Moment::InfinitePast();
  const std::unique_ptr<Readahead> readahead_ ABSL_PT_GUARDED_BY(mu_);
  TouchLog touches_ ABSL_GUARDED_BY(mu_);
  FillSources sources_ ABSL_GUARDED_BY(mu_);
  bool anonymous_ ABSL_GUARDED_BY(mu_) = true;
  std::vector<BatchRef> batches_ ABSL_GUARDED_BY(mu_);
  std::vector<BatchRef> leftovers_ ABSL_GUARDED_BY(mu_);  // data received by failed requests
  uint64_t fetched_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  Moment last_byte_ ABSL_GUARDED_BY(mu_) = Moment::InfinitePast();
  Moment not_before_ ABSL_GUARDED_BY(mu_) = Moment::InfinitePast();  // trouble on this machine
  CheckPhase check_ ABSL_GUARDED_BY(mu_) = CheckPhase::kNone;
  uint64_t failed_checks_ ABSL_GUARDED_BY(mu_) = 0;  // in a row
  bool blob_again_ ABSL_GUARDED_BY(mu_) = false;     // it was fetched a second time
  Timer give_up_timer_ ABSL_GUARDED_BY(mu_), store_timer_ ABSL_GUARDED_BY(mu_);
  Timer check_timer_ ABSL_GUARDED_BY(mu_);  // starts the check
  absl::Status failure_ ABSL_GUARDED_BY(mu_);
  std::string reason_ ABSL_GUARDED_BY(mu_);
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace imagefs
