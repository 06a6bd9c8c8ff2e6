// A layer whose bytes come when they are asked for: an index, a span table, and a sparse data file
// that fills. The flights of ranges live here: a span is asked for once, whoever waits for it, and
// nobody who waits holds a thread.
//
//   <directory>/index    the tree (EROFS, overlay form)
//   <directory>/access   the span table (image/layer_access.h)
//   <directory>/data     sparse
//   <directory>/present  one byte a span: 1 = its bytes were checked and are in `data`
//   <directory>/blob     of a layer that is not proven: what has come of its blob, so that the
//   digest
//                        of the whole can be checked
//
// A span is absent, queued, in flight, present or suspect (present before a crash of the machine:
// checked against its digest before it is believed). Bytes get into `data` only after their digest
// was checked, and are read only while a FillPin is held, which keeps Evict away.
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
#include "absl/time/time.h"
#include "base/cancel.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/timer_queue.h"
#include "cache/chain.h"
#include "cache/fill_scheduler.h"
#include "cache/spool.h"
#include "fetch/source.h"
#include "image/layer_access.h"

namespace imagefs {

// What is known of a layer that fills. A value.
struct FillReport {
  std::string state;                // "filling", "checking", "complete", "damaged"
  std::string reason;               // of the last failure, "" = none
  uint64_t blob_bytes = 0;          // of all spans
  uint64_t blob_bytes_present = 0;  // of those here
  uint64_t blob_bytes_fetched = 0;  // by this process
  uint64_t blob_bytes_needed = 0;   // of spans that a reader asked for
  uint64_t data_bytes = 0, data_bytes_present = 0;
  uint64_t waiting = 0;  // reads
  struct Transfer {
    ByteRange blob;
    Priority priority = Priority::kOnDemand;
  };
  std::vector<Transfer> in_flight;
};

class FillingLayer final : public LayerFill,
                           public FillClient,
                           public std::enable_shared_from_this<FillingLayer> {
 public:
  struct Options {
    std::string directory;
    // The spans that `present` names were written by an earlier boot: they are checked first.
    bool suspect = false;
    // The layer was not yet hashed as a whole: its blob is kept, completed when every span is here,
    // and has to have its digest.
    bool unproven = false;
    // Called on a worker when every span (and the blob, of an unproven layer) is here; the layer is
    // complete when it says OK, damaged when it says kDataLoss, and tried again later otherwise.
    std::function<absl::Status(FillingLayer&)> check;
    // Called when requests fail and nothing but another source would help, or nothing has for a
    // while. The layer goes on trying. May be empty.
    std::function<void(const absl::Status& why)> failing;
    // Called once, after every read fails, when the layer is damaged. May be empty.
    std::function<void(const absl::Status& why)> damaged;
  };
  // `scheduler` must outlive everything but the last pin.
  static absl::StatusOr<std::shared_ptr<FillingLayer>> Open(Options options,
                                                            FillScheduler& scheduler);
  ~FillingLayer() override;

  // To be called once: checks the whole where nothing is missing.
  void Start();

  // Where bytes may be had from; the one added last is asked first. A source whose audience is
  // known replaces the one before (newer credentials).
  void AddSource(std::shared_ptr<ImageSource> source);

  void Ensure(ByteRange range, CancelToken cancel, Done done) override;
  bool complete() const override { return complete_.load(std::memory_order_acquire); }
  Progress progress() const override;
  void AllowWaiting(absl::Duration at_most) override;

  // Asks for bytes that somebody will want soon.
  void Prefetch(ByteRange range, Priority priority);
  // Asks for all that is missing; kBackground is what happens by itself after a quiet moment.
  void WantAll(Priority priority);
  // Gives back about `bytes` of the data file, the spans that came first first. Blocks until no
  // reader looks at them. Returns what was given back.
  uint64_t Evict(uint64_t bytes);
  // From now on every Ensure fails.
  void Poison(const absl::Status& why);

  // What readers asked for, at span granularity: parts of the data file with the moment of the
  // first time, in FillScheduler::NextOrder's count.
  std::vector<std::pair<uint64_t, ByteRange>> Touched() const;
  Moment last_touch() const;  // by a reader; InfinitePast: none yet
  FillReport Report() const;
  // The blob of an unproven layer, whole and checked. REQUIRES: `check` is running.
  absl::StatusOr<Fd> Blob() const { return spool_->Duplicate(); }
  // Fires when the store closes.
  CancelToken closing() const { return cancel_.token(); }
  // True when nobody's credentials were used for any byte.
  bool anonymous() const;
  // Whose bytes these may be: the audiences of the sources.
  std::vector<std::string> Audiences() const;
  const LayerAccess& access() const { return *access_; }
  const std::string& directory() const { return options_.directory; }

  std::optional<Want> MostUrgent(Moment now) override;
  void Launch(Priority priority, FillSlot slot) override;
  void Cancel() override;

 private:
  enum class State : uint8_t { kAbsent, kQueued, kInFlight, kPresent, kSuspect };
  struct Span {
    State state = State::kAbsent;
    uint8_t priority = 3;  // kQueued
    uint8_t failures = 0;  // wrong bytes in a row
    bool touched = false;
  };
  struct Waiter;
  struct Batch;
  using WaiterRef = std::shared_ptr<Waiter>;
  using Finished = std::vector<std::pair<WaiterRef, absl::Status>>;

  FillingLayer(Options options, FillScheduler& scheduler)
      : options_(std::move(options)), scheduler_(scheduler) {}
  absl::Status OpenFiles();

  void QueueLocked(uint32_t span, Priority priority) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void TouchLocked(uint32_t first, uint32_t last) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ReadAheadLocked(uint32_t first, uint32_t last) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::optional<uint32_t> NextLocked(Priority priority) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::shared_ptr<Batch> TakeBatchLocked(uint32_t span, Priority priority)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::shared_ptr<ImageSource> SourceLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  void Request(const std::shared_ptr<Batch>& batch, FillSlot slot);
  absl::Status OnBytes(const std::shared_ptr<Batch>& batch, uint64_t offset, std::string_view data);
  void OnEnd(const std::shared_ptr<Batch>& batch, absl::Status status);
  void Decode(const std::shared_ptr<Batch>& batch, uint32_t span);
  absl::Status Store(const AccessSpan& span, std::string_view blob_bytes);
  void Recheck(uint32_t span);
  void OnSpan(uint32_t span, const absl::Status& status);
  void FailSpanLocked(uint32_t span, const absl::Status& status, Finished& finished)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Deliver(Finished finished);
  bool ArmLocked(const WaiterRef& waiter, std::vector<uint32_t>& suspects)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CheckSuspects(const std::vector<uint32_t>& suspects);
  void Watch(const WaiterRef& waiter, const CancelToken& cancel, absl::Duration deadline);
  void Expire(const WaiterRef& waiter);
  absl::Status RunMoves(const std::vector<uint32_t>& moves);
  void Leave(const WaiterRef& waiter, const absl::Status& why);
  // Runs a part of the check on a slow worker, when it is this layer's source's turn.
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
  std::unique_ptr<LayerAccess> access_;
  Descriptor blob_;
  Fd data_, present_;
  std::shared_ptr<Spool> spool_;  // of an unproven layer, else null
  uint64_t all_blob_bytes_ = 0;
  std::atomic<bool> complete_{false};
  CancelSource cancel_;

  mutable absl::Mutex mu_;
  std::vector<Span> spans_ ABSL_GUARDED_BY(mu_);
  std::vector<bool> moved_ ABSL_GUARDED_BY(mu_);  // by move of the table
  // Span numbers by priority, in order of asking; an entry whose span is no longer queued at that
  // priority is passed over.
  std::array<std::deque<uint32_t>, 4> queues_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<uint32_t, std::vector<WaiterRef>> waiters_ ABSL_GUARDED_BY(mu_);
  std::vector<std::shared_ptr<ImageSource>> sources_ ABSL_GUARDED_BY(mu_);
  std::vector<std::shared_ptr<Batch>> batches_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const void> epoch_ ABSL_GUARDED_BY(mu_) = std::make_shared<int>(0);
  std::vector<std::pair<uint64_t, uint32_t>> touched_ ABSL_GUARDED_BY(mu_);
  Moment last_touch_ ABSL_GUARDED_BY(mu_) = Moment::InfinitePast();
  // Readers in sequence: where they are and how far is read ahead of them.
  struct Stream {
    uint32_t next = 0;
    uint32_t ahead = 0;  // spans
    uint32_t steps = 0;
  };
  std::array<Stream, 4> streams_ ABSL_GUARDED_BY(mu_);
  size_t next_stream_ ABSL_GUARDED_BY(mu_) = 0;
  bool profiled_ ABSL_GUARDED_BY(mu_) = false;  // what will be read is asked for already
  std::optional<Priority> want_all_ ABSL_GUARDED_BY(mu_);
  uint32_t sweep_ ABSL_GUARDED_BY(mu_) = 0;  // where the search for missing spans goes on
  Moment not_before_ ABSL_GUARDED_BY(mu_) = Moment::InfinitePast();
  Moment idle_before_ ABSL_GUARDED_BY(mu_) = Moment::InfinitePast();  // no read waits
  Timer not_before_timer_ ABSL_GUARDED_BY(mu_), idle_timer_ ABSL_GUARDED_BY(mu_);
  Timer check_timer_ ABSL_GUARDED_BY(mu_);  // begins one
  int failures_ ABSL_GUARDED_BY(mu_) = 0;   // of requests, in a row
  absl::Status poison_ ABSL_GUARDED_BY(mu_);
  std::string reason_ ABSL_GUARDED_BY(mu_);
  std::optional<absl::Duration> deadline_ ABSL_GUARDED_BY(mu_);
  size_t present_count_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t present_blob_bytes_ ABSL_GUARDED_BY(mu_) = 0, present_data_bytes_
                                                         ABSL_GUARDED_BY(mu_) = 0;
  uint64_t fetched_bytes_ ABSL_GUARDED_BY(mu_) = 0, needed_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t waiting_ ABSL_GUARDED_BY(mu_) = 0;
  size_t evict_from_ ABSL_GUARDED_BY(mu_) = 0;
  bool checking_ ABSL_GUARDED_BY(mu_) = false;  // all is here; from then to the check's end
  bool check_waits_ ABSL_GUARDED_BY(mu_) = false;
  bool check_runs_ ABSL_GUARDED_BY(mu_) = false;
  bool rest_waits_ ABSL_GUARDED_BY(mu_) = false;  // the check, for a source
  bool blob_again_ ABSL_GUARDED_BY(mu_) = false;  // it was fetched a second time
  bool anonymous_ ABSL_GUARDED_BY(mu_) = true;
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace imagefs
