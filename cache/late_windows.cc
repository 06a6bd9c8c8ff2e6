// SPDX-License-Identifier: Apache-2.0
#include "cache/late_windows.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/memory/memory.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/fill_shares.h"
#include "cache/received_bytes.h"
#include "image/span_table.h"

namespace imagefs {
namespace {

constexpr int64_t kVersion = 1;
constexpr uint64_t kMaxFileBytes = 16 << 20;  // a quarter of kMaxBundleBytes by the smallest pieces
// So few are requested at once.
constexpr uint64_t kSmallBytes = 256 << 10;
// What is near to what is needed is likely to be needed, and costs less than another request.
constexpr uint64_t kGroupBytes = 128 << 10;
// One request for what nobody has asked for: a reader who then needs a part of it waits for it.
constexpr uint64_t kRestBytes = 512 << 10;
constexpr absl::Duration kQuiet = absl::Seconds(2);  // since the last piece was wanted
constexpr int kMostRequests = 4;
constexpr uint64_t kCrowdedBytes = 4 << 20;
constexpr absl::Duration kFirstPause = absl::Seconds(1), kLongestPause = absl::Seconds(30);
constexpr int kMaxDoublings = 5;
constexpr size_t kMaxSources = 4;
constexpr int kManyWrong = 3;  // answers for one piece; a proxy may have damaged one

absl::Status Malformed(std::string_view what) {
  return absl::DataLossError(StrCat("where the windows of a span table are: ", what));
}

absl::StatusOr<PublishedWindows> Parse(std::string_view text) {
  IMAGEFS_ASSIGN_OR_RETURN(const Json json, Json::Parse(text));
  if (json.IntOr("version", 0) != kVersion) return Malformed("an unknown version");
  PublishedWindows windows;
  IMAGEFS_ASSIGN_OR_RETURN(windows.blob.digest, Digest::Parse(json.StringOr("digest")));
  windows.blob.size = static_cast<uint64_t>(std::max<int64_t>(json.IntOr("size", 0), 0));
  windows.piece_bytes =
      static_cast<uint32_t>(std::clamp<int64_t>(json.IntOr("piece_bytes", 0), 0, 1 << 20));
  windows.repository = json.StringOr("repository");
  for (const Json& piece : json["pieces"].elements()) {
    IMAGEFS_ASSIGN_OR_RETURN(windows.pieces.emplace_back(),
                             Digest::Parse(piece.string().value_or("")));
  }
  if (windows.piece_bytes == 0 || windows.blob.size == 0 ||
      windows.pieces.size() != windows.PieceCount()) {
    return Malformed("sizes that do not fit each other");
  }
  return windows;
}

std::string FileOf(const std::string& directory) { return directory + "/windows"; }

}  // namespace

// One request, of pieces [first, last).
struct LateWindows::Ask {
  uint32_t first = 0, last = 0;
  ByteRange range;  // of the blob
  bool rest = false, anew = false;
  std::shared_ptr<ImageSource> source;
  FillSlot slot;
  // Accessed only by the transfer's callbacks, which run one at a time. Pieces below `next` are
  // read by workers, and not written any more.
  std::unique_ptr<char[]> bytes;
  RangeSet received;
  uint32_t next = 0;
};

absl::Status LateWindows::Write(const std::string& directory, const PublishedWindows& windows) {
  JsonWriter writer;
  writer.BeginObject()
      .Member("version", kVersion)
      .Member("digest", windows.blob.digest.ToString())
      .Member("size", windows.blob.size)
      .Member("piece_bytes", uint64_t{windows.piece_bytes})
      .Member("repository", windows.repository);
  writer.Key("pieces").BeginArray();
  for (const Digest& piece : windows.pieces) writer.String(piece.ToString());
  writer.EndArray().EndObject();
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd,
                           OpenFile(FileOf(directory), O_WRONLY | O_CREAT | O_EXCL, 0600));
  return PwriteFull(fd.get(), writer.Take(), 0);
}

absl::StatusOr<std::shared_ptr<LateWindows>> LateWindows::Open(Options options,
                                                               FillScheduler& scheduler) {
  const absl::StatusOr<std::string> text = ReadFile(FileOf(options.directory), kMaxFileBytes);
  if (absl::IsNotFound(text.status())) return Malformed("the file is missing");
  IMAGEFS_RETURN_IF_ERROR(text.status());
  absl::StatusOr<PublishedWindows> windows = Parse(*text);
  if (!windows.ok()) return Malformed(ToStd(windows.status().message()));
  if (windows->blob.size != options.windows.size()) return Malformed("they are of another table");
  const std::shared_ptr<LateWindows> late =
      absl::WrapUnique(new LateWindows(std::move(options), *std::move(windows), scheduler));
  IMAGEFS_RETURN_IF_ERROR(late->FindPieces());
  return late;
}

// What an earlier process left.
absl::Status LateWindows::FindPieces() {
  IMAGEFS_ASSIGN_OR_RETURN(access_, OpenFile(options_.directory + "/access", O_RDWR | O_NOFOLLOW));
  absl::MutexLock lock(&mu_);
  states_.resize(windows_.pieces.size(), State::kAbsent);
  wrong_.resize(windows_.pieces.size());
  std::string bytes;
  for (uint32_t i = 0; i < states_.size(); ++i) {
    const ByteRange range = RangeOf(i, i + 1);
    bytes.resize(range.size());
    IMAGEFS_RETURN_IF_ERROR(PreadExact(access_.get(), absl::MakeSpan(bytes),
                                       options_.windows.begin + range.begin, "a span table"));
    if (Sha256Of(bytes) != windows_.pieces[i]) continue;
    states_[i] = State::kHere;
    ++here_;
  }
  return here_ == states_.size() ? Complete() : absl::OkStatus();
}

std::pair<uint32_t, uint32_t> LateWindows::PiecesOf(ByteRange range) const {
  if (range.empty()) return {0, 0};
  return {static_cast<uint32_t>(range.begin / windows_.piece_bytes),
          static_cast<uint32_t>((range.end - 1) / windows_.piece_bytes) + 1};
}

ByteRange LateWindows::RangeOf(uint32_t first, uint32_t last) const {
  const uint64_t piece = windows_.piece_bytes;
  return {first * piece, std::min(last * piece, windows_.blob.size)};
}

void LateWindows::AddSource(std::shared_ptr<ImageSource> source, bool with_layers) {
  if (source == nullptr || complete() || (with_layers && !windows_.repository.empty())) return;
  {
    absl::MutexLock lock(&mu_);
    std::erase_if(sources_, [&](const std::shared_ptr<ImageSource>& other) {
      return other->auth_scope() == source->auth_scope();
    });
    if (sources_.size() >= kMaxSources) sources_.pop_back();
    sources_.insert(sources_.begin(), std::move(source));
    not_before_ = Moment::InfinitePast();
    failures_ = 0;
    absent_ = 0;
  }
  PumpLater();
}

void LateWindows::Start() {
  {
    absl::MutexLock lock(&mu_);
    if (windows_.blob.size <= kSmallBytes) all_ = true;
    if (scheduler_.options().background) rest_at_ = Moment::Now() + kQuiet;
  }
  PumpLater();
}

bool LateWindows::WantLocked(uint32_t first, uint32_t last, bool urgent) {
  bool any = false;
  for (uint32_t i = first; i < last; ++i) {
    if (states_[i] != State::kAbsent) continue;
    states_[i] = State::kWanted;
    urgent ? wanted_.push_front(i) : wanted_.push_back(i);
    any = true;
  }
  return any;
}

void LateWindows::Want(ByteRange range, bool urgent) {
  if (complete()) return;
  bool any = false;
  {
    absl::MutexLock lock(&mu_);
    const auto [first, last] = PiecesOf(range);
    any = WantLocked(first, last, urgent);
    if (rest_at_ != Moment::InfiniteFuture()) rest_at_ = Moment::Now() + kQuiet;
  }
  if (any) Pump();
}

void LateWindows::WantAll() {
  if (complete()) return;
  {
    absl::MutexLock lock(&mu_);
    if (std::exchange(all_, true)) return;
  }
  PumpLater();
}

void LateWindows::When(ByteRange range, uint64_t bytes, absl::AnyInvocable<void()> call) {
  const auto [first, last] = PiecesOf(range);
  {
    absl::MutexLock lock(&mu_);
    const bool here = complete() || std::all_of(states_.begin() + first, states_.begin() + last,
                                                [](State state) { return state == State::kHere; });
    if (!here && over_) return;
    if (!here) {
      waiting_bytes_ += bytes;
      waiting_.push_back({first, last, bytes, std::exchange(call, nullptr)});
      WantLocked(first, last, true);  // a request for them may have failed
    }
  }
  call ? call() : Pump();
}

void LateWindows::WhenComplete(absl::AnyInvocable<void()> call) {
  {
    absl::MutexLock lock(&mu_);
    if (over_ && !complete()) return;
    if (!complete()) for_all_.push_back(std::exchange(call, nullptr));
  }
  call ? call() : WantAll();
}

bool LateWindows::crowded() const {
  if (complete()) return false;
  absl::MutexLock lock(&mu_);
  return waiting_bytes_ > kCrowdedBytes;
}

std::string LateWindows::trouble() const {
  absl::MutexLock lock(&mu_);
  return trouble_;
}

void LateWindows::Cancel() {
  std::vector<Waiting> waiting;
  std::vector<absl::AnyInvocable<void()>> for_all;
  std::vector<std::shared_ptr<ImageSource>> sources;
  {
    absl::MutexLock lock(&mu_);
    over_ = true;
    waiting.swap(waiting_);
    for_all.swap(for_all_);
    sources.swap(sources_);
    timer_.Cancel();
  }
  cancel_.Cancel();
}

void LateWindows::PumpLater() {
  scheduler_.work().Submit(std::make_shared<LivePriority>(Priority::kOnDemand),
                           [self = shared_from_this()] { self->Pump(); });
}

// Sends what may be sent now.
void LateWindows::Pump() {
  while (true) {
    AskRef ask;
    bool open = false;
    {
      absl::MutexLock lock(&mu_);
      ask = NextLocked();
      open = ask == nullptr && sources_.empty() && !over_ && !complete() && !opening_ &&
             Moment::Now() >= not_before_ && (all_ || !wanted_.empty()) &&
             !windows_.repository.empty() && options_.open != nullptr;
      if (open) opening_ = true;
    }
    if (open) {
      return scheduler_.work().Submit([self = shared_from_this()] { self->FindRepository(); });
    }
    if (ask == nullptr) return;
    Send(ask);
  }
}

// After a restart.
void LateWindows::FindRepository() {
  const absl::StatusOr<Reference> reference = Reference::Parse(windows_.repository);
  absl::StatusOr<std::shared_ptr<ImageSource>> source =
      reference.ok() ? options_.open(*reference)
                     : absl::StatusOr<std::shared_ptr<ImageSource>>(reference.status());
  {
    absl::MutexLock lock(&mu_);
    opening_ = false;
    if (!source.ok()) {
      trouble_ = std::string(source.status().message());
      not_before_ = Moment::Now() + kLongestPause;
    }
  }
  source.ok() ? AddSource(*std::move(source), false) : Pump();
}

void LateWindows::LookAgainLocked(Moment when) {
  if (when == Moment::InfiniteFuture() || when >= looks_at_) return;
  looks_at_ = when;
  timer_ = scheduler_.At(when, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr) return;
    {
      absl::MutexLock lock(&self->mu_);
      self->looks_at_ = Moment::InfiniteFuture();
    }
    self->PumpLater();
  });
}

bool LateWindows::ReadyLocked(Moment now) {
  if (over_ || complete() || sources_.empty()) return false;
  if (now < not_before_) {
    LookAgainLocked(not_before_);
    return false;
  }
  return in_flight_ < kMostRequests;
}

// What a span needs comes first, together with its neighbours; then the rest in order.
LateWindows::AskRef LateWindows::NextLocked() {
  const Moment now = Moment::Now();
  if (!ReadyLocked(now)) return nullptr;
  const auto lacks = [this](uint32_t i) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return states_[i] == State::kAbsent || states_[i] == State::kWanted;
  };
  const auto count = static_cast<uint32_t>(states_.size());
  while (!wanted_.empty()) {
    const uint32_t piece = wanted_.front();
    wanted_.pop_front();
    if (states_[piece] != State::kWanted) continue;  // it came along with another one
    const auto group = std::max<uint32_t>(kGroupBytes / windows_.piece_bytes, 1);
    const uint32_t from = piece / group * group, to = std::min(from + group, count);
    uint32_t first = piece, last = piece + 1;
    while (first > from && lacks(first - 1)) --first;
    while (last < to && lacks(last)) ++last;
    return TakeLocked(first, last, false);
  }
  if (!all_ && now < rest_at_) {
    LookAgainLocked(rest_at_);
    return nullptr;
  }
  if (rest_in_flight_ > 0) return nullptr;
  uint32_t first = 0;
  while (first < count && !lacks(first)) ++first;
  if (first == count) return nullptr;
  const auto most = std::max<uint32_t>(kRestBytes / windows_.piece_bytes, 1);
  uint32_t last = first + 1;
  while (last < count && last - first < most && lacks(last)) ++last;
  return TakeLocked(first, last, true);
}

LateWindows::AskRef LateWindows::TakeLocked(uint32_t first, uint32_t last, bool rest) {
  auto ask = std::make_shared<Ask>();
  ask->first = ask->next = first;
  ask->last = last;
  ask->range = RangeOf(first, last);
  ask->rest = rest;
  ask->anew = any_wrong_;
  ask->source = sources_.front();
  for (uint32_t i = first; i < last; ++i) states_[i] = State::kAsked;
  ++in_flight_;
  if (rest) ++rest_in_flight_;
  return ask;
}

void LateWindows::Send(const AskRef& ask) {
  const Priority priority = ask->rest ? Priority::kReadahead : Priority::kOnDemand;
  ask->bytes = std::make_unique_for_overwrite<char[]>(ask->range.size());
  ask->slot = scheduler_.Occupy(SourceKey(*ask->source), priority);
  ImageSource::ReadOptions options(std::make_shared<LivePriority>(priority));
  options.anew = ask->anew;
  scheduler_.counters().window_requests++;
  ask->source->ReadBlob(
      windows_.blob, {ask->range}, std::move(options), cancel_.token(),
      [self = shared_from_this(), ask](uint64_t offset, std::string_view data) {
        return self->OnBytes(ask, offset, data);
      },
      [self = shared_from_this(), ask](const absl::Status& status) { self->OnEnd(ask, status); });
}

absl::Status LateWindows::OnBytes(const AskRef& ask, uint64_t offset, std::string_view data) {
  IMAGEFS_RETURN_IF_ERROR(TakeReceived(ask->range, offset, data, ask->bytes.get(), ask->received));
  scheduler_.counters().window_bytes += data.size();
  const uint64_t end = ask->received.ContiguousEnd(ask->range.begin);
  while (ask->next < ask->last && RangeOf(ask->next, ask->next + 1).end <= end) {
    scheduler_.work().Submit(
        std::make_shared<LivePriority>(Priority::kOnDemand),
        [self = shared_from_this(), ask, piece = ask->next] { self->Take(ask, piece); });
    ++ask->next;
  }
  return absl::OkStatus();
}

void LateWindows::PutBackLocked(uint32_t piece) {
  const bool needed = std::any_of(waiting_.begin(), waiting_.end(), [&](const Waiting& one) {
    return one.first <= piece && piece < one.last;
  });
  states_[piece] = needed ? State::kWanted : State::kAbsent;
  if (needed) wanted_.push_front(piece);
}

// Returns what is to be told.
absl::Status LateWindows::OnFailureLocked(const AskRef& ask, const absl::Status& status) {
  if (over_ || absl::IsCancelled(status)) return absl::OkStatus();
  trouble_ = std::string(status.message());
  // The next attempt asks another one, if there is one that has not been added since.
  if (!sources_.empty() && sources_.front() == ask->source) {
    std::rotate(sources_.begin(), sources_.begin() + 1, sources_.end());
  }
  if (absl::IsNotFound(status) && ++absent_ >= std::max<size_t>(sources_.size(), 1)) {
    return absl::DataLossError(
        StrCat("the windows of its index are not where the index says: ", trouble_));
  }
  // Another size, or answers that make no sense.
  if (absl::IsDataLoss(status) && failures_ + 1 >= kManyWrong) {
    return absl::DataLossError(StrCat("the windows of its index: ", trouble_));
  }
  const absl::Duration pause = kFirstPause * (int64_t{1} << std::min(failures_++, kMaxDoublings));
  not_before_ = Moment::Now() + std::min(pause, kLongestPause);
  return IsCredentialFailure(status) ? status : absl::OkStatus();
}

void LateWindows::OnEnd(const AskRef& ask, const absl::Status& status) {
  absl::Status tell;
  {
    absl::MutexLock lock(&mu_);
    --in_flight_;
    if (ask->rest) --rest_in_flight_;
    for (uint32_t i = ask->next; i < ask->last; ++i) PutBackLocked(i);
    if (status.ok() && ask->next == ask->last) {
      failures_ = 0;
      absent_ = 0;
      if (!any_wrong_) trouble_.clear();
    } else {
      tell = OnFailureLocked(
          ask, status.ok() ? absl::DataLossError("the windows of an index ended early") : status);
    }
  }
  FillSlot slot = std::move(ask->slot);
  if (!tell.ok()) Tell(tell);
  Pump();
  slot.GiveBack();
}

// On a worker: piece `piece` has arrived.
void LateWindows::Take(const AskRef& ask, uint32_t piece) {
  const ByteRange range = RangeOf(piece, piece + 1);
  const std::string_view bytes(ask->bytes.get() + (range.begin - ask->range.begin), range.size());
  if (Sha256Of(bytes) != windows_.pieces[piece]) return OnWrong(ask, piece);
  const absl::Status written =
      PwriteFull(access_.get(), bytes, options_.windows.begin + range.begin);
  std::vector<absl::AnyInvocable<void()>> ready;
  bool all = false;
  {
    absl::MutexLock lock(&mu_);
    if (!written.ok()) {
      trouble_ = std::string(written.message());
      not_before_ = Moment::Now() + kFirstPause;
      PutBackLocked(piece);
    } else if (states_[piece] != State::kHere) {
      states_[piece] = State::kHere;
      // If it is over, a layer that was made anew may have the name.
      all = ++here_ == states_.size() && !over_;
    }
    std::erase_if(waiting_, [&](Waiting& one) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      const bool here = std::all_of(states_.begin() + one.first, states_.begin() + one.last,
                                    [](State state) { return state == State::kHere; });
      if (!here) return false;
      waiting_bytes_ -= one.bytes;
      ready.push_back(std::move(one.call));
      return true;
    });
  }
  for (auto& call : ready) call();
  if (!written.ok()) return Pump();
  if (all) {
    if (const absl::Status status = Complete(); !status.ok()) return Fail(status);
    absl::MutexLock lock(&mu_);
    ready = std::exchange(for_all_, {});
    sources_.clear();  // and the credentials that they hold
    trouble_.clear();
    timer_.Cancel();
  }
  if (all) {
    for (auto& call : ready) call();
  }
  scheduler_.Wake();
}

void LateWindows::OnWrong(const AskRef& ask, uint32_t piece) {
  bool many;
  {
    absl::MutexLock lock(&mu_);
    any_wrong_ = true;
    many = ++wrong_[piece] >= kManyWrong;
    trouble_ = StrCat(ask->source->registry(), " sends windows that are not those of the index");
    if (!sources_.empty() && sources_.front() == ask->source) {
      std::rotate(sources_.begin(), sources_.begin() + 1, sources_.end());
    }
    PutBackLocked(piece);
  }
  LogWarning("windows.refused blob=", windows_.blob.digest.Short(), " piece=", piece,
             " registry=", ask->source->registry());
  if (many) return Fail(absl::DataLossError("its windows are not those that its index names"));
  Pump();
}

// Makes the table one that has its windows. A crash leaves it with either header; of windows that
// were not on the disk, the checksum is wrong.
absl::Status LateWindows::Complete() {
  std::string table(options_.windows.end, '\0');
  IMAGEFS_RETURN_IF_ERROR(PreadExact(access_.get(), absl::MakeSpan(table), 0, "a span table"));
  IMAGEFS_ASSIGN_OR_RETURN(const std::string header, HeaderOfCompleted(table));
  IMAGEFS_RETURN_IF_ERROR(PwriteFull(access_.get(), header, 0));
  if (unlink(FileOf(options_.directory).c_str()) != 0 && errno != ENOENT) {
    LogWarning("layer.cleanup_failed file=", FileOf(options_.directory), " errno=", errno);
  }
  complete_.store(true, std::memory_order_release);
  return absl::OkStatus();
}

void LateWindows::Fail(const absl::Status& why) {
  {
    absl::MutexLock lock(&mu_);
    if (std::exchange(over_, true)) return;
  }
  Tell(absl::DataLossError(why.message()));
}

// The callback may open files, and this may be the network thread.
void LateWindows::Tell(const absl::Status& why) {
  if (!options_.failed) return;
  scheduler_.work().Submit([self = shared_from_this(), why] {
    if (absl::IsDataLoss(why)) self->Cancel();
    self->options_.failed(why);
  });
}

}  // namespace imagefs
