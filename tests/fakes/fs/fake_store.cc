// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/fs/fake_store.h"

#include <stdlib.h>

#include <algorithm>

#include "base/status.h"
#include "base/text.h"
#include "fs/mount_target.h"

namespace imagefs {

FakeImageStore::FakeImageStore(int layers) {
  auto image = std::make_shared<ResolvedImage>();
  image->reference = "registry.test/app:1";
  image->manifest_digest = Sha256Of("manifest");
  image->manifest_json = "{}";
  image->manifest.media_type = "application/vnd.oci.image.manifest.v1+json";
  image->config_json = "{}";
  image->config.platform = Platform::Host();
  for (int i = 0; i < layers; ++i) {
    Descriptor blob;
    blob.media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    blob.digest = Sha256Of(StrCat("blob ", i));
    blob.size = 1000;
    image->manifest.layers.push_back(blob);
    image->config.diff_ids.push_back(Sha256Of(StrCat("layer ", i)));
  }
  image->chain_ids = ChainIds(image->config.diff_ids);
  image_ = std::move(image);
}

void FakeImageStore::FailResolve(absl::Status status) {
  absl::MutexLock lock(&mu_);
  resolve_status_ = std::move(status);
}

void FakeImageStore::FailChain(absl::Status status) {
  absl::MutexLock lock(&mu_);
  chain_status_ = std::move(status);
}

void FakeImageStore::LoseChain(bool lost) {
  absl::MutexLock lock(&mu_);
  lost_ = lost;
}

void FakeImageStore::HoldChain() {
  absl::MutexLock lock(&mu_);
  hold_chain_ = true;
}

void FakeImageStore::ReleaseChain() {
  std::optional<FlightTable<ChainRef>::Context> context;
  absl::StatusOr<ChainRef> result;
  {
    absl::MutexLock lock(&mu_);
    hold_chain_ = false;
    context = std::move(held_chain_);
    held_chain_.reset();
    result = ChainResultLocked();
  }
  if (context.has_value()) context->finish(std::move(result));
}

void FakeImageStore::HoldDurable() {
  absl::MutexLock lock(&mu_);
  hold_durable_ = true;
}

void FakeImageStore::ReleaseDurable() {
  std::vector<absl::AnyInvocable<void(absl::Status)>> held;
  {
    absl::MutexLock lock(&mu_);
    hold_durable_ = false;
    held.swap(held_durable_);
  }
  for (auto& done : held) done(absl::OkStatus());
}

void FakeImageStore::SetState(size_t layer, LayerState state) {
  absl::MutexLock lock(&mu_);
  states_[image_->config.diff_ids.at(layer)] = state;
}

void FakeImageStore::AwaitChainCalls(int calls) {
  absl::MutexLock lock(&mu_);
  auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return chain_calls_ >= calls; };
  mu_.Await(absl::Condition(&reached));
}

void FakeImageStore::AwaitDurableCalls(int calls) {
  absl::MutexLock lock(&mu_);
  auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return durable_calls_ >= calls; };
  mu_.Await(absl::Condition(&reached));
}

void FakeImageStore::AwaitChainLeft(int callers) {
  absl::MutexLock lock(&mu_);
  auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return left_ >= callers; };
  mu_.Await(absl::Condition(&reached));
}

void FakeImageStore::AwaitChainCancelled() {
  absl::MutexLock lock(&mu_);
  auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return cancelled_ > 0; };
  mu_.Await(absl::Condition(&reached));
}

int FakeImageStore::resolve_calls() const {
  absl::MutexLock lock(&mu_);
  return resolve_calls_;
}

FlightTicket FakeImageStore::Resolve(ResolveRequest,
                                     absl::AnyInvocable<void(absl::StatusOr<Resolved>)> done) {
  absl::Status status;
  {
    absl::MutexLock lock(&mu_);
    ++resolve_calls_;
    status = resolve_status_;
  }
  if (!status.ok()) {
    done(status);
  } else {
    done(Resolved{image_, nullptr, true});
  }
  return FlightTicket();
}

absl::StatusOr<ChainRef> FakeImageStore::ChainResultLocked() const {
  if (!chain_status_.ok()) return chain_status_;
  if (chain_ != nullptr) return chain_;
  auto chain = std::make_shared<Chain>();
  chain->chain_id = image_->chain_id();
  return ChainRef(std::move(chain));
}

FlightTicket FakeImageStore::EnsureChain(ImageRef image, std::shared_ptr<ImageSource>, IndexTrust,
                                         Priority,
                                         absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) {
  FlightTable<ChainRef>::Caller caller;
  caller.done = [this, done = std::move(done)](absl::StatusOr<ChainRef> chain) mutable {
    // Before `done`, because after it the last call may have ended and this object may be
    // destroyed.
    if (absl::IsCancelled(chain.status())) {
      absl::MutexLock lock(&mu_);
      ++left_;
    }
    done(std::move(chain));
  };
  caller.start = [this](FlightTable<ChainRef>::Context context) {
    std::function<void(absl::StatusOr<ChainRef>)> finish = context.finish;
    auto registration = context.cancel.OnCancel([this, finish] {
      {
        absl::MutexLock lock(&mu_);
        ++cancelled_;
        held_chain_.reset();
      }
      finish(absl::CancelledError("nobody waits"));
    });
    absl::StatusOr<ChainRef> result;
    {
      absl::MutexLock lock(&mu_);
      if (hold_chain_) {
        held_chain_ = std::move(context);
        on_cancel_ = std::move(registration);
        return;
      }
      result = ChainResultLocked();
    }
    finish(std::move(result));
  };
  FlightTicket ticket = chains_.Join(image->chain_id().ToString(), std::move(caller)).ticket;
  absl::MutexLock lock(&mu_);
  ++chain_calls_;
  return ticket;
}

void FakeImageStore::WaitDurable(ChainRef, absl::AnyInvocable<void(absl::Status)> done) {
  {
    absl::MutexLock lock(&mu_);
    ++durable_calls_;
    if (hold_durable_) {
      held_durable_.push_back(std::move(done));
      return;
    }
  }
  done(absl::OkStatus());
}

absl::StatusOr<ChainRef> FakeImageStore::FindChain(const Digest& chain_id) {
  absl::MutexLock lock(&mu_);
  if (lost_ || (chain_ != nullptr && chain_->chain_id != chain_id))
    return absl::NotFoundError("no such chain");
  return ChainResultLocked();
}

std::optional<LayerProgress> FakeImageStore::Progress(const LayerKey&) const {
  const FlightCounters counters = chains_.counters();
  if (counters.active == 0) return std::nullopt;
  LayerProgress progress;
  progress.activity = LayerProgress::Activity::kDownloading;
  progress.blob_bytes = 1000;
  progress.downloaded_bytes = 250;
  progress.callers = static_cast<uint32_t>(counters.waiting);
  return progress;
}

bool FakeImageStore::HasLayers(const ResolvedImage& image, IndexTrust trust) const {
  for (const Digest& diff_id : image.config.diff_ids) {
    const LayerState state = StateOfName(diff_id);
    if (state == LayerState::kAbsent) return false;
    if (state == LayerState::kFilling && trust.empty()) return false;
  }
  return true;
}

LayerState FakeImageStore::StateOfName(const Digest& id) const {
  absl::MutexLock lock(&mu_);
  const auto found = states_.find(id);
  return found == states_.end() ? LayerState::kAbsent : found->second;
}

absl::StatusOr<std::vector<ImageRecord>> FakeImageStore::ListImages(bool) const {
  ImageRecord record;
  record.reference = image_->reference;
  record.platform = image_->config.platform;
  record.manifest_digest = image_->manifest_digest;
  record.chain_id = image_->chain_id();
  record.layers = image_->manifest.layers.size();
  return std::vector<ImageRecord>{record};
}

absl::StatusOr<ImageRef> FakeImageStore::FindImage(const Reference&, const Platform&) const {
  return image_;
}

absl::StatusOr<uint64_t> FakeImageStore::Remove(const Reference& reference) {
  if (reference.tag != "1") {
    return absl::NotFoundError(StrCat(reference.ToString(), " is not known here"));
  }
  return 4096;
}

std::vector<LayerInfo> FakeImageStore::ListLayers() const {
  return {
      {image_->config.diff_ids[0], image_->config.diff_ids[0], LayerState::kComplete, 512, 1024}};
}

std::vector<FlightReport> FakeImageStore::Flights() const {
  return {{chains_.name(), chains_.counters(), chains_.Running()}};
}

std::vector<std::pair<std::string, uint64_t>> FakeImageStore::Counters() const {
  return {{"layers_built", 7}};
}

KeyValueStore& FakeImageStore::kv() {
  if (kv_ == nullptr) abort();
  return *kv_;
}

void FakeImageStore::UseChain(ChainRef chain) {
  image_->chain_ids.back() = chain->chain_id;
  chain_ = std::move(chain);
}

void FakeImageStore::UseFillingChain() {
  class Filling : public LayerFill {
    void Ensure(ByteRange, ReaderId, CancelToken, Done done) override {
      done(absl::UnavailableError("nothing comes"));
    }
    bool complete() const override { return false; }
  };
  auto chain = std::make_shared<Chain>();
  chain->chain_id = image_->chain_id();
  for (const Digest& diff_id : image_->config.diff_ids) {
    auto layer = std::make_shared<Layer>();
    layer->id = layer->diff_id = diff_id;
    layer->fill = std::make_shared<Filling>();
    chain->layers.push_back(std::move(layer));
  }
  chain_ = std::move(chain);
}

void FakeImageStore::AttachSource(const ChainRef&, const Reference& reference,
                                  const SourceFactory::Access&) {
  absl::MutexLock lock(&mu_);
  attached_.push_back(reference.ToString());
}

std::vector<std::string> FakeImageStore::attached() const {
  absl::MutexLock lock(&mu_);
  return attached_;
}

void FakeImageStore::UseReference(std::string reference) {
  image_->reference = std::move(reference);
}

FlightTicket FakeImageStore::EnsureOwned(const std::string& holder, ImageRef image,
                                         std::shared_ptr<ImageSource> source, IndexTrust trust,
                                         Priority priority,
                                         absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) {
  return EnsureChain(
      image, std::move(source), trust, priority,
      [this, holder, image, done = std::move(done)](absl::StatusOr<ChainRef> chain) mutable {
        if (chain.ok()) {
          absl::MutexLock lock(&mu_);
          held_[{holder, image->manifest_digest}] = image_;  // complete, even for a part
        }
        done(std::move(chain));
      });
}

absl::Status FakeImageStore::ReleaseHeld(const std::string& holder, const Digest& manifest) {
  absl::MutexLock lock(&mu_);
  held_.erase({holder, manifest});
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ImageRef>> FakeImageStore::ListHeld(const std::string& holder) const {
  std::vector<ImageRef> images;
  absl::MutexLock lock(&mu_);
  for (const auto& [key, image] : held_) {
    if (key.first == holder) images.push_back(image);
  }
  return images;
}

absl::StatusOr<uint64_t> FakeImageStore::Collect() {
  absl::MutexLock lock(&mu_);
  ++collects_;
  return 0;
}

int FakeImageStore::collects() const {
  absl::MutexLock lock(&mu_);
  return collects_;
}

ProfileKeeper& FakeImageStore::profiles() {
  absl::MutexLock lock(&mu_);
  if (profiles_ == nullptr) {
    profiles_ = std::make_unique<ProfileKeeper>(kv(), ProfileKeeper::Options());
  }
  return *profiles_;
}

void FakeMountTable::FailMount(absl::Status status) {
  absl::MutexLock lock(&mu_);
  mount_status_ = std::move(status);
}

void FakeMountTable::HoldMount() {
  absl::MutexLock lock(&mu_);
  hold_ = true;
}

void FakeMountTable::ReleaseMount() {
  absl::MutexLock lock(&mu_);
  hold_ = false;
}

void FakeMountTable::AwaitMountCalls(int calls) {
  absl::MutexLock lock(&mu_);
  auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return mount_calls_ >= calls; };
  mu_.Await(absl::Condition(&reached));
}

void FakeMountTable::AwaitEmpty() {
  absl::MutexLock lock(&mu_);
  auto empty = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return mounts_.empty(); };
  mu_.Await(absl::Condition(&empty));
}

absl::StatusOr<MountTable::SharedMount> FakeMountTable::MountShared(ChainRef chain) {
  absl::MutexLock lock(&mu_);
  if (!mount_status_.ok()) return mount_status_;
  const std::string lease = StrCat(chain->chain_id.hex(), filling_ ? ".filling" : "");
  ++leases_[lease];
  return SharedMount{lease, "/shown/" + lease, filling_};
}

void FakeMountTable::ShowFilling(bool filling) {
  absl::MutexLock lock(&mu_);
  filling_ = filling;
}

std::optional<MountTable::SharedMount> FakeMountTable::Readopt(const Digest& chain_id, ChainRef) {
  absl::MutexLock lock(&mu_);
  if (std::find(outlived_.begin(), outlived_.end(), chain_id) == outlived_.end()) {
    return std::nullopt;
  }
  ++leases_[chain_id.hex()];
  return SharedMount{chain_id.hex(), "/shown/" + chain_id.hex(), false};
}

void FakeMountTable::Release(const std::string& lease) {
  absl::MutexLock lock(&mu_);
  if (--leases_[lease] == 0) leases_.erase(lease);
}

std::map<std::string, int> FakeMountTable::leases() const {
  absl::MutexLock lock(&mu_);
  return leases_;
}

void FakeMountTable::Outlive(const Digest& chain_id) {
  absl::MutexLock lock(&mu_);
  outlived_.push_back(chain_id);
}

absl::StatusOr<CheckedMount> FakeMountTable::Check(MountRequest request) {
  IMAGEFS_ASSIGN_OR_RETURN(request.directory, ResolveTarget(request.directory));
  IMAGEFS_ASSIGN_OR_RETURN(
      const MountTarget target,
      OpenTarget(request.directory, {}, [](const MountInfo&) { return false; }));
  absl::MutexLock lock(&mu_);
  if (mounts_.contains(request.directory)) {
    return absl::AlreadyExistsError(StrCat(request.directory, ": something is mounted there"));
  }
  return CheckedMount{std::move(request), target.covered, "", {}};
}

absl::StatusOr<MountRecord> FakeMountTable::Mount(ChainRef chain, const Digest& manifest,
                                                  const CheckedMount& mount) {
  absl::MutexLock lock(&mu_);
  ++mount_calls_;
  auto free = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return !hold_; };
  mu_.Await(absl::Condition(&free));
  if (!mount_status_.ok()) return mount_status_;
  if (mounts_.contains(mount.request.directory)) {
    return absl::AlreadyExistsError(
        StrCat(mount.request.directory, ": something is mounted there"));
  }
  MountRecord record;
  record.directory = mount.request.directory;
  record.covered = mount.covered;
  record.reference = mount.request.reference;
  record.manifest_digest = manifest;
  record.chain_id = chain->chain_id;
  record.options = mount.request.options;
  const bool kernel = mount.request.mode == kKernelMode;
  record.mode = std::string(kernel ? kKernelMode : kFuseMode);
  record.created_unix = 1;
  mounts_[record.directory] = {record, "", std::move(chain)};
  return record;
}

absl::Status FakeMountTable::Unmount(const std::string& directory, bool, uint64_t) {
  absl::MutexLock lock(&mu_);
  if (mounts_.erase(directory) == 0) {
    return absl::NotFoundError(StrCat(directory, ": nothing is mounted there"));
  }
  return absl::OkStatus();
}

std::vector<MountState> FakeMountTable::List() const {
  absl::MutexLock lock(&mu_);
  std::vector<MountState> out;
  for (const auto& [directory, mount] : mounts_) out.push_back(mount);
  return out;
}

bool FakeMountTable::InUse(const Digest& chain_id) const {
  absl::MutexLock lock(&mu_);
  const auto mounted = [&](const auto& mount) {
    return mount.second.mounted() && mount.second.record.chain_id == chain_id;
  };
  const auto shown = [&](const auto& lease) { return lease.first.starts_with(chain_id.hex()); };
  return std::any_of(mounts_.begin(), mounts_.end(), mounted) ||
         std::any_of(leases_.begin(), leases_.end(), shown);
}

bool FakeMountTable::NeedProcess() const {
  absl::MutexLock lock(&mu_);
  return std::any_of(mounts_.begin(), mounts_.end(),
                     [](const auto& mount) { return mount.second.needs_daemon(); }) ||
         std::any_of(leases_.begin(), leases_.end(),
                     [](const auto& lease) { return lease.first.ends_with(".filling"); });
}

std::vector<std::string> FakeMountTable::Recover(const FindChain&) { return {}; }

absl::StatusOr<MountRecord> FakeMountTable::MountAgain(const std::string& directory,
                                                       ChainRef chain) {
  absl::MutexLock lock(&mu_);
  ++mount_again_calls_;
  const auto found = mounts_.find(directory);
  if (found == mounts_.end() || found->second.mounted()) {
    return absl::NotFoundError(StrCat(directory, " is not waiting to be mounted"));
  }
  if (!mount_status_.ok()) return mount_status_;
  found->second.record.chain_id = chain->chain_id;
  found->second.not_mounted.clear();
  return found->second.record;
}

void FakeMountTable::SetNotMounted(const std::string& directory, const std::string& why) {
  absl::MutexLock lock(&mu_);
  const auto found = mounts_.find(directory);
  if (found != mounts_.end() && !found->second.mounted()) found->second.not_mounted = why;
}

void FakeMountTable::AddMount(const MountState& mount) {
  absl::MutexLock lock(&mu_);
  mounts_[mount.record.directory] = mount;
}

int FakeMountTable::mount_again_calls() const {
  absl::MutexLock lock(&mu_);
  return mount_again_calls_;
}

void FakeMountTable::UnmountAll() {
  absl::MutexLock lock(&mu_);
  mounts_.clear();
}

}  // namespace imagefs
