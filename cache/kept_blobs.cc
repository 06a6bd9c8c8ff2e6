// SPDX-License-Identifier: Apache-2.0
#include "cache/kept_blobs.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <utility>

#include "base/directory.h"
#include "base/failure.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr std::string_view kWhole = "kept-", kPart = "keeping-";
// Of one request: as much as a lazy layer asks for in the background.
constexpr uint64_t kRequestBytes = 4 << 20;

}  // namespace

std::shared_ptr<KeptBlobs> KeptBlobs::Open(Options options, FillScheduler& scheduler) {
  std::shared_ptr<KeptBlobs> blobs(new KeptBlobs(std::move(options), scheduler));
  blobs->FindExisting();
  scheduler.Add(blobs);
  return blobs;
}

void KeptBlobs::RemoveAll(const std::string& directory) {
  for (const std::string& name : ListDirOrWarn(directory)) {
    if (!name.starts_with(kWhole) && !name.starts_with(kPart)) continue;
    (void)unlink(StrCat(directory, "/", name).c_str());
  }
}

std::string KeptBlobs::PathOf(const Digest& blob) const {
  return StrCat(options_.directory, "/", kWhole, blob.hex(), ".", options_.boot_id.substr(0, 8));
}

std::string KeptBlobs::PartOf(const Digest& blob) const {
  return StrCat(options_.directory, "/", kPart, blob.hex(), ".", options_.boot_id.substr(0, 8));
}

void KeptBlobs::FindExisting() {
  for (const std::string& name : ListDirOrWarn(options_.directory)) {
    std::string_view rest = name;
    if (!ConsumePrefix(&rest, kWhole)) continue;
    const absl::StatusOr<Digest> blob = Digest::Parse(StrCat("sha256:", rest.substr(0, 64)));
    if (!blob.ok() || PathOf(*blob) != StrCat(options_.directory, "/", name)) continue;
    const absl::StatusOr<struct stat> st = StatPath(PathOf(*blob));
    if (!st.ok()) continue;
    absl::MutexLock lock(&mu_);
    AddLocked(*blob, static_cast<uint64_t>(st->st_size));
  }
}

void KeptBlobs::AddLocked(const Digest& blob, uint64_t bytes) {
  if (kept_.try_emplace(blob, Kept{blob, bytes, Moment::Now()}).second) bytes_ += bytes;
}

bool KeptBlobs::DiskIsFull(uint64_t more) const {
  struct statvfs disk;
  if (statvfs(options_.directory.c_str(), &disk) != 0) return false;
  const uint64_t total = uint64_t{disk.f_blocks} * disk.f_frsize;
  const uint64_t available = uint64_t{disk.f_bavail} * disk.f_frsize;
  const uint64_t spare = std::min(options_.spare_bytes, total / 20);
  return available < spare || available - spare < more;
}

absl::Status KeptBlobs::CheckRoom(uint64_t bytes) const {
  if (bytes_ == 0 || bytes_ + bytes <= options_.most_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(StrCat("blobs of ", bytes_, " bytes wait to be handed on"));
}

void KeptBlobs::Offer(const Digest& blob, const std::string& path) {
  const absl::StatusOr<struct stat> st = StatPath(path);
  if (!st.ok() || DiskIsFull(0)) return;
  const auto bytes = static_cast<uint64_t>(st->st_size);
  {
    absl::MutexLock lock(&mu_);
    if (kept_.contains(blob) || !CheckRoom(bytes).ok()) return;
  }
  if (link(path.c_str(), PathOf(blob).c_str()) != 0 && errno != EEXIST) {
    LogWarning("blob.not_kept blob=", blob.Short(), " errno=", errno);
    return;
  }
  {
    absl::MutexLock lock(&mu_);
    AddLocked(blob, bytes);
  }
  absl::MutexLock lock(&callback_mu_);
  if (callback_) callback_();
}

void KeptBlobs::OnOffer(std::function<void()> callback) {
  absl::MutexLock lock(&callback_mu_);
  callback_ = std::move(callback);
}

std::vector<KeptBlobs::Kept> KeptBlobs::List() const {
  absl::MutexLock lock(&mu_);
  std::vector<Kept> out;
  for (const auto& [blob, kept] : kept_) out.push_back(kept);
  return out;
}

absl::StatusOr<Fd> KeptBlobs::Read(const Digest& blob) const {
  {
    absl::MutexLock lock(&mu_);
    if (!kept_.contains(blob)) return absl::NotFoundError("the blob is not kept");
  }
  return OpenFile(PathOf(blob), O_RDONLY);
}

void KeptBlobs::Drop(const Digest& blob) {
  {
    absl::MutexLock lock(&mu_);
    const auto found = kept_.find(blob);
    if (found == kept_.end()) return;
    bytes_ -= found->second.bytes;
    kept_.erase(found);
  }
  if (unlink(PathOf(blob).c_str()) != 0 && errno != ENOENT) {
    LogWarning("blob.unlink_failed path=", PathOf(blob), " errno=", errno);
  }
}

void KeptBlobs::MakeRoom() {
  if (!DiskIsFull(0)) return;
  for (const Kept& kept : List()) Drop(kept.blob);
  DropParts();
}

void KeptBlobs::DropParts() {
  std::string running;
  {
    absl::MutexLock lock(&mu_);
    if (running_ != nullptr) running = running_->file->path();
  }
  for (const std::string& name : ListDirOrWarn(options_.directory)) {
    const std::string path = StrCat(options_.directory, "/", name);
    if (name.starts_with(kPart) && path != running) (void)unlink(path.c_str());
  }
}

void KeptBlobs::Fetch(Descriptor blob, std::shared_ptr<ImageSource> source, Done done) {
  const auto running = std::make_shared<Running>();
  auto open = [&]() -> absl::Status {
    {
      absl::MutexLock lock(&mu_);
      IMAGEFS_RETURN_IF_ERROR(CheckRoom(blob.size));
    }
    if (DiskIsFull(blob.size)) {
      return WithKind(absl::ResourceExhaustedError(
                          StrCat("there is little free space for a blob of ", blob.size, " bytes")),
                      FailureKind::kNoSpace);
    }
    IMAGEFS_ASSIGN_OR_RETURN(
        running->file, DownloadFile::Open(PartOf(blob.digest), blob.size,
                                          scheduler_.options().space, StoreSpace::Writer::kPart));
    return absl::OkStatus();
  };
  if (const absl::Status status = open(); !status.ok()) return done(status);
  running->blob = std::move(blob);
  running->source = std::move(source);
  running->done = std::move(done);
  const bool whole = running->file->Missing().empty();
  {
    absl::MutexLock lock(&mu_);
    running_ = running;
    running->busy = whole;
  }
  whole ? OnPart(running, absl::OkStatus()) : scheduler_.Wake();
}

std::optional<FillClient::Want> KeptBlobs::MostUrgent(Moment now, Moment& look_again) {
  (void)now, (void)look_again;
  absl::MutexLock lock(&mu_);
  if (running_ == nullptr || running_->busy) return std::nullopt;
  return Want{Priority::kBackground, SourceKey(*running_->source)};
}

void KeptBlobs::Launch(Priority priority, FillSlot slot) {
  std::shared_ptr<Running> running;
  {
    absl::MutexLock lock(&mu_);
    if (running_ == nullptr || running_->busy) return;
    running = running_;
    running->busy = true;
  }
  std::vector<ByteRange> missing = running->file->Missing();
  ByteRange range = missing.front();
  range.end = std::min(range.end, range.begin + kRequestBytes);
  running->source->ReadBlob(
      running->blob, {range}, std::make_shared<LivePriority>(priority), running->cancel.token(),
      [running](uint64_t offset, std::string_view data) {
        return running->file->Write(offset, data);
      },
      [self = shared_from_this(), running,
       slot = std::move(slot)](const absl::Status& status) mutable {
        self->OnPart(running, status);
        slot.GiveBack();
      });
}

// A request has ended, or nothing was missing. Does not block.
void KeptBlobs::OnPart(const std::shared_ptr<Running>& running, const absl::Status& status) {
  if (!status.ok()) return Finish(running, status);
  const bool whole = running->file->Missing().empty();
  bool cancelled;
  {
    absl::MutexLock lock(&mu_);
    cancelled = running->cancelled;
    // The slot that is given back wakes the scheduler.
    if (!whole && !cancelled) running->busy = false;
  }
  if (cancelled) return Finish(running, absl::CancelledError("the fetch was given up"));
  if (!whole) return;
  SourceTurns::Claim claim;
  claim.registry = running->source->registry();
  claim.auth_scope = running->source->auth_scope();
  claim.priority = std::make_shared<LivePriority>(Priority::kBackground);
  claim.whole = true;
  scheduler_.slow_work().Submit(std::move(claim),
                                [self = shared_from_this(), running](FairWorkers::Id) {
                                  self->Finish(running, self->CheckWhole(*running));
                                });
}

absl::Status KeptBlobs::CheckWhole(const Running& running) {
  const Digest& blob = running.blob.digest;
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, running.file->Duplicate());
  IMAGEFS_ASSIGN_OR_RETURN(const Digest digest, Sha256OfFile(fd.get()));
  const std::string& path = running.file->path();
  if (digest != blob) {
    (void)unlink(path.c_str());
    return absl::DataLossError(StrCat("what the registry sends as blob ", blob.ToString(),
                                      " has digest ", digest.ToString()));
  }
  if (rename(path.c_str(), PathOf(blob).c_str()) != 0) return ErrnoStatus(errno, path);
  absl::MutexLock lock(&mu_);
  AddLocked(blob, running.blob.size);
  return absl::OkStatus();
}

void KeptBlobs::Finish(const std::shared_ptr<Running>& running, const absl::Status& status) {
  {
    absl::MutexLock lock(&mu_);
    if (running_ == running) running_ = nullptr;
  }
  if (Done done = std::exchange(running->done, nullptr)) done(status);
}

void KeptBlobs::Cancel() {
  std::shared_ptr<Running> running;
  bool busy = false;
  {
    absl::MutexLock lock(&mu_);
    if (running_ == nullptr) return;
    running = running_;
    busy = std::exchange(running->busy, true);
    running->cancelled = true;
  }
  running->cancel.Cancel();
  // Otherwise the request that is in flight ends it.
  if (!busy) Finish(running, absl::CancelledError("the fetch was given up"));
}

}  // namespace imagefs
