// SPDX-License-Identifier: Apache-2.0
// An in-memory image store and mount table, scripted by tests: both can hold their work until it is
// released, and tests can wait for events in them. Thread-safe.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/flight.h"
#include "cache/image_store.h"
#include "fs/mount_table.h"

namespace imagefs {

// Knows one image of `layers` layers under any reference.
class FakeImageStore : public ImageStore {
 public:
  explicit FakeImageStore(int layers);

  void FailResolve(absl::Status status);
  void FailChain(absl::Status status);
  // Makes FindChain fail, as if the layers were not local, or succeed again.
  void LoseChain(bool lost = true);
  // Holds EnsureChain and WaitDurable until the matching Release.
  void HoldChain();
  void ReleaseChain();
  void HoldDurable();
  void ReleaseDurable();
  void SetState(size_t layer, LayerState state);
  // Waits until EnsureChain or WaitDurable has been called that many times.
  void AwaitChainCalls(int calls);
  void AwaitDurableCalls(int calls);
  // The result of kv(), which profiles() needs. The image's ChainID is that of `chain`, which every
  // EnsureChain returns.
  void UseKv(KeyValueStore* kv) { kv_ = kv; }
  void UseChain(ChainRef chain);
  // From now on the image's layers are partially present and never complete.
  void UseFillingChain();
  std::vector<std::string> attached() const;  // references of AttachSource
  // The reference of the image, which is the same for all references.
  void UseReference(std::string reference);
  // Waits until that many callers of EnsureChain have left.
  void AwaitChainLeft(int callers);
  // Waits until a chain's flight has been cancelled because its last caller left.
  void AwaitChainCancelled();
  int resolve_calls() const;
  FlightCounters chain_counters() const { return chains_.counters(); }

  FlightTicket Resolve(ResolveRequest request,
                       absl::AnyInvocable<void(absl::StatusOr<Resolved>)> done) override;
  FlightTicket EnsureChain(ImageRef image, std::shared_ptr<ImageSource> source, IndexTrust trust,
                           Priority priority,
                           absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) override;
  FlightTicket EnsureFiles(ImageRef image, std::shared_ptr<ImageSource> source, IndexTrust trust,
                           absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) override {
    return EnsureChain(std::move(image), std::move(source), trust, Priority::kForeground,
                       std::move(done));
  }
  FlightTicket EnsureOwned(const std::string& holder, ImageRef image,
                           std::shared_ptr<ImageSource> source, IndexTrust trust, Priority priority,
                           absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) override;
  absl::Status ReleaseHeld(const std::string& holder, const Digest& manifest) override;
  absl::StatusOr<std::vector<ImageRef>> ListHeld(const std::string& holder) const override;
  void AttachSource(const ChainRef&, const Reference& reference,
                    const SourceFactory::Access&) override;
  void StartCollecting() override {}
  void StopCollecting() override {}
  std::vector<std::optional<FillReport>> FillReports(const ChainRef&) const override { return {}; }
  FlightTicket MakeIndexes(ImageRef image, std::shared_ptr<ImageSource> source,
                           absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) override {
    return EnsureChain(std::move(image), std::move(source), IndexTrust::None(),
                       Priority::kForeground, std::move(done));
  }
  ProfileKeeper& profiles() override;
  absl::StatusOr<uint64_t> Evict(const Reference&) override { return 0; }
  absl::StatusOr<StoreUsage> Usage() override { return StoreUsage(); }
  absl::StatusOr<PruneResult> Prune(const PruneRequest&) override { return PruneResult(); }
  absl::StatusOr<uint64_t> Export(const ResolvedImage&, const ChainRef&, const std::string&,
                                  const CancelToken&) override {
    return 0;
  }
  absl::StatusOr<ImageRef> Import(const std::string&, const Reference&, const Platform&,
                                  const CancelToken&) override {
    return ImageRef(image_);
  }
  std::vector<SharedStores::Listed> ListShared() const override { return {}; }
  absl::Status Pin(const Reference&) override { return absl::OkStatus(); }
  absl::Status Unpin(const Reference&) override { return absl::OkStatus(); }
  absl::StatusOr<CheckReport> Check(const std::vector<Reference>&, bool, Scrubber::Pace) override {
    return CheckReport();
  }
  void WaitDurable(ChainRef chain, absl::AnyInvocable<void(absl::Status)> done) override;
  absl::StatusOr<ChainRef> FindChain(const Digest& chain_id) override;
  absl::StatusOr<ChainRef> FindChainOf(const ImageRef& image) override {
    return FindChain(image->chain_id());
  }
  bool HasLayers(const ResolvedImage& image, IndexTrust trust) const override;
  std::optional<LayerProgress> Progress(const LayerKey& layer) const override;
  uint64_t ResumableBytes(const Digest&) const override { return 0; }
  absl::StatusOr<ImageRef> FindManifest(const Digest&) const override { return ImageRef(image_); }
  LayerState StateOf(const LayerKey& layer) const override { return StateOfName(layer.diff_id); }
  LayerState StateOfName(const Digest& id) const override;
  std::string_view SourceOf(const LayerKey&) const override { return kProvenSource; }
  absl::StatusOr<std::vector<ImageRecord>> ListImages(bool also_held) const override;
  absl::StatusOr<ImageRef> FindImage(const Reference& reference,
                                     const Platform& platform) const override;
  absl::StatusOr<uint64_t> Remove(const Reference& reference) override;
  absl::StatusOr<uint64_t> Collect() override;
  int collects() const;
  std::vector<LayerInfo> ListLayers() const override;
  std::vector<FlightReport> Flights() const override;
  std::vector<std::pair<std::string, uint64_t>> Counters() const override;
  KeyValueStore& kv() override;

  const ResolvedImage& image() const { return *image_; }

 private:
  absl::StatusOr<ChainRef> ChainResultLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  std::shared_ptr<ResolvedImage> image_;
  KeyValueStore* kv_ = nullptr;
  std::unique_ptr<ProfileKeeper> profiles_ ABSL_GUARDED_BY(mu_);
  ChainRef chain_;
  FlightTable<ChainRef> chains_{"chain"};
  mutable absl::Mutex mu_;
  absl::Status resolve_status_ ABSL_GUARDED_BY(mu_);
  absl::Status chain_status_ ABSL_GUARDED_BY(mu_);
  bool lost_ ABSL_GUARDED_BY(mu_) = false;
  bool hold_chain_ ABSL_GUARDED_BY(mu_) = false;
  bool hold_durable_ ABSL_GUARDED_BY(mu_) = false;
  int resolve_calls_ ABSL_GUARDED_BY(mu_) = 0;
  int chain_calls_ ABSL_GUARDED_BY(mu_) = 0;
  int durable_calls_ ABSL_GUARDED_BY(mu_) = 0;
  int cancelled_ ABSL_GUARDED_BY(mu_) = 0;
  int left_ ABSL_GUARDED_BY(mu_) = 0;
  int collects_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<std::string> attached_ ABSL_GUARDED_BY(mu_);
  std::map<std::pair<std::string, Digest>, ImageRef> held_ ABSL_GUARDED_BY(mu_);
  std::map<Digest, LayerState> states_ ABSL_GUARDED_BY(mu_);
  std::optional<FlightTable<ChainRef>::Context> held_chain_ ABSL_GUARDED_BY(mu_);
  CancelToken::Registration on_cancel_ ABSL_GUARDED_BY(mu_);
  std::vector<absl::AnyInvocable<void(absl::Status)>> held_durable_ ABSL_GUARDED_BY(mu_);
};

class FakeMountTable : public MountTable {
 public:
  void FailMount(absl::Status status);
  void HoldMount();
  void ReleaseMount();
  void AwaitMountCalls(int calls);
  void AwaitEmpty();

  // A chain's path is "/shown/" and the hex digits of its ChainID.
  absl::StatusOr<SharedMount> MountShared(ChainRef chain) override;
  // If true, the path ends in ".filling", and the tree needs this process.
  void ShowFilling(bool filling);
  std::optional<SharedMount> Readopt(const Digest& chain_id, ChainRef chain) override;
  void Release(const std::string& lease) override;
  // Current leases, by name; Readopt returns those in `outlived`.
  std::map<std::string, int> leases() const;
  void Outlive(const Digest& chain_id);
  absl::StatusOr<CheckedMount> Check(MountRequest request) override;
  absl::StatusOr<MountRecord> Mount(ChainRef chain, const Digest& manifest,
                                    const CheckedMount& mount) override;
  absl::Status Unmount(const std::string& directory, bool lazy, uint64_t name_space = 0) override;
  bool AnyElsewhere() const override { return false; }
  void Refresh() override {}
  std::vector<MountState> List() const override;
  bool InUse(const Digest& chain_id) const override;
  bool NeedProcess() const override;
  std::vector<std::string> Recover(const FindChain& find_chain) override;
  absl::StatusOr<MountRecord> MountAgain(const std::string& directory, ChainRef chain) override;
  void SetNotMounted(const std::string& directory, const std::string& why) override;
  void RemoveLeftovers() override {}
  // Adds a mount as if Recover had found it.
  void AddMount(const MountState& mount);
  int mount_again_calls() const;
  void UnmountAll() override;

 private:
  mutable absl::Mutex mu_;
  absl::Status mount_status_ ABSL_GUARDED_BY(mu_);
  bool hold_ ABSL_GUARDED_BY(mu_) = false;
  int mount_calls_ ABSL_GUARDED_BY(mu_) = 0;
  int mount_again_calls_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<std::string, MountState> mounts_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, int> leases_ ABSL_GUARDED_BY(mu_);
  bool filling_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<Digest> outlived_ ABSL_GUARDED_BY(mu_);
};

class FakeSources : public SourceFactory {
 public:
  absl::StatusOr<std::shared_ptr<ImageSource>> Open(const Reference&, const Access&) override {
    return std::shared_ptr<ImageSource>();
  }
  Counters counters() const override { return {}; }
};

}  // namespace imagefs
