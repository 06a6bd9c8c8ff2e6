// A layer whose bytes come when they are asked for: an index, a span table, and a sparse data file
// that fills. The flights of ranges live here: a span is asked for once, whoever waits for it, and
// nobody who waits holds a thread.
//
//   <directory>/index    the tree (EROFS, overlay form)
//   <directory>/access   the span table (image/span_table.h)
//   <directory>/data     sparse
//   <directory>/present  which spans were checked and are in `data` (cache/present_map.h)
//   <directory>/blob     of an unproven layer: what has come of its blob, to check it as a whole
//
// Bytes get into `data` only after their digest was checked, and are read only while a ReadPin is
// held, which keeps Evict away. Where the disk takes no bytes, what somebody waits for is in memory
// instead, and the rest is not asked for (cache/filling_layer_memory.cc).
//
// Whatever fails is asked for again, when cache/source_health.h lets it, until each waiter's
// deadline; what is certain fails at once. A request that is silent while a reader waits for it has
// a second one beside it (a hedge); the first that brings the bytes ends the other.
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
#include "base/monotonic.h"
#include "base/timer_queue.h"
#include "cache/chain.h"
#include "cache/download_file.h"
#include "cache/fill_report.h"
#include "cache/fill_scheduler.h"
#include "cache/fill_sources.h"
#include "cache/present_map.h"
#include "cache/readahead.h"
#include "cache/span_map.h"
#include "cache/span_memory.h"
#include "cache/span_troubles.h"
#include "fetch/source.h"
#include "image/span_table.h"

namespace imagefs {

class FillingLayer final : public LayerFill,
                           public FillClient,
                           public std::enable_shared_from_this<FillingLayer> {
 public:
  struct Options {
    std::string directory;
    bool unverified = false;  // spans that `present` names are checked before they are believed
    // The layer was not yet hashed as a whole: its blob is kept, completed when every span is here,
    // and has to have its digest.
    bool unproven = false;
    // Called on a worker when every span (and the blob, of an unproven layer) is here; the layer is
    // complete when it says OK, damaged when it says kDataLoss, and tried again later otherwise.
    std::function<absl::Status(FillingLayer&)> check;
    // Called when requests fail again and again, or (`for_good`) when it is certain that the bytes
    // cannot be had, or nothing came for FillScheduler::Options::give_up while somebody waited for
    // the whole: who waits is told, on a worker. The layer goes on trying. May be empty.
    std::function<void(const absl::Status& why, bool for_good)> failing;
    // Called once, after every read fails, when the layer is damaged. May be empty.
    std::function<void(const absl::Status& why)> damaged;
  };
  // `scheduler` must outlive everything but the last pin.
  static absl::StatusOr<std::shared_ptr<FillingLayer>> Open(Options options,
                                                            FillScheduler& scheduler);
  ~FillingLayer() override;

  void Start();  // to be called once: checks the whole where nothing is missing
  void AddSource(std::shared_ptr<ImageSource> source);  // FillSources::Add
  void Ensure(ByteRange range, ReaderId reader, CancelToken cancel, Done done) override;
  bool complete() const override { return complete_.load(std::memory_order_acquire); }
  Progress progress() const override;
  void AllowWaiting(absl::Duration at_most) override;

  void Prefetch(ByteRange range, Priority priority);  // somebody will want them soon
  // Asks for all that is missing. Of kForeground, Options::failing tells when it cannot be had.
  void WantAll(Priority priority);
  // Gives back about `bytes` of `data`, oldest first; returns how much. Waits for its readers.
  uint64_t Evict(uint64_t bytes);
  void Recheck(const std::vector<uint32_t>& spans);  // looks at these again; wrong ones come again
  bool Fail(const absl::Status& why);  // every Ensure fails from now on; false: it did before

  // What readers asked for, by span: parts of the data file and when first, by NextOrder's count.
  std::vector<std::pair<uint64_t, ByteRange>> ReadParts() const;
  Moment last_read() const;  // by a reader; InfinitePast: none yet
  FillReport Report() const;
  // The blob of an unproven layer, whole and checked. REQUIRES: `check` is running.
  absl::StatusOr<Fd> Blob() const { return download_->Duplicate(); }
  CancelToken closing() const { return cancel_.token(); }  // fires when the store closes
  bool anonymous() const;                       // nobody's credentials were used for any byte
  std::vector<std::string> AuthScopes() const;  // of the sources: whose bytes these may be
  const SpanTableReader& span_table() const { return *table_; }
  const std::string& directory() const { return options_.directory; }

  std::optional<Want> MostUrgent(Moment now, Moment& look_again) override;
  void Launch(Priority priority, FillSlot slot) override;
  void Cancel() override;

 private:
  using State = SpanMap::State;
  // Of the check of the whole, which begins when every span is present.
  enum class CheckPhase : uint8_t {
    kNone,
    kWaiting,      // for a moment in which nobody reads, or for a worker
    kRunning,      // on a worker
    kNeedsSource,  // the rest of the blob is missing, and nobody is there to ask
    kFetching,     // the rest of the blob
  };
  struct Waiter;
  struct Batch;
  using WaiterRef = std::shared_ptr<Waiter>;
  using BatchRef = std::shared_ptr<Batch>;
  using Finished = std::vector<std::pair<WaiterRef, absl::Status>>;

  FillingLayer(Options options, FillScheduler& scheduler)
      : options_(std::move(options)),
        scheduler_(scheduler),
        spans_(scheduler.options().health.most),
        memory_(scheduler.counters().memory_bytes),
        readahead_(scheduler.options().background),
        sources_(scheduler.health()) {}
  absl::Status OpenFiles();

  void QueueLocked(uint32_t span, Priority priority) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    spans_.Queue(span, priority, Moment::Now());
  }
  void NoteReadLocked(uint32_t first, uint32_t last) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ReadAheadLocked(uint32_t first, uint32_t last) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::optional<uint32_t> NextLocked(Priority priority, Moment now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  BatchRef TakeBatchLocked(uint32_t span, Priority priority, Moment now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  BatchRef NewBatchLocked(uint32_t first, uint32_t last, ByteRange blob, Priority priority,
                          FillSources::Choice choice) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  BatchRef SilentLocked(Moment now, Moment& look_again) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::vector<BatchRef> SilentHedgesLocked(Moment now, Moment& look_again)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  BatchRef TakeHedgeLocked(const BatchRef& silent, Moment now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::pair<uint32_t, uint32_t> AwaitedLocked(const Batch& batch) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool InFlightElsewhereLocked(uint32_t span) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Duration SilenceLocked(const Batch& batch) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Begin(const BatchRef& batch, Priority priority);
  void Request(const BatchRef& batch);
  bool TakeOver(Batch& batch);
  absl::Status OnBytes(const BatchRef& batch, uint64_t offset, std::string_view data);
  BatchRef EndBatchLocked(const BatchRef& batch, const absl::Status& status, Finished& finished)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnEnd(const BatchRef& batch, absl::Status status);
  void TellFailing(const absl::Status& why, bool for_good);
  void Decode(const BatchRef& batch, uint32_t span);
  absl::Status Store(uint32_t span, std::string_view bytes);
  void OnUnstored(uint32_t span, std::string bytes, const absl::Status& why);
  void StoreLater();
  void StoreFromMemory();
  absl::flat_hash_set<uint32_t> WantedLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SettleLocked(uint32_t span, std::vector<uint32_t>& unverified, Finished& finished)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnDamage(const absl::Status& why);
  void Recheck(uint32_t span);
  void OnSpan(uint32_t span, const absl::Status& status, const ImageSource* source);
  bool OnWrongLocked(uint32_t span, const absl::Status& status, const ImageSource* source,
                     Finished& finished) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FailSpanLocked(uint32_t span, const absl::Status& status, Finished& finished)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FailAllLocked(const absl::Status& status, Finished& finished)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Deliver(Finished finished);
  absl::Status RefusalLocked(const Waiter& waiter) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool AllHereLocked(const Waiter& waiter) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void GiveUp();
  bool ArmLocked(const WaiterRef& waiter, std::vector<uint32_t>& unverified)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CheckUnverified(const std::vector<uint32_t>& unverified);
  void Watch(const WaiterRef& waiter, const CancelToken& cancel, absl::Duration deadline);
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
  Descriptor blob_;
  std::unique_ptr<PresentMap> present_;
  Fd data_;
  std::shared_ptr<DownloadFile> download_;  // of an unproven layer, else null
  std::atomic<bool> complete_{false};
  CancelSource cancel_;

  mutable absl::Mutex mu_;
  SpanMap spans_ ABSL_GUARDED_BY(mu_);
  std::vector<bool> moved_ ABSL_GUARDED_BY(mu_);  // by move of the table
  absl::flat_hash_map<uint32_t, std::vector<WaiterRef>> waiters_ ABSL_GUARDED_BY(mu_);  // by span
  uint64_t waiting_ ABSL_GUARDED_BY(mu_) = 0;                                           // waiters
  std::optional<absl::Duration> deadline_ ABSL_GUARDED_BY(mu_);
  LateReads late_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const void> epoch_ ABSL_GUARDED_BY(mu_) = std::make_shared<int>(0);
  SpanMemory memory_ ABSL_GUARDED_BY(mu_);
  bool store_later_ ABSL_GUARDED_BY(mu_) = false;
  Readahead readahead_ ABSL_GUARDED_BY(mu_);
  FillSources sources_ ABSL_GUARDED_BY(mu_);
  bool anonymous_ ABSL_GUARDED_BY(mu_) = true;
  std::vector<BatchRef> batches_ ABSL_GUARDED_BY(mu_);
  std::vector<BatchRef> leftovers_ ABSL_GUARDED_BY(mu_);  // what failed requests fetched
  uint64_t fetched_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  Moment last_byte_ ABSL_GUARDED_BY(mu_) = Moment::InfinitePast();
  Moment not_before_ ABSL_GUARDED_BY(mu_) = Moment::InfinitePast();  // trouble on this machine
  CheckPhase check_ ABSL_GUARDED_BY(mu_) = CheckPhase::kNone;
  uint64_t failed_checks_ ABSL_GUARDED_BY(mu_) = 0;  // in a row
  bool blob_again_ ABSL_GUARDED_BY(mu_) = false;     // it was fetched a second time
  Timer give_up_timer_ ABSL_GUARDED_BY(mu_), store_timer_ ABSL_GUARDED_BY(mu_);
  Timer check_timer_ ABSL_GUARDED_BY(mu_);  // begins one
  absl::Status failure_ ABSL_GUARDED_BY(mu_);
  std::string reason_ ABSL_GUARDED_BY(mu_);
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace imagefs
