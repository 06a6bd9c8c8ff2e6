// SPDX-License-Identifier: Apache-2.0
#include "cache/layer_store_job.h"

#include <utility>

#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/identity.h"
#include "cache/layer_maker.h"
#include "cache/layer_store_unhashed.h"

namespace imagefs {
namespace {

constexpr int kAttempts = 2;  // for a layer whose bytes were wrong

std::string DownloadName(const Descriptor& blob, const std::string& registry) {
  return StrCat(blob.digest.hex(), "-", Sha256Of(registry).hex().substr(0, 8));
}

}  // namespace

LayerStore::Job::Job(LayerStore& store, Request request, FlightTable<LayerRef>::Context context)
    : store_(store),
      request_(std::move(request)),
      blob_(request_.blob),
      download_name_(DownloadName(blob_, request_.source->registry())),
      context_(std::move(context)) {
  store_.syncer_->PassBegins();
  absl::MutexLock lock(&store_.mu_);
  ++store_.jobs_alive_;
}

LayerStore::Job::~Job() {
  store_.syncer_->PassEnds();
  absl::MutexLock lock(&store_.mu_);
  --store_.jobs_alive_;
}

void LayerStore::Job::Start() {
  store_.work_->Submit(context_.priority, [self = shared_from_this()] { self->Begin(); });
}

bool LayerStore::Job::over() const {
  const Activity activity = activity_.load();
  return activity == Activity::kDone || activity == Activity::kFailed;
}

LayerProgress LayerStore::Job::progress() const {
  LayerProgress progress;
  progress.activity = activity_.load();
  progress.blob_bytes = blob_.size;
  progress.unpacked_bytes = unpacked_bytes_.load(std::memory_order_relaxed);
  absl::MutexLock lock(&mu_);
  progress.downloaded_bytes = download_ != nullptr ? download_->present_bytes() : blob_.size;
  if (download_ == nullptr && progress.activity == LayerProgress::Activity::kWaiting) {
    progress.downloaded_bytes = 0;
  }
  return progress;
}

void LayerStore::Job::Begin() {
  // It may have been made between the callers' check and this flight; each caller's access is
  // checked after the flight. If no registry can be asked, a caller fetches it itself.
  const Verdict here = store_.Judge(request_);
  const bool ask = here.kind == Verdict::Kind::kAskRegistry && blob_.urls.empty();
  if (here.kind == Verdict::Kind::kDeliver || ask) {
    if (absl::StatusOr<LayerRef> layer = store_.Find(here.id); layer.ok()) {
      store_.reused_++;
      return End(std::move(layer));
    }
  }
  if (request_.found != nullptr) {
    absl::StatusOr<LayerRef> layer = store_.PublishFilling(request_);
    if (layer.ok()) return End(std::move(layer));
    store_.index_useless_++;
    LogWarning("layer.index_refused layer=", request_.diff_id.Short(),
               " origin=", request_.found->origin, " cause=", layer.status().message());
  }
  absl::StatusOr<std::optional<LocalBlob>> local = request_.source->OpenLocal(blob_);
  if (!local.ok()) return End(local.status());
  if (local->has_value()) {
    store_.passes_->Submit(ClaimTurn(true),
                           [self = shared_from_this(), file = **std::move(local)](
                               FairWorkers::Id turn) { self->RunOfFile(file, turn); });
    return;
  }
  if (absl::Status status = BeginDownload(); !status.ok()) End(status);
}

void LayerStore::Job::RunOfFile(const LocalBlob& file, FairWorkers::Id turn) {
  if (absl::StatusOr<Fd> fd = file.fd.Duplicate(); fd.ok()) {
    local_ = SpanTableBuilder::BlobFile{*std::move(fd), file.offset};
  }
  from_file_ = true;
  Run(turn, [&file](absl::Span<char> buffer, uint64_t offset) {
    return PreadPart(file.fd.get(), file.offset, file.length, buffer, offset);
  });
}

absl::Status LayerStore::Job::BeginDownload() {
  IMAGEFS_ASSIGN_OR_RETURN(const std::shared_ptr<DownloadFile> download,
                           store_.downloads_->Open(download_name_, blob_.size));
  auto reader = std::make_shared<DownloadFile::Reader>(download);
  {
    absl::MutexLock lock(&mu_);
    download_ = download;
    reader_ = reader;
    turn_.reset();
  }
  activity_ = Activity::kDownloading;
  Download(download, reader);
  // Weak: this job keeps the download, and the flight's callback keeps the job.
  download->OnFirstByte([weak = weak_from_this(), reader = std::weak_ptr(reader)] {
    const auto self = weak.lock();
    const auto waiting = reader.lock();
    if (self != nullptr && waiting != nullptr) self->Schedule(waiting, false);
  });
  return absl::OkStatus();
}

// Joins the blob's flight.
void LayerStore::Job::Download(const std::shared_ptr<DownloadFile>& download,
                               const std::shared_ptr<DownloadFile::Reader>& reader) {
  bool anew;  // the bytes of an earlier attempt were wrong
  {
    absl::MutexLock lock(&mu_);
    anew = attempts_ > 0;
  }
  FlightTable<bool>::Caller caller;
  caller.priority = context_.priority->get();
  caller.auth_scope = request_.source->auth_scope();
  caller.start = [&store = store_, source = request_.source, blob = blob_, name = download_name_,
                  download, anew](FlightTable<bool>::Context context) {
    auto sink = [&store, download](uint64_t offset, std::string_view data) {
      store.blob_bytes_ += data.size();
      return download->Write(offset, data);
    };
    std::vector<ByteRange> missing = download->Missing();
    // It is unknown whose credentials fetched bytes that are already present.
    const bool alone = download->present_bytes() == 0;
    store.downloads_->NoteFetch(
        name, alone ? BlobFetch{source->auth_scope(), source->anonymous()} : BlobFetch());
    if (missing.empty()) return context.finish(true);
    ImageSource::ReadOptions options(context.priority);
    options.anew = anew;
    source->ReadBlob(blob, std::move(missing), std::move(options), context.cancel, std::move(sink),
                     [finish = context.finish](const absl::Status& status) {
                       status.ok() ? finish(true) : finish(status);
                     });
  };
  caller.done = [self = shared_from_this(), reader](const absl::StatusOr<bool>& result) mutable {
    reader->End(result.status());
    self->Schedule(reader, true);
    // This may be the network thread, and the job's destructor takes the store's lock, which is
    // held while files are opened.
    Executor& work = *self->store_.work_;
    work.Submit([last = std::move(self)] {});
  };
  FlightTicket ticket = store_.blob_flights_.Join(download_name_, std::move(caller)).ticket;
  // When the layer's last caller leaves, this layer leaves the blob's flight.
  CancelToken::Registration registration = context_.cancel.OnCancel([ticket, reader] {
    reader->End(absl::CancelledError("the layer is no longer wanted"));
    ticket.Leave();
  });
  absl::MutexLock lock(&mu_);
  // The pass may have ended already; then nothing is kept that it would have to undo.
  if (reader != reader_) return;
  ticket_ = ticket;
  on_cancel_ = std::move(registration);
}

SourceTurns::Claim LayerStore::Job::ClaimTurn(bool whole) const {
  const ImageSource& source = *request_.source;
  return {source.registry(), source.auth_scope(), context_.priority, whole};
}

// The first byte queues the pass; after the end of the transfer it needs no slot among the streams.
// Calls for the reader of an earlier attempt come too late and are ignored.
void LayerStore::Job::Schedule(const std::shared_ptr<DownloadFile::Reader>& reader, bool whole) {
  FairWorkers& passes = *store_.passes_;
  absl::MutexLock lock(&mu_);
  if (reader != reader_) return;
  if (turn_.has_value()) return whole ? passes.SetWhole(*turn_) : void();
  turn_ = passes.Submit(ClaimTurn(whole),
                        [self = shared_from_this(), reader, &passes](FairWorkers::Id turn) {
                          self->Run(turn, [&](absl::Span<char> buffer, uint64_t offset) {
                            std::optional<FairWorkers::Starved> starved;
                            if (!reader->Ready(offset)) starved.emplace(passes, turn);
                            return reader->Read(buffer, offset);
                          });
                        });
}

void LayerStore::Job::Run(FairWorkers::Id turn, ReadBytes read) {
  activity_ = Activity::kUnpacking;
  const std::string directory = StrCat(store_.options_.root, "/layers/tmp-", RandomHex(8));
  absl::StatusOr<LayerRef> layer = Make(directory, turn, read);
  // Also if another pass made the same layer concurrently, so that this one was not needed.
  if (absl::Status removed = RemoveTree(directory); !removed.ok()) {
    LogWarning("layer.cleanup_failed directory=", directory, " error=", removed.message());
  }
  if (absl::IsDataLoss(layer.status()) && TryAgain(layer.status())) return;
  if (layer.ok()) StartAccess(*layer);
  if (layer.ok() || absl::IsResourceExhausted(layer.status())) store_.no_room_ = !layer.ok();
  EndTransfer(layer.status());
  End(std::move(layer));
}

// Before the layer is published: one that is present without its blob is taken for one that needs a
// fetch.
void LayerStore::Job::OfferBlob() {
  if (store_.kept_ == nullptr || from_file_) return;
  std::string path;
  {
    absl::MutexLock lock(&mu_);
    if (download_ == nullptr) return;
    path = download_->path();
  }
  store_.kept_->Offer(blob_.digest, path);
}

// What follows needs the blob as long as it is still available: hashing the tar, if that was not
// done, and then the span table.
void LayerStore::Job::StartAccess(const LayerRef& layer) {
  if (!local_.has_value()) {
    absl::MutexLock lock(&mu_);
    absl::StatusOr<Fd> fd = download_ == nullptr ? Fd() : download_->Duplicate();
    if (fd.ok() && fd->valid()) local_ = SpanTableBuilder::BlobFile{*std::move(fd), 0};
  }
  std::optional<SpanTableBuilder::BlobFile> file = std::exchange(local_, std::nullopt);
  if (made_.sums.data.empty()) {
    return store_.hashing_->Begin(
        {layer, blob_, std::move(file), std::move(made_), ClaimTurn(true)});
  }
  if (!file.has_value() || !layer->form.is_tar()) return;
  store_.span_tables_->Start(layer, blob_, *std::move(file), std::move(made_), ClaimTurn(true));
}

absl::StatusOr<LayerRef> LayerStore::Job::Make(const std::string& directory, FairWorkers::Id turn,
                                               ReadBytes read) {
  IMAGEFS_RETURN_IF_ERROR(MakeDirs(directory, 0700));
  const auto windows = [&](uint64_t bytes, const CancelToken& cancel) {
    const FairWorkers::Starved starved(*store_.passes_, turn);
    return store_.windows_.Wait(request_.source->registry(), bytes, cancel);
  };
  // By a table, hashing takes no longer than the rest.
  const bool behind = request_.table == nullptr && store_.hashing_->MayFollow(request_);
  const LayerInput input{blob_.digest,          blob_.size, request_.diff_id, read, {}, windows,
                         store_.options_.space, !behind,    request_.form};
  IMAGEFS_ASSIGN_OR_RETURN(made_, MakeFiles(input, directory));
  OfferBlob();
  activity_ = Activity::kIndexing;
  store_.tar_bytes_ += made_.tar_bytes;
  absl::StatusOr<LayerRef> layer =
      behind ? store_.hashing_->Publish(request_, directory, made_, MakeOrigin())
             : store_.Publish(request_.diff_id, directory, made_, MakeOrigin());
  if (layer.ok()) {
    store_.built_++;
    store_.NoteUnclaimed((*layer)->id);
  }
  return layer;
}

absl::StatusOr<LayerOutput> LayerStore::Job::MakeFiles(const LayerInput& input,
                                                       const std::string& directory) {
  const FoundIndexRef& table = request_.table;
  if (table == nullptr || !input.hash_tar || !input.form.is_tar()) {
    return MakeLayer(input, directory, context_.cancel, unpacked_bytes_);
  }
  const Digest name = UnprovenLayerId(blob_.digest, request_.diff_id, *table, request_.Registry());
  if (!store_.Trusts(name)) return MakeLayer(input, directory, context_.cancel, unpacked_bytes_);
  ParallelPasses::Result result = store_.parallel_->Make(input, table, directory, context_.priority,
                                                         context_.cancel, unpacked_bytes_);
  if (result.lied) {
    absl::MutexLock lock(&store_.mu_);
    store_.distrusted_.insert(name);
  }
  return std::move(result.made);
}

// The pass has read the last byte and the digest was right: the source had the whole blob.
LayerStore::Origin LayerStore::Job::MakeOrigin() {
  const BlobFetch fetched =
      from_file_ ? BlobFetch{request_.source->auth_scope(), request_.source->anonymous()}
                 : store_.downloads_->FetchOf(download_name_);
  if (!fetched.auth_scope.empty()) store_.possession_.Remember(fetched.auth_scope, blob_.digest);
  return {blob_.digest, request_.source->registry(), fetched.open};
}

// Fetches wrong bytes once more, from the start, into a new download (the old transfer may still be
// writing to the old one); a local file is not retried.
bool LayerStore::Job::TryAgain(const absl::Status& status) {
  {
    absl::MutexLock lock(&mu_);
    if (download_ == nullptr || ++attempts_ >= kAttempts) return false;
  }
  store_.refetched_++;
  LogWarning("layer.refetch layer=", request_.diff_id.Short(), " reason=", status.message());
  EndTransfer(status);
  unpacked_bytes_ = 0;
  Start();
  return true;
}

void LayerStore::Job::EndTransfer(const absl::Status& status) {
  std::shared_ptr<DownloadFile> download;
  FlightTicket ticket;
  CancelToken::Registration on_cancel;
  {
    absl::MutexLock lock(&mu_);
    download = std::move(download_);
    download_ = nullptr;
    reader_ = nullptr;
    ticket = std::exchange(ticket_, FlightTicket());
    on_cancel = std::move(on_cancel_);
  }
  if (download == nullptr) return;
  on_cancel.Reset();
  ticket.Leave();
  // After a transient error or cancellation, the next caller resumes the download; otherwise it is
  // discarded. A full disk needs the space more than the next caller needs the data.
  const bool resume =
      absl::IsCancelled(status) || IsRetriable(status) || IsCredentialFailure(status);
  store_.downloads_->End(download_name_, resume && !store_.no_room_);
}

void LayerStore::Job::End(absl::StatusOr<LayerRef> result) {
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

}  // namespace imagefs
