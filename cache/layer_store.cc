#include "cache/layer_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <malloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "base/units.h"
#include "cache/layer_maker.h"

namespace imagefs {
namespace {

// Syncing a layer's data makes every other sync of the file system wait for it, also the small ones
// of the records that a mount is acknowledged by. So it waits for a pause, but not for ever.
constexpr absl::Duration kQuiet = absl::Seconds(1);
constexpr absl::Duration kMaxUnsealed = absl::Seconds(10);
constexpr int kAttempts = 2;  // of a layer whose bytes were wrong

// Bytes go to the disk a slice after the other: handed over all at once they fill its queue, and
// whoever syncs a record meanwhile waits behind them.
constexpr off_t kSyncSlice = 4 << 20;

absl::Status SyncFile(const std::string& path) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenFile(path, O_RDONLY));
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return ErrnoStatus(errno, path);
  for (off_t at = 0; at < st.st_size; at += kSyncSlice) {
    constexpr unsigned kAndWait =
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    if (sync_file_range(fd.get(), at, kSyncSlice, kAndWait) == 0) continue;
    if (errno == EIO || errno == ENOSPC || errno == EDQUOT) return ErrnoStatus(errno, path);
    break;  // not with this file system
  }
  return FsyncFd(fd.get(), path);
}

std::vector<std::string> ListDir(const std::string& path) {
  std::vector<std::string> names;
  DIR* dir = opendir(path.c_str());
  if (dir == nullptr) return names;
  while (const dirent* entry = readdir(dir)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  closedir(dir);
  return names;
}

}  // namespace

std::string_view LayerStateName(LayerState state) {
  switch (state) {
    case LayerState::kAbsent:
      return "absent";
    case LayerState::kFilling:
      return "filling";
    case LayerState::kWritten:
      return "written";
    case LayerState::kComplete:
      return "complete";
  }
  return "absent";
}

// The work of one layer flight. Begin (on a worker) decides where the bytes come from; Run (on a
// worker, once the first bytes are here) is the streaming pass; Fail or Succeed ends the flight. A
// registry that never answers therefore holds no worker.
class LayerStore::Job : public std::enable_shared_from_this<Job> {
 public:
  Job(LayerStore& store, const Digest& diff_id, Descriptor blob,
      std::shared_ptr<ImageSource> source, FoundIndexRef found,
      FlightTable<LayerRef>::Context context)
      : store_(store),
        diff_id_(diff_id),
        blob_(std::move(blob)),
        source_(std::move(source)),
        found_(std::move(found)),
        context_(std::move(context)) {
    absl::MutexLock lock(&store_.mu_);
    ++store_.jobs_alive_;
  }
  ~Job() {
    absl::MutexLock lock(&store_.mu_);
    --store_.jobs_alive_;
    store_.last_job_end_ = absl::Now();
  }

  void Start() {
    store_.work_->Submit(context_.priority, [self = shared_from_this()] { self->Begin(); });
  }

  // True once callers are being told how it ended.
  bool over() const {
    const Activity activity = activity_.load();
    return activity == Activity::kDone || activity == Activity::kFailed;
  }

  LayerProgress progress() const {
    LayerProgress progress;
    progress.activity = activity_.load();
    progress.blob_bytes = blob_.size;
    progress.unpacked_bytes = unpacked_bytes_.load(std::memory_order_relaxed);
    absl::MutexLock lock(&mu_);
    progress.downloaded_bytes = spool_ != nullptr ? spool_->present_bytes() : blob_.size;
    if (spool_ == nullptr && progress.activity == LayerProgress::Activity::kWaiting) {
      progress.downloaded_bytes = 0;
    }
    return progress;
  }

 private:
  using Activity = LayerProgress::Activity;

  void Begin() {
    if (absl::StatusOr<LayerRef> here = store_.Find(diff_id_); here.ok()) {
      store_.reused_++;
      return End(std::move(here));
    }
    if (found_ != nullptr && store_.Trusts(diff_id_)) {
      absl::StatusOr<LayerRef> layer = store_.PublishFilling(diff_id_, *found_);
      if (layer.ok()) return End(std::move(layer));
      LogWarning("layer.index_refused layer=", diff_id_.Short(), " origin=", found_->origin,
                 " cause=", layer.status().message());
    }
    absl::StatusOr<std::optional<LocalBlob>> local = source_->OpenLocal(blob_);
    if (!local.ok()) return End(local.status());
    if (local->has_value()) {
      const LocalBlob& file = **local;
      if (absl::StatusOr<Fd> fd = file.fd.Duplicate(); fd.ok()) {
        local_ = AccessBuilder::BlobFile{*std::move(fd), file.offset};
      }
      return Run([&file](absl::Span<char> buffer, uint64_t offset) -> absl::StatusOr<size_t> {
        const uint64_t left = offset < file.length ? file.length - offset : 0;
        return PreadFull(file.fd.get(), buffer.subspan(0, std::min<uint64_t>(buffer.size(), left)),
                         file.offset + offset);
      });
    }
    absl::StatusOr<std::shared_ptr<Spool>> spool = store_.OpenSpool(blob_);
    if (!spool.ok()) return End(spool.status());
    auto reader = std::make_shared<Spool::Reader>(*spool);
    {
      absl::MutexLock lock(&mu_);
      spool_ = *spool;
      reader_ = reader;
      scheduled_ = false;
    }
    activity_ = Activity::kDownloading;
    Download(*spool, reader);
    // Weak: the spool is kept by this job, and the flight's callback keeps the job.
    (*spool)->OnFirstByte([weak = weak_from_this(), reader = std::weak_ptr(reader)] {
      const auto self = weak.lock();
      const auto waiting = reader.lock();
      if (self != nullptr && waiting != nullptr) self->Schedule(waiting);
    });
  }

  // Joins the blob's flight.
  void Download(const std::shared_ptr<Spool>& spool, const std::shared_ptr<Spool::Reader>& reader) {
    FlightTable<bool>::Caller caller;
    caller.priority = context_.priority->get();
    caller.audience = source_->audience();
    caller.start = [&store = store_, source = source_, blob = blob_,
                    spool](FlightTable<bool>::Context context) {
      auto sink = [&store, spool](uint64_t offset, std::string_view data) {
        store.blob_bytes_ += data.size();
        return spool->Write(offset, data);
      };
      std::vector<ByteRange> missing = spool->Missing();
      if (missing.empty()) return context.finish(true);
      source->ReadBlob(blob, std::move(missing), context.priority, context.cancel, std::move(sink),
                       [finish = context.finish](absl::Status status) {
                         if (status.ok()) {
                           finish(true);
                         } else {
                           finish(status);
                         }
                       });
    };
    caller.done = [self = shared_from_this(), reader](absl::StatusOr<bool> result) {
      reader->End(result.status());
      self->Schedule(reader);
    };
    FlightTicket ticket =
        store_.blob_flights_.Join(blob_.digest.ToString(), std::move(caller)).ticket;
    // The layer's last caller leaving gives up this layer's share of the blob.
    CancelToken::Registration registration = context_.cancel.OnCancel([ticket, reader] {
      reader->End(absl::CancelledError("nobody waits for the layer any more"));
      ticket.Leave();
    });
    absl::MutexLock lock(&mu_);
    // The pass may have ended already; what it would have to undo is then not kept.
    if (reader != reader_) return;
    ticket_ = ticket;
    on_cancel_ = std::move(registration);
  }

  // First byte or end of the transfer, whichever comes first, puts the pass into the queue. Calls
  // for the reader of an earlier attempt come too late and mean nothing.
  void Schedule(const std::shared_ptr<Spool::Reader>& reader) {
    {
      absl::MutexLock lock(&mu_);
      if (scheduled_ || reader != reader_) return;
      scheduled_ = true;
    }
    store_.work_->Submit(context_.priority, [self = shared_from_this(), reader] {
      self->Run([&reader](absl::Span<char> buffer, uint64_t offset) {
        return reader->Read(buffer, offset);
      });
    });
  }

  void Run(absl::FunctionRef<absl::StatusOr<size_t>(absl::Span<char>, uint64_t)> read) {
    activity_ = Activity::kUnpacking;
    const std::string directory = StrCat(store_.options_.root, "/layers/tmp-", RandomHex(8));
    absl::StatusOr<LayerRef> layer = Make(directory, read);
    if (!layer.ok()) {
      if (absl::Status removed = RemoveTree(directory); !removed.ok()) {
        LogWarning("layer.cleanup_failed directory=", directory, " error=", removed.message());
      }
      if (absl::IsDataLoss(layer.status()) && TryAgain(layer.status())) return;
    }
    if (layer.ok()) StartAccess(*layer);
    EndTransfer(layer.status());
    End(std::move(layer));
  }

  // While the blob is still at hand, its span table is made.
  void StartAccess(const LayerRef& layer) {
    if (!local_.has_value()) {
      absl::MutexLock lock(&mu_);
      if (spool_ == nullptr) return;
      absl::StatusOr<Fd> fd = spool_->Duplicate();
      if (!fd.ok()) return;
      local_ = AccessBuilder::BlobFile{*std::move(fd), 0};
    }
    store_.access_->Start(layer, blob_, *std::exchange(local_, std::nullopt), std::move(made_));
  }

  absl::StatusOr<LayerRef> Make(
      const std::string& directory,
      absl::FunctionRef<absl::StatusOr<size_t>(absl::Span<char>, uint64_t)> read) {
    IMAGEFS_RETURN_IF_ERROR(MakeDirs(directory, 0700));
    const LayerInput input{blob_.digest, blob_.size, diff_id_, read};
    IMAGEFS_ASSIGN_OR_RETURN(made_, MakeLayer(input, directory, context_.cancel, unpacked_bytes_));
    activity_ = Activity::kIndexing;
    store_.tar_bytes_ += made_.tar_bytes;
    return store_.Publish(diff_id_, directory, made_.data_bytes, made_.index_bytes);
  }

  // Wrong bytes are fetched once more, from the first on, into a new spool (the old transfer may
  // still be writing into the old one); a local file is what it is.
  bool TryAgain(const absl::Status& status) {
    {
      absl::MutexLock lock(&mu_);
      if (spool_ == nullptr || ++attempts_ >= kAttempts) return false;
    }
    store_.refetched_++;
    LogWarning("layer.refetch layer=", diff_id_.Short(), " reason=", status.message());
    EndTransfer(status);
    unpacked_bytes_ = 0;
    Start();
    return true;
  }

  void EndTransfer(const absl::Status& status) {
    std::shared_ptr<Spool> spool;
    FlightTicket ticket;
    CancelToken::Registration on_cancel;
    {
      absl::MutexLock lock(&mu_);
      spool = std::move(spool_);
      spool_ = nullptr;
      reader_ = nullptr;
      ticket = std::exchange(ticket_, FlightTicket());
      on_cancel = std::move(on_cancel_);
    }
    if (spool == nullptr) return;
    on_cancel.Reset();
    ticket.Leave();
    // What may pass by itself or was given up is resumed by whoever asks next; all else is done
    // with.
    const bool resume =
        absl::IsCancelled(status) || IsRetriable(status) || IsCredentialFailure(status);
    store_.DropSpool(blob_.digest, resume);
  }

  void End(absl::StatusOr<LayerRef> result) {
    activity_ = result.ok() ? Activity::kDone : Activity::kFailed;
    if (absl::IsResourceExhausted(result.status())) {
      result = Annotate(result.status(),
                        StrCat("cannot write below ", store_.options_.root,
                               " (free space there, or choose another store with --root)"));
    } else if (!result.ok()) {
      result = Annotate(result.status(), StrCat("layer ", blob_.digest.ToString()));
    }
    context_.finish(std::move(result));
  }

  LayerStore& store_;
  const Digest diff_id_;
  const Descriptor blob_;
  const std::shared_ptr<ImageSource> source_;
  const FoundIndexRef found_;
  const FlightTable<LayerRef>::Context context_;
  std::atomic<Activity> activity_{Activity::kWaiting};
  // Of the pass; on its worker.
  LayerOutput made_;
  std::optional<AccessBuilder::BlobFile> local_;
  std::atomic<uint64_t> unpacked_bytes_{0};
  mutable absl::Mutex mu_;
  std::shared_ptr<Spool> spool_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<Spool::Reader> reader_ ABSL_GUARDED_BY(mu_);
  FlightTicket ticket_ ABSL_GUARDED_BY(mu_);
  CancelToken::Registration on_cancel_ ABSL_GUARDED_BY(mu_);
  bool scheduled_ ABSL_GUARDED_BY(mu_) = false;
  int attempts_ ABSL_GUARDED_BY(mu_) = 0;
};

LayerStore::LayerStore(Options options, KeyValueStore& kv)
    : options_(std::move(options)), kv_(kv) {}

absl::StatusOr<std::unique_ptr<LayerStore>> LayerStore::Open(Options options, KeyValueStore& kv) {
  std::unique_ptr<LayerStore> store(new LayerStore(std::move(options), kv));
  IMAGEFS_ASSIGN_OR_RETURN(store->boot_id_, BootId());
  for (const char* sub : {"/layers", "/blobs"}) {
    IMAGEFS_RETURN_IF_ERROR(MakeDirs(store->options_.root + sub, 0700));
  }
  const int workers = store->options_.workers > 0
                          ? store->options_.workers
                          : static_cast<int>(std::thread::hardware_concurrency()) + 2;
  store->fill_ = std::make_unique<FillScheduler>(store->options_.fill);
  store->access_ = std::make_unique<AccessBuilder>(store->options_.root);
  store->work_ = std::make_unique<Executor>("layer", workers);
  IMAGEFS_RETURN_IF_ERROR(store->Load());
  IMAGEFS_RETURN_IF_ERROR(store->RemoveStrangers());
  store->sealer_ = std::thread([raw = store.get()] { raw->SealLoop(); });
  return store;
}

LayerStore::~LayerStore() {
  {
    absl::MutexLock lock(&mu_);
    auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return jobs_alive_ == 0; };
    mu_.Await(absl::Condition(&none));
  }
  work_.reset();
  access_.reset();
  fill_.reset();
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  if (sealer_.joinable()) sealer_.join();
}

std::string LayerStore::DirectoryOf(const Digest& diff_id) const {
  return StrCat(options_.root, "/layers/", diff_id.hex());
}

// Keeps complete layers, and written ones of this boot (the page cache still has what was not yet
// synced); everything else is fetched again when somebody asks.
absl::Status LayerStore::Load() {
  std::vector<std::string> dead;
  {
    absl::MutexLock lock(&mu_);
    IMAGEFS_RETURN_IF_ERROR(
        kv_.ForEachWithPrefix(kRecordPrefix, [&](std::string_view key, std::string_view value) {
          mu_.AssertHeld();
          if (!ReadRecord(key, value).ok()) dead.emplace_back(key);
          return true;
        }));
  }
  WriteBatch batch;
  for (const std::string& key : dead) {
    batch.Delete(key);
    dropped_++;
    LogWarning("layer.dropped layer=", key, " reason=not synced before a crash, or damaged");
  }
  if (!dead.empty()) IMAGEFS_RETURN_IF_ERROR(kv_.Write(batch, true));
  return absl::OkStatus();
}

// Half-made layers, and blobs of another boot.
absl::Status LayerStore::RemoveStrangers() {
  absl::flat_hash_set<std::string> known;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [diff_id, entry] : layers_) known.insert(diff_id.hex());
  }
  for (const std::string& name : ListDir(options_.root + "/layers")) {
    if (known.contains(name)) continue;
    IMAGEFS_RETURN_IF_ERROR(RemoveTree(StrCat(options_.root, "/layers/", name)));
  }
  const std::string suffix = "." + boot_id_.substr(0, 8);
  for (const std::string& name : ListDir(options_.root + "/blobs")) {
    if (std::string_view(name).ends_with(suffix)) continue;
    IMAGEFS_RETURN_IF_ERROR(RemoveTree(StrCat(options_.root, "/blobs/", name)));
  }
  return absl::OkStatus();
}

absl::StatusOr<LayerRef> LayerStore::OpenLocked(const Digest& diff_id, Entry& entry) {
  if (LayerRef open = entry.open.lock()) return open;
  auto layer = std::make_shared<Layer>();
  layer->diff_id = diff_id;
  layer->directory = DirectoryOf(diff_id);
  layer->data_bytes = entry.data_bytes;
  IMAGEFS_ASSIGN_OR_RETURN(layer->data, OpenFile(layer->directory + "/data", O_RDONLY));
  IMAGEFS_ASSIGN_OR_RETURN(layer->index, ErofsImage::Open(layer->directory + "/index"));
  if (entry.state == LayerState::kFilling) IMAGEFS_RETURN_IF_ERROR(OpenFilling(*layer, entry));
  entry.open = layer;
  return LayerRef(std::move(layer));
}

absl::StatusOr<LayerRef> LayerStore::Find(const Digest& diff_id) {
  absl::MutexLock lock(&mu_);
  const auto it = layers_.find(diff_id);
  if (it == layers_.end()) {
    return absl::NotFoundError(StrCat("layer ", diff_id.ToString(), " is not here"));
  }
  absl::StatusOr<LayerRef> layer = OpenLocked(diff_id, it->second);
  if (!layer.ok()) {
    // Its files are gone or damaged behind our back: forget it, so that it is fetched again.
    LogError("layer.damaged layer=", diff_id.Short(), " error=", layer.status().message());
    layers_.erase(it);
    return absl::NotFoundError(StrCat("layer ", diff_id.ToString(), " is damaged"));
  }
  return layer;
}

FlightTicket LayerStore::Ensure(const Digest& diff_id, const Descriptor& blob,
                                std::shared_ptr<ImageSource> source, FoundIndexRef found,
                                Priority priority, Done done) {
  done = [source, done = std::move(done)](absl::StatusOr<LayerRef> layer) mutable {
    if (layer.ok()) {
      if (const auto filling = FillingOf(*layer)) filling->AddSource(source);
    }
    done(std::move(layer));
  };
  if (absl::StatusOr<LayerRef> here = Find(diff_id); here.ok()) {
    reused_++;
    done(std::move(here));
    return FlightTicket();
  }
  if (source == nullptr) {
    done(absl::NotFoundError(
        StrCat("layer ", diff_id.ToString(), " is not in the store; pull the image again")));
    return FlightTicket();
  }
  FlightTable<LayerRef>::Caller caller;
  caller.priority = priority;
  caller.audience = source->audience();
  caller.start = [this, diff_id, blob, source, found](FlightTable<LayerRef>::Context context) {
    auto job = std::make_shared<Job>(*this, diff_id, blob, source, found, std::move(context));
    {
      absl::MutexLock lock(&mu_);
      jobs_[diff_id] = job;
    }
    job->Start();
  };
  caller.done = std::move(done);
  return layer_flights_.Join(diff_id.ToString(), std::move(caller)).ticket;
}

absl::StatusOr<LayerRef> LayerStore::Publish(const Digest& diff_id, const std::string& directory,
                                             uint64_t data_bytes, uint64_t index_bytes) {
  const std::string target = DirectoryOf(diff_id);
  absl::MutexLock records(&records_mu_);
  IMAGEFS_RETURN_IF_ERROR(RemoveTree(target));
  if (rename(directory.c_str(), target.c_str()) != 0) return ErrnoStatus(errno, target);
  // Not synced: it must outlive this process only. Seal makes it outlive the machine's crash.
  WriteBatch batch;
  batch.Put(StrCat(kRecordPrefix, diff_id.hex()),
            RecordOf(LayerState::kWritten, data_bytes, index_bytes));
  IMAGEFS_RETURN_IF_ERROR(kv_.Write(batch, false));
  absl::StatusOr<LayerRef> layer;
  {
    absl::MutexLock lock(&mu_);
    Entry& entry = layers_[diff_id];
    entry = Entry();
    entry.data_bytes = data_bytes;
    entry.index_bytes = index_bytes;
    layer = OpenLocked(diff_id, entry);
    if (layer.ok()) {
      if (unsealed_.empty()) unsealed_since_ = absl::Now();
      unsealed_.push_back(diff_id);
    } else {
      layers_.erase(diff_id);
    }
  }
  IMAGEFS_RETURN_IF_ERROR(layer.status());
  built_++;
  return layer;
}

bool LayerStore::MayRestLocked() const {
  const absl::Time now = absl::Now();
  return !stopping_ && durable_waits_.empty() && now - unsealed_since_ < kMaxUnsealed &&
         (jobs_alive_ > 0 || now - last_job_end_ < kQuiet);
}

void LayerStore::SealLoop() {
  while (true) {
    Digest next;
    {
      absl::MutexLock lock(&mu_);
      auto work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return stopping_ || !unsealed_.empty();
      };
      mu_.Await(absl::Condition(&work));
      auto urgent = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return stopping_ || !durable_waits_.empty();
      };
      while (MayRestLocked()) mu_.AwaitWithTimeout(absl::Condition(&urgent), kQuiet / 4);
      if (unsealed_.empty()) return;  // stopping, and all is on disk
      next = unsealed_.front();
      unsealed_.pop_front();
    }
    Seal(next);
  }
}

absl::Status LayerStore::SealFiles(const Digest& diff_id, const Entry& entry) {
  const std::string directory = DirectoryOf(diff_id);
  IMAGEFS_RETURN_IF_ERROR(SyncFile(directory + "/data"));
  IMAGEFS_RETURN_IF_ERROR(SyncFile(directory + "/index"));
  IMAGEFS_RETURN_IF_ERROR(FsyncDir(directory));
  IMAGEFS_RETURN_IF_ERROR(FsyncDir(options_.root + "/layers"));
  WriteBatch batch;
  batch.Put(StrCat(kRecordPrefix, diff_id.hex()),
            RecordOf(LayerState::kComplete, entry.data_bytes, entry.index_bytes));
  return kv_.Write(batch, true);
}

void LayerStore::Seal(const Digest& diff_id) {
  Entry entry;
  LayerRef pin;  // keeps the collector away while the files are synced
  {
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(diff_id);
    if (it == layers_.end() || it->second.state != LayerState::kWritten) return;
    if (absl::StatusOr<LayerRef> open = OpenLocked(diff_id, it->second); open.ok()) pin = *open;
    entry.data_bytes = it->second.data_bytes;
    entry.index_bytes = it->second.index_bytes;
  }
  const absl::Status status = SealFiles(diff_id, entry);
  if (status.ok()) {
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(diff_id);
    if (it != layers_.end()) it->second.state = LayerState::kComplete;
  } else {
    LogError("layer.sync_failed layer=", diff_id.Short(), " error=", status.message());
  }
  NotifyDurable(diff_id, status);
}

void LayerStore::NotifyDurable(const Digest& diff_id, const absl::Status& status) {
  std::vector<absl::AnyInvocable<void(absl::Status)>> ready;
  {
    absl::MutexLock lock(&mu_);
    for (auto it = durable_waits_.begin(); it != durable_waits_.end();) {
      it->missing.erase(diff_id);
      if (!it->missing.empty() && status.ok()) {
        ++it;
        continue;
      }
      ready.push_back(std::move(it->done));
      it = durable_waits_.erase(it);
    }
  }
  for (auto& done : ready) done(status);
}

void LayerStore::WaitDurable(const std::vector<Digest>& diff_ids,
                             absl::AnyInvocable<void(absl::Status)> done) {
  absl::Status status;
  for (const Digest& diff_id : diff_ids) {
    const absl::StatusOr<LayerRef> layer = Find(diff_id);
    if (!layer.ok()) continue;
    if (const auto filling = FillingOf(*layer)) filling->WantAll(Priority::kForeground);
  }
  {
    absl::MutexLock lock(&mu_);
    DurableWait wait;
    for (const Digest& diff_id : diff_ids) {
      const auto it = layers_.find(diff_id);
      if (it == layers_.end()) {
        status = absl::NotFoundError(StrCat("layer ", diff_id.ToString(), " is gone"));
      } else if (it->second.state != LayerState::kComplete) {
        wait.missing.insert(diff_id);
      }
    }
    if (status.ok() && !wait.missing.empty()) {
      wait.done = std::move(done);
      durable_waits_.push_back(std::move(wait));
      return;
    }
  }
  done(status);
}

absl::StatusOr<std::shared_ptr<Spool>> LayerStore::OpenSpool(const Descriptor& blob) {
  absl::MutexLock lock(&mu_);
  std::weak_ptr<Spool>& slot = spools_[blob.digest];
  if (std::shared_ptr<Spool> spool = slot.lock()) return spool;
  IMAGEFS_ASSIGN_OR_RETURN(
      std::shared_ptr<Spool> spool,
      Spool::Open(StrCat(options_.root, "/blobs/", blob.digest.hex(), ".", boot_id_.substr(0, 8)),
                  blob.size));
  slot = spool;
  return spool;
}

void LayerStore::DropSpool(const Digest& blob, bool keep_file) {
  absl::MutexLock lock(&mu_);
  const std::string path = StrCat(options_.root, "/blobs/", blob.hex(), ".", boot_id_.substr(0, 8));
  spools_.erase(blob);
  if (keep_file) return;
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    LogWarning("blob.unlink_failed path=", path, " errno=", errno);
  }
}

LayerState LayerStore::StateOf(const Digest& diff_id) const {
  std::shared_ptr<Job> job;  // outlives the lock, which its end takes
  absl::MutexLock lock(&mu_);
  if (const auto it = layers_.find(diff_id); it != layers_.end()) return it->second.state;
  if (const auto it = jobs_.find(diff_id); it != jobs_.end()) job = it->second.lock();
  return job != nullptr && !job->over() ? LayerState::kFilling : LayerState::kAbsent;
}

std::optional<LayerProgress> LayerStore::Progress(const Digest& diff_id) const {
  std::shared_ptr<Job> job;
  {
    absl::MutexLock lock(&mu_);
    if (const auto it = jobs_.find(diff_id); it != jobs_.end()) job = it->second.lock();
  }
  if (job == nullptr) return FillProgress(diff_id);
  return job->progress();
}

std::vector<ImageStore::LayerInfo> LayerStore::List() const {
  absl::MutexLock lock(&mu_);
  std::vector<ImageStore::LayerInfo> list;
  for (const auto& [diff_id, entry] : layers_) {
    list.push_back({diff_id, entry.state, entry.data_bytes, entry.index_bytes});
  }
  std::sort(list.begin(), list.end(),
            [](const auto& a, const auto& b) { return a.diff_id < b.diff_id; });
  return list;
}

std::vector<FlightReport> LayerStore::Flights() const {
  return {{"layer", layer_flights_.counters(), layer_flights_.Running()},
          {"blob", blob_flights_.counters(), blob_flights_.Running()},
          access_->Flights()};
}

void LayerStore::AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const {
  out.emplace_back("layers_built", built_.load());
  out.emplace_back("layers_reused", reused_.load());
  out.emplace_back("layers_dropped", dropped_.load());
  out.emplace_back("layers_refetched", refetched_.load());
  out.emplace_back("blob_bytes_fetched", blob_bytes_.load());
  out.emplace_back("tar_bytes_written", tar_bytes_.load());
  out.emplace_back("layers_lazy", filling_made_.load());
  out.emplace_back("layers_filled", filled_.load());
  out.emplace_back("layers_poisoned", poisoned_.load());
  out.emplace_back("layers_evicted", evicted_.load());
  access_->AppendCounters(out);
  fill_->AppendCounters(out);
}

uint64_t LayerStore::Collect(const absl::flat_hash_set<Digest>& keep) {
  uint64_t freed = 0;
  std::vector<std::pair<Digest, std::string>> victims;
  absl::MutexLock records(&records_mu_);
  {
    absl::MutexLock lock(&mu_);
    for (auto it = layers_.begin(); it != layers_.end();) {
      if (keep.contains(it->first) || !it->second.open.expired()) {
        ++it;
        continue;
      }
      // Renamed under the lock: from here on the layer is absent, and a new one may be made.
      const std::string grave = StrCat(options_.root, "/layers/tmp-", RandomHex(8));
      if (rename(DirectoryOf(it->first).c_str(), grave.c_str()) == 0) {
        victims.emplace_back(it->first, grave);
      }
      freed += it->second.data_bytes + it->second.index_bytes;
      layers_.erase(it++);
    }
    for (auto it = jobs_.begin(); it != jobs_.end();) {
      if (it->second.expired()) {
        jobs_.erase(it++);
      } else {
        ++it;
      }
    }
  }
  WriteBatch batch;
  for (const auto& [diff_id, grave] : victims) {
    batch.Delete(StrCat(kRecordPrefix, diff_id.hex()));
    LogInfo("layer.removed layer=", diff_id.Short());
  }
  if (victims.empty()) return freed;
  if (absl::Status status = kv_.Write(batch, true); !status.ok()) {
    LogError("layer.forget_failed error=", status.message());
  }
  for (const auto& [diff_id, grave] : victims) {
    if (absl::Status status = RemoveTree(grave); !status.ok()) {
      LogWarning("layer.cleanup_failed directory=", grave, " error=", status.message());
    }
  }
  return freed;
}

}  // namespace imagefs
