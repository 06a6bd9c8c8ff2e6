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
// A span is absent, queued, in flight, busy (a worker decodes, checks or evicts it), present or
// unverified (said to be present by a file that may be wrong: checked before it is believed). Bytes
// get into `data` only after their digest was checked, and are read only while a ReadPin is held,
// which keeps Evict away. Where the disk takes no bytes, what somebody waits for is in memory
// instead, and the rest is not asked for (cache/filling_layer_memory.cc).
//
// Whatever fails is asked for again, when cache/source_health.h lets it, until each waiter's
// deadline; what is certain fails at once. A request that is silent while a reader waits for it has
// a second one beside it (a hedge); the first that brings the bytes ends the other.
//
// Thread-safe.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
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
#include "cache/read_streams.h"
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
  enum class State : uint8_t {
    kAbsent,
    kQueued,
    kInFlight,
    kBusy,
    kPresent,
    kUnverified,
    kInMemory
  };
  struct Span {
    State state = State::kAbsent;
    uint8_t priority = 3;  // kQueued
    bool was_read = false;
  };
  struct Waiter;
  struct Batch;
  using WaiterRef = std::shared_ptr<Waiter>;
  using BatchRef = std::shared_ptr<Batch>;
  using Finished = std::vector<std::pair<WaiterRef, absl::Status>>;

  FillingLayer(Options options, FillScheduler& scheduler)
      : options_(std::move(options)),
        scheduler_(scheduler),
        sources_(scheduler.health()),
        memory_(scheduler.counters().memory_bytes),
        wrong_(scheduler.options().health.most) {}
  absl::Status OpenFiles();

  void QueueLocked(uint32_t span, Priority priority) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
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
  bool BeginWork(uint32_t span);
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
  uint64_t all_blob_bytes_ = 0;
  std::atomic<bool> complete_{false};
  CancelSource cancel_;

  mutable absl::Mutex mu_;
  std::vector<Span> spans_ ABSL_GUARDED_BY(mu_);
  std::vector<bool> moved_ ABSL_GUARDED_BY(mu_);  // by move of the table
  // By priority, in order of asking; entries whose span is not queued at it are passed over.
  std::array<std::deque<uint32_t>, 4> queues_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<uint32_t, std::vector<WaiterRef>> waiters_ ABSL_GUARDED_BY(mu_);
  FillSources sources_ ABSL_GUARDED_BY(mu_);
  SpanMemory memory_ ABSL_GUARDED_BY(mu_);
  std::vector<BatchRef> batches_ ABSL_GUARDED_BY(mu_);
  std::vector<BatchRef> leftovers_ ABSL_GUARDED_BY(mu_);  // what failed requests brought
  WrongSpans wrong_ ABSL_GUARDED_BY(mu_);
  LateReads late_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const void> epoch_ ABSL_GUARDED_BY(mu_) = std::make_shared<int>(0);
  std::vector<std::pair<uint64_t, uint32_t>> read_spans_ ABSL_GUARDED_BY(mu_);
  Moment last_read_ ABSL_GUARDED_BY(mu_) = Moment::InfinitePast();
  ReadStreams streams_ ABSL_GUARDED_BY(mu_);
  bool profiled_ ABSL_GUARDED_BY(mu_) = false;  // what will be read is asked for already
  std::optional<Priority> want_all_ ABSL_GUARDED_BY(mu_);
  uint32_t scan_ ABSL_GUARDED_BY(mu_) = 0;  // where the search for missing spans goes on
  // When spans that were passed over, since their bytes were wrong, are looked for again.
  Moment scan_again_ ABSL_GUARDED_BY(mu_) = Moment::InfiniteFuture();
  Moment not_before_ ABSL_GUARDED_BY(mu_) = Moment::InfinitePast();  // trouble on this machine
  Moment last_byte_ ABSL_GUARDED_BY(mu_) = Moment::InfinitePast();
  Moment no_room_before_ ABSL_GUARDED_BY(mu_) = Moment::InfinitePast();  // for what nobody reads
  Timer give_up_timer_ ABSL_GUARDED_BY(mu_), store_timer_ ABSL_GUARDED_BY(mu_);
  Timer check_timer_ ABSL_GUARDED_BY(mu_);  // begins one
  absl::Status failure_ ABSL_GUARDED_BY(mu_);
  std::string reason_ ABSL_GUARDED_BY(mu_);
  std::optional<absl::Duration> deadline_ ABSL_GUARDED_BY(mu_);
  size_t present_count_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t present_blob_bytes_ ABSL_GUARDED_BY(mu_) = 0, present_data_bytes_
                                                         ABSL_GUARDED_BY(mu_) = 0;
  uint64_t fetched_bytes_ ABSL_GUARDED_BY(mu_) = 0, needed_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t waiting_ ABSL_GUARDED_BY(mu_) = 0, failed_checks_ ABSL_GUARDED_BY(mu_) = 0;
  size_t evict_from_ ABSL_GUARDED_BY(mu_) = 0;
  bool checking_ ABSL_GUARDED_BY(mu_) = false;  // all is here; from then to the check's end
  bool check_waits_ ABSL_GUARDED_BY(mu_) = false, check_runs_ ABSL_GUARDED_BY(mu_) = false;
  bool rest_waits_ ABSL_GUARDED_BY(mu_) = false, rest_runs_ ABSL_GUARDED_BY(mu_) = false;
  bool blob_again_ ABSL_GUARDED_BY(mu_) = false;  // it was fetched a second time
  bool anonymous_ ABSL_GUARDED_BY(mu_) = true;
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false, store_later_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace imagefs
