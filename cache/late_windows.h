// SPDX-License-Identifier: Apache-2.0
// The windows of a layer's span table that come after the layer was mounted: fetches them by pieces
// (image/index_bundle.h), those first that a span needs which is being fetched, and writes them to
// where they belong in the layer's `access`.
//
//   <directory>/access   a table without windows (docs/formats/access.md, version 2), until all
//                        have come
//   <directory>/windows  where they are, and the digest of each piece (docs/formats/store.md)
//
// A piece is verified before anything of it is used, and again when the layer is opened, so nothing
// else says which of them are present. Once all are, the table becomes one that has its windows,
// and `windows` is removed. What waits for a window holds no thread.
//
// Thread-safe. Nothing blocks but Open; callbacks run on any thread, without any lock held.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/byte_range.h"
#include "base/cancel.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/timer_queue.h"
#include "cache/fill_scheduler.h"
#include "fetch/source.h"
#include "image/index_bundle.h"
#include "image/reference.h"

namespace imagefs {

class LateWindows : public std::enable_shared_from_this<LateWindows> {
 public:
  // Opens the repository that has them, where that is not the one of the layers. May block, and may
  // be null: it cannot be opened.
  using OpenRepository =
      std::function<absl::StatusOr<std::shared_ptr<ImageSource>>(const Reference&)>;
  struct Options {
    std::string directory;  // of the layer
    ByteRange windows;      // of `access`
    OpenRepository open;
    // Told on a worker why they do not come. kDataLoss: they will not, and nothing more is fetched.
    // Otherwise they are asked for again.
    std::function<void(const absl::Status& why)> failed;
  };
  // Writes the file `windows`.
  static absl::Status Write(const std::string& directory, const PublishedWindows& windows);
  // Returns kDataLoss if the files do not say where the windows are. `scheduler` must outlive
  // everything but the last reference.
  static absl::StatusOr<std::shared_ptr<LateWindows>> Open(Options options,
                                                           FillScheduler& scheduler);

  // `with_layers`: the source of the layer's blob, which need not have the windows.
  void AddSource(std::shared_ptr<ImageSource> source, bool with_layers);
  // Requests what nobody has asked for: a few at once, and many when it is quiet, unless the
  // configuration wants nothing in the background.
  void Start();
  // Those in `range` of the windows are needed soon; `urgent`: a reader waits.
  void Want(ByteRange range, bool urgent);
  void WantAll();
  // Runs `call` once those in `range` are present, at once if they are. Never runs it after Cancel,
  // or after Options::failed was told kDataLoss. `bytes` are held in memory until then.
  void When(ByteRange range, uint64_t bytes, absl::AnyInvocable<void()> call);
  // Asks for all, and runs `call` once the table has them.
  void WhenComplete(absl::AnyInvocable<void()> call);
  bool complete() const { return complete_.load(std::memory_order_acquire); }
  // True while so much waits for windows that nothing else should be fetched.
  bool crowded() const;
  std::string trouble() const;  // why they do not come; "" = they do
  void Cancel();

 private:
  enum class State : uint8_t { kAbsent, kWanted, kAsked, kHere };
  struct Ask;
  using AskRef = std::shared_ptr<Ask>;
  struct Waiting {
    uint32_t first, last;  // pieces [first, last)
    uint64_t bytes;
    absl::AnyInvocable<void()> call;
  };
  LateWindows(Options options, PublishedWindows windows, FillScheduler& scheduler)
      : options_(std::move(options)), windows_(std::move(windows)), scheduler_(scheduler) {}

  absl::Status FindPieces();
  std::pair<uint32_t, uint32_t> PiecesOf(ByteRange range) const;
  ByteRange RangeOf(uint32_t first, uint32_t last) const;
  bool WantLocked(uint32_t first, uint32_t last, bool urgent) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void PumpLater();
  void Pump();
  AskRef NextLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  AskRef TakeLocked(uint32_t first, uint32_t last, bool rest) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool ReadyLocked(Moment now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void LookAgainLocked(Moment when) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FindRepository();
  void Send(const AskRef& ask);
  absl::Status OnBytes(const AskRef& ask, uint64_t offset, std::string_view data);
  void OnEnd(const AskRef& ask, const absl::Status& status);
  absl::Status OnFailureLocked(const AskRef& ask, const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Take(const AskRef& ask, uint32_t piece);
  void OnWrong(const AskRef& ask, uint32_t piece);
  void PutBackLocked(uint32_t piece) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Complete();
  void Fail(const absl::Status& why);
  void Tell(const absl::Status& why);

  const Options options_;
  const PublishedWindows windows_;
  FillScheduler& scheduler_;
  Fd access_;
  CancelSource cancel_;
  std::atomic<bool> complete_{false};

  mutable absl::Mutex mu_;
  std::vector<State> states_ ABSL_GUARDED_BY(mu_);  // by piece
  size_t here_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<uint32_t> wanted_ ABSL_GUARDED_BY(mu_);
  std::vector<Waiting> waiting_ ABSL_GUARDED_BY(mu_);
  uint64_t waiting_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<absl::AnyInvocable<void()>> for_all_ ABSL_GUARDED_BY(mu_);
  std::vector<std::shared_ptr<ImageSource>> sources_ ABSL_GUARDED_BY(mu_);  // the first is asked
  bool all_ ABSL_GUARDED_BY(mu_) = false, opening_ ABSL_GUARDED_BY(mu_) = false;
  bool over_ ABSL_GUARDED_BY(mu_) = false;
  int in_flight_ ABSL_GUARDED_BY(mu_) = 0, rest_in_flight_ ABSL_GUARDED_BY(mu_) = 0;
  int failures_ ABSL_GUARDED_BY(mu_) = 0;            // in a row
  size_t absent_ ABSL_GUARDED_BY(mu_) = 0;           // sources that do not have them, in a row
  std::vector<uint8_t> wrong_ ABSL_GUARDED_BY(mu_);  // answers, by piece
  bool any_wrong_ ABSL_GUARDED_BY(mu_) = false;
  Moment not_before_ ABSL_GUARDED_BY(mu_) = Moment::InfinitePast();
  Moment rest_at_ ABSL_GUARDED_BY(mu_) = Moment::InfiniteFuture();
  Moment looks_at_ ABSL_GUARDED_BY(mu_) = Moment::InfiniteFuture();  // when timer_ fires
  std::string trouble_ ABSL_GUARDED_BY(mu_);
  Timer timer_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
