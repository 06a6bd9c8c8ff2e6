// SPDX-License-Identifier: Apache-2.0
#include "cache/layer_store_shared.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/layer_maker.h"

namespace imagefs {
namespace {

constexpr size_t kPieceBytes = 1 << 20;

// The bytes of sparse files stand twice in a data file; only the first ones are part of the tar.
absl::Status CheckMoved(const Fd& data, const std::vector<LayerBuilder::Move>& moves) {
  std::string tar(kPieceBytes, '\0'), moved(kPieceBytes, '\0');
  for (const LayerBuilder::Move& move : moves) {
    for (uint64_t at = 0; at < move.length; at += kPieceBytes) {
      const size_t want = std::min<uint64_t>(kPieceBytes, move.length - at);
      IMAGEFS_RETURN_IF_ERROR(
          PreadExact(data.get(), absl::MakeSpan(tar.data(), want), move.from + at, "its data"));
      IMAGEFS_RETURN_IF_ERROR(
          PreadExact(data.get(), absl::MakeSpan(moved.data(), want), move.to + at, "its data"));
      if (tar.compare(0, want, moved, 0, want) != 0) {
        return absl::DataLossError("the segments of its sparse files are not those of its tar");
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<SharedLayer> LayerStore::Sharing::Find(const Request& request) const {
  if (empty()) return std::nullopt;
  absl::StatusOr<SharedLayer> layer = store_.options_.shared->FindLayer(request.diff_id);
  if (!layer.ok()) return std::nullopt;
  const bool recorded = request.recorded == request.diff_id;
  const bool same_blob = OriginOf(layer->origins, request) != nullptr;
  if (layer->form.kind != request.form.kind) return std::nullopt;
  if (!recorded && !same_blob && !store_.options_.share_all) return std::nullopt;
  return *std::move(layer);
}

void LayerStore::Sharing::Use(const std::shared_ptr<Call>& call) {
  call->asked_shared = true;
  store_.work_->Submit(std::make_shared<LivePriority>(call->priority), [this, call] {
    std::optional<SharedLayer> shared = Find(call->request);
    shared.has_value() ? Join(call, *std::move(shared)) : store_.Fetch(call);
  });
}

void LayerStore::Sharing::Join(const std::shared_ptr<Call>& call, SharedLayer shared) {
  FlightTable<LayerRef>::Caller caller;
  caller.priority = call->priority;
  caller.start = [this, shared](FlightTable<LayerRef>::Context context) {
    {
      absl::MutexLock lock(&store_.mu_);
      ++store_.jobs_alive_;
    }
    const SourceTurns::Claim claim = {"shared", "", context.priority, /*whole=*/true};
    store_.passes_->Submit(claim, [this, shared, context](FairWorkers::Id) {
      Run(shared, context);
      absl::MutexLock lock(&store_.mu_);
      --store_.jobs_alive_;
    });
  };
  caller.done = [this, call](const absl::StatusOr<LayerRef>& layer) {
    if (absl::IsCancelled(layer.status())) return call->Finish(layer.status());
    call->shared_trouble = layer.status();
    store_.Continue(call);  // judges it while `layer` keeps it
  };
  call->group->Add(flights_.Join(shared.diff_id.ToString(), std::move(caller)).ticket);
}

void LayerStore::Sharing::Run(const SharedLayer& shared,
                              const FlightTable<LayerRef>::Context& context) {
  {
    absl::MutexLock lock(&mu_);
    hashing_.insert(shared.diff_id);
  }
  absl::StatusOr<LayerRef> layer = Adopt(shared, /*copy=*/false, context.cancel);
  if (layer.ok()) {
    store_.NoteUnclaimed((*layer)->id);
  } else if (!absl::IsCancelled(layer.status())) {
    LogWarning("shared.layer_refused path=", shared.data, " cause=", layer.status().message());
  }
  {
    absl::MutexLock lock(&mu_);
    hashing_.erase(shared.diff_id);
  }
  context.finish(std::move(layer));
}

std::optional<LayerProgress> LayerStore::Sharing::Progress(const Digest& diff_id) const {
  absl::MutexLock lock(&mu_);
  if (!hashing_.contains(diff_id)) return std::nullopt;
  LayerProgress progress;
  progress.activity = LayerProgress::Activity::kIndexing;
  return progress;
}

absl::StatusOr<LayerRef> LayerStore::Sharing::Adopt(const SharedLayer& shared, bool copy,
                                                    const CancelToken& cancel) {
  const std::string directory = StrCat(store_.options_.root, "/layers/tmp-", RandomHex(8));
  const std::string path = directory + "/data";
  const absl::Cleanup remove = [&] {
    if (absl::Status status = RemoveTree(directory); !status.ok()) {
      LogWarning("layer.cleanup_failed directory=", directory, " error=", status.message());
    }
  };
  IMAGEFS_RETURN_IF_ERROR(MakeDirs(directory, 0700));
  IMAGEFS_ASSIGN_OR_RETURN(Fd data, OpenSharedData(shared));
  if (copy) {
    IMAGEFS_ASSIGN_OR_RETURN(Fd own, OpenFile(path, O_RDWR | O_CREAT | O_EXCL, 0600));
    const auto allow = [&](size_t bytes) -> absl::Status {
      if (cancel.cancelled()) return absl::CancelledError("the copy is no longer wanted");
      StoreSpace* const space = store_.options_.space;
      return space == nullptr ? absl::OkStatus() : space->Admit(bytes, StoreSpace::Writer::kWhole);
    };
    IMAGEFS_RETURN_IF_ERROR(
        Annotate(CopyBytes({data.get()}, {own.get()}, shared.data_bytes, allow), shared.data));
    data = std::move(own);
  } else if (symlink(shared.data.c_str(), path.c_str()) != 0) {
    return ErrnoStatus(errno, path);
  }
  const std::string stamp = StampOf(path);
  IMAGEFS_ASSIGN_OR_RETURN(const Fd index,
                           OpenFile(directory + "/index", O_RDWR | O_CREAT | O_EXCL, 0600));
  IMAGEFS_ASSIGN_OR_RETURN(
      const LayerOutput made,
      IndexData(data.get(), shared.tar_bytes, shared.form, shared.diff_id, index.get(), cancel));
  IMAGEFS_RETURN_IF_ERROR(CheckMoved(data, made.moves));
  if (made.data_bytes != shared.data_bytes || StampOf(path) != stamp) {
    return absl::DataLossError("it has another size than its tar gives, or is being written to");
  }
  // Each blob that it was made from; the registries are asked who may have it.
  std::vector<Origin> origins = shared.origins;
  if (origins.empty()) origins.emplace_back();
  absl::StatusOr<LayerRef> layer;
  for (const Origin& origin : origins) {
    layer = store_.Publish(shared.diff_id, directory, made, origin);
    if (!layer.ok()) return layer;
  }
  LogInfo("shared.layer_", copy ? "imported" : "used", " layer=", shared.diff_id.Short(),
          " path=", shared.data, " bytes=", shared.data_bytes);
  return layer;
}

absl::StatusOr<LayerRef> LayerStore::Import(const SharedLayer& shared, const CancelToken& cancel) {
  {
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(shared.diff_id);
    const bool whole = it != layers_.end() && it->second.diff_id == shared.diff_id &&
                       it->second.state != LayerState::kFilling &&
                       !IsLink(DirectoryOf(shared.diff_id) + "/data");
    if (whole) return OpenLocked(shared.diff_id, it->second);
  }
  return sharing_->Adopt(shared, /*copy=*/true, cancel);
}

absl::StatusOr<SharedLayer> LayerStore::Describe(const Digest& id) const {
  SharedLayer out;
  {
    absl::MutexLock lock(&mu_);
    const auto it = layers_.find(id);
    if (it == layers_.end() || it->second.diff_id != id ||
        it->second.state == LayerState::kFilling) {
      return absl::FailedPreconditionError(
          StrCat("layer ", id.ToString(), " is not complete; fetch it with: imagefs pull"));
    }
    const Entry& entry = it->second;
    out.diff_id = id;
    out.data_bytes = entry.data_bytes;
    out.tar_bytes = entry.tar_bytes;
    out.form = entry.form;
    if (out.tar_bytes == 0 && entry.sums.data == id) out.tar_bytes = entry.data_bytes;
    out.origins = entry.origins;
    // Of a local archive there is no registry that others could ask.
    std::erase_if(out.origins, [](const Origin& origin) { return origin.registry.empty(); });
  }
  if (!IsCheckable(out)) {
    return absl::FailedPreconditionError(StrCat(
        "layer ", id.ToString(), " is a tar whose digest its artifact does not state, or of ",
        "an artifact of no registry, so that readers of a shared store could not check it"));
  }
  if (out.tar_bytes == 0 && out.form.is_tar()) {
    // The record is of an earlier version.
    const absl::StatusOr<std::unique_ptr<SpanTableReader>> span_table =
        SpanTableReader::Open(DirectoryOf(id) + "/access");
    if (!span_table.ok()) {
      return absl::FailedPreconditionError(
          StrCat("layer ", id.ToString(), " was made by an earlier version, which did not record ",
                 "the size of its tar; remove the image and pull it again"));
    }
    out.tar_bytes = (*span_table)->tar_bytes();
  }
  out.data = DirectoryOf(id) + "/data";
  return out;
}

}  // namespace imagefs
