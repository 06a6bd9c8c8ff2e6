// SPDX-License-Identifier: Apache-2.0
#include "cache/span_table_builder.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "cache/span_table_maker.h"
#include "image/span_table.h"

namespace imagefs {
namespace {

constexpr size_t kPieceBytes = 256 << 10;

// Finds the restart points of the blob, and the length of the tar in it.
absl::Status FindPoints(const Descriptor& blob, const SpanTableBuilder::BlobFile& file,
                        WindowMemory& windows, const CancelToken& cancel, LayerOutput& made) {
  const auto grant = [&](uint64_t bytes) { return windows.Wait("access", bytes, cancel); };
  std::string in(kPieceBytes, '\0'), out(kPieceBytes, '\0');
  std::unique_ptr<Decompressor> decompressor;
  Sha256 hash;
  made.tar_bytes = 0;
  for (uint64_t at = 0; at < blob.size;) {
    if (cancel.cancelled()) return absl::CancelledError("the span table is no longer wanted");
    std::string_view piece(in.data(), std::min<uint64_t>(kPieceBytes, blob.size - at));
    IMAGEFS_RETURN_IF_ERROR(PreadExact(file.fd.get(), absl::MakeSpan(in.data(), piece.size()),
                                       file.offset + at, "the blob's file"));
    at += piece.size();
    hash.Update(piece);
    if (decompressor == nullptr) {
      IMAGEFS_ASSIGN_OR_RETURN(decompressor,
                               Decompressor::Create(SniffCompression(piece), kPointSpacing, grant));
    }
    while (true) {
      IMAGEFS_ASSIGN_OR_RETURN(const Decompressor::Step step,
                               decompressor->Run(piece, absl::MakeSpan(out)));
      piece.remove_prefix(step.consumed);
      made.tar_bytes += step.produced;
      if (step.produced < out.size() && piece.empty()) break;
    }
  }
  if (hash.Finish() != blob.digest || decompressor == nullptr) {
    return absl::DataLossError(StrCat("blob ", blob.digest.ToString(), ": wrong bytes"));
  }
  made.points = decompressor->points();
  return absl::OkStatus();
}

// Lowers this thread to idle priority.
void BeLeastUrgent() {
  const sched_param none{};
  sched_setscheduler(0, SCHED_IDLE, &none);
}

}  // namespace

// Fetches a blob once more, into an unlinked file, then builds the table.
class SpanTableBuilder::Job : public std::enable_shared_from_this<Job> {
 public:
  Job(SpanTableBuilder& builder, SubjectRef layer, Descriptor blob, SourceTurns::Claim source,
      Table::Context context)
      : builder_(builder),
        layer_(std::move(layer)),
        blob_(std::move(blob)),
        source_(std::move(source)),
        context_(std::move(context)) {
    auto cancel = [source = cancel_]() mutable { source.Cancel(); };
    by_flight_ = context_.cancel.OnCancel(cancel);
    by_stop_ = builder_.stop_.token().OnCancel(cancel);
    to_idle_ = cancel_.token().OnCancel([source = idle_cancel_]() mutable { source.Cancel(); });
    absl::MutexLock lock(&builder_.mu_);
    ++builder_.jobs_alive_;
  }
  ~Job() {
    absl::MutexLock lock(&builder_.mu_);
    const auto it = builder_.background_jobs_.find(context_.key);
    if (it != builder_.background_jobs_.end() && it->second.expired())
      builder_.background_jobs_.erase(it);
    --builder_.jobs_alive_;
  }

  void Fetch(const std::shared_ptr<ImageSource>& source) {
    absl::StatusOr<std::optional<LocalBlob>> local = source->OpenLocal(blob_);
    if (!local.ok()) return context_.finish(local.status());
    if (local->has_value()) {
      file_ = {std::move((*local)->fd), (*local)->offset};
      return MoveToUrgent();
    }
    const std::string directory = builder_.root_ + "/blobs";
    absl::StatusOr<Fd> file = OpenFile(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (!file.ok()) return context_.finish(file.status());
    file_.fd = *std::move(file);
    source->ReadBlob(
        blob_, {{0, blob_.size}}, context_.priority, cancel_.token(),
        [self = shared_from_this()](uint64_t offset, std::string_view data) {
          return PwriteFull(self->file_.fd.get(), data, offset);
        },
        [self = shared_from_this(), source](const absl::Status& status) {
          if (!status.ok()) return self->context_.finish(status);
          self->MoveToUrgent();
        });
  }

  // Nobody is waiting for it yet.
  void Submit() {
    {
      absl::MutexLock lock(&builder_.mu_);
      builder_.background_jobs_[context_.key] = weak_from_this();
    }
    // A caller that joined before this has raised the priority; one that joins later finds the
    // entry.
    if (context_.priority->get() != Priority::kBackground) return MoveToUrgent();
    builder_.idle_->Submit(source_, [self = shared_from_this()](FairWorkers::Id) {
      if (self->moved_.load()) return;
      BeLeastUrgent();
      self->Run(/*idle=*/true);
    });
  }

  // An idle attempt may be stuck half-way: starts another one.
  void MoveToUrgent() {
    if (moved_.exchange(true)) return;
    idle_cancel_.Cancel();
    builder_.urgent_->Submit(
        source_, [self = shared_from_this()](FairWorkers::Id) { self->Run(/*idle=*/false); });
  }

  BlobFile file_;
  LayerOutput made_;

 private:
  void Run(bool idle) {
    const absl::Status status =
        builder_.Build(*layer_, blob_, file_, made_, idle ? idle_cancel_.token() : cancel_.token());
    // Another attempt has started or already ended.
    if (idle && !status.ok() && moved_.load()) return;
    if (ended_.exchange(true)) return;
    (status.ok() ? builder_.built_ : builder_.failed_)++;
    status.ok() ? context_.finish(true) : context_.finish(status);
  }

  SpanTableBuilder& builder_;
  const SubjectRef layer_;
  const Descriptor blob_;
  const SourceTurns::Claim source_;
  const Table::Context context_;
  // Fires when nobody waits any more, or the store closes.
  CancelSource cancel_;
  CancelSource idle_cancel_;  // fires then, and when another attempt has started
  std::atomic<bool> moved_{false}, ended_{false};
  CancelToken::Registration by_flight_, by_stop_, to_idle_;
};

SpanTableBuilder::SpanTableBuilder(std::string root, WindowMemory& windows)
    : root_(std::move(root)),
      windows_(windows),
      idle_(std::make_unique<FairWorkers>(ThreadRole::kSpanTables, SourceTurns::Options{1, 0})),
      urgent_(
          std::make_unique<FairWorkers>(ThreadRole::kSpanTablesNow, SourceTurns::Options{1, 0})) {}

SpanTableBuilder::~SpanTableBuilder() {
  stop_.Cancel();
  {
    absl::MutexLock lock(&mu_);
    auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return jobs_alive_ == 0; };
    mu_.Await(absl::Condition(&none));
  }
  idle_.reset();
  urgent_.reset();
}

void SpanTableBuilder::MoveToUrgent(const std::string& key) {
  std::shared_ptr<Job> job;
  {
    absl::MutexLock lock(&mu_);
    const auto it = background_jobs_.find(key);
    if (it != background_jobs_.end()) job = it->second.lock();
  }
  if (job != nullptr) job->MoveToUrgent();
}

absl::StatusOr<SpanTableBuilder::SubjectRef> SpanTableBuilder::SubjectOf(const Layer& layer) {
  auto subject = std::make_shared<Subject>();
  subject->diff_id = layer.diff_id;
  subject->path = PathOf(layer);
  subject->data_bytes = layer.data_bytes;
  IMAGEFS_ASSIGN_OR_RETURN(subject->data, layer.data.Duplicate());
  return SubjectRef(std::move(subject));
}

void SpanTableBuilder::Start(const LayerRef& layer, const Descriptor& blob, BlobFile file,
                             LayerOutput made, SourceTurns::Claim source) {
  absl::StatusOr<SubjectRef> subject = SubjectOf(*layer);
  if (!subject.ok()) return;
  Table::Caller caller;
  caller.priority = Priority::kBackground;
  auto held = std::make_shared<std::pair<BlobFile, LayerOutput>>(std::move(file), std::move(made));
  caller.start = [this, layer = *subject, blob, held,
                  source = std::move(source)](Table::Context context) {
    auto job = std::make_shared<Job>(*this, layer, blob, source, std::move(context));
    job->file_ = std::move(held->first);
    job->made_ = std::move(held->second);
    job->Submit();
  };
  caller.done = [layer = *subject](const absl::StatusOr<bool>& result) {
    if (result.ok() || absl::IsCancelled(result.status())) return;
    LogInfo("access.none layer=", layer->diff_id.Short(), " cause=", result.status().message());
  };
  flights_.Join(layer->diff_id.ToString(), std::move(caller));
}

FlightTicket SpanTableBuilder::Ensure(const LayerRef& layer, const Descriptor& blob,
                                      std::shared_ptr<ImageSource> source,
                                      absl::AnyInvocable<void(absl::Status)> done) {
  if (StatPath(PathOf(*layer)).ok()) {
    done(absl::OkStatus());
    return FlightTicket();
  }
  if (!layer->form.is_tar()) {
    done(absl::UnimplementedError("only a layer that is a tar can have a span table"));
    return FlightTicket();
  }
  absl::StatusOr<SubjectRef> subject = SubjectOf(*layer);
  if (subject.ok() && source == nullptr) {
    subject = absl::FailedPreconditionError("there is nowhere to fetch its blob from");
  }
  if (!subject.ok()) {
    done(subject.status());
    return FlightTicket();
  }
  Table::Caller caller;
  caller.auth_scope = source->auth_scope();
  caller.start = [this, layer = *subject, blob, source](Table::Context context) {
    if (StatPath(layer->path).ok()) return context.finish(true);
    const SourceTurns::Claim claim = {source->registry(), source->auth_scope(), nullptr, true};
    std::make_shared<Job>(*this, layer, blob, claim, std::move(context))->Fetch(source);
  };
  caller.done = [done = std::move(done)](const absl::StatusOr<bool>& result) mutable {
    done(result.status());
  };
  const std::string key = layer->diff_id.ToString();
  FlightTicket ticket = flights_.Join(key, std::move(caller)).ticket;
  MoveToUrgent(key);
  return ticket;
}

absl::Status SpanTableBuilder::Build(const Subject& layer, const Descriptor& blob,
                                     const BlobFile& file, LayerOutput made,
                                     const CancelToken& cancel) {
  if (made.points.empty()) {
    IMAGEFS_RETURN_IF_ERROR(FindPoints(blob, file, windows_, cancel, made));
    IMAGEFS_ASSIGN_OR_RETURN(const Fd index, OpenFile(root_ + "/layers", O_TMPFILE | O_RDWR, 0600));
    IMAGEFS_ASSIGN_OR_RETURN(LayerOutput again,
                             IndexData(layer.data.get(), made.tar_bytes, LayerForm(), layer.diff_id,
                                       index.get(), cancel));
    made.moves = std::move(again.moves);
    made.data_bytes = layer.data_bytes;
  }
  auto read_blob = [&file](absl::Span<char> out, uint64_t offset) {
    return PreadExact(file.fd.get(), out, file.offset + offset, "the blob's file");
  };
  const SpanTableInput input{blob.digest,           blob.size,        layer.diff_id,
                             made.tar_bytes,        made.data_bytes,  std::move(made.points),
                             std::move(made.moves), layer.data.get(), read_blob};
  IMAGEFS_ASSIGN_OR_RETURN(const SpanTable table, MakeSpanTable(input, cancel));
  IMAGEFS_ASSIGN_OR_RETURN(const std::string bytes, WriteSpanTable(table));
  // Unlinked until it is complete: a process that is killed leaves nothing behind.
  IMAGEFS_ASSIGN_OR_RETURN(const Fd out, OpenFile(ParentOf(layer.path), O_TMPFILE | O_WRONLY));
  IMAGEFS_RETURN_IF_ERROR(PwriteFull(out.get(), bytes, 0));
  IMAGEFS_RETURN_IF_ERROR(FsyncFd(out.get(), layer.path));
  const std::string unnamed = StrCat("/proc/self/fd/", out.get());
  if (linkat(AT_FDCWD, unnamed.c_str(), AT_FDCWD, layer.path.c_str(), AT_SYMLINK_FOLLOW) != 0 &&
      errno != EEXIST) {
    return ErrnoStatus(errno, layer.path);
  }
  return absl::OkStatus();
}

FlightReport SpanTableBuilder::Flights() const {
  return {"access", flights_.counters(), flights_.Running()};
}

void SpanTableBuilder::AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const {
  out.emplace_back("span_tables_built", built_.load());
  out.emplace_back("span_tables_failed", failed_.load());
}

}  // namespace imagefs
