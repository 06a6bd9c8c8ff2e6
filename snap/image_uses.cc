// SPDX-License-Identifier: Apache-2.0
#include "snap/image_uses.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/memory/memory.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "cache/identity.h"

namespace imagefs {
namespace {

// Longer than the time between two layers of a pull, shorter than the time until a user retries.
constexpr absl::Duration kFailureMemory = absl::Seconds(10);
// Of a registry that did not answer.
constexpr absl::Duration kSilenceMemory = absl::Seconds(30);
constexpr size_t kMaxFailures = 1000;
constexpr absl::Duration kAbandonedFor = absl::Minutes(10);

// Returns the same image with only its lowest `layers` layers.
ImageRef Truncate(const ImageRef& image, size_t layers) {
  if (layers == image->chain_ids.size()) return image;
  auto part = std::make_shared<ResolvedImage>(*image);
  part->manifest.layers.resize(layers);
  part->config.diff_ids.resize(layers);
  part->chain_ids.resize(layers);
  part->layer_ids.resize(std::min(part->layer_ids.size(), layers));
  return part;
}

// Not the DiffID: that is also the ChainID of an image with only this layer, in another form.
Digest LayerTreeId(const Layer& layer) {
  return Sha256Of(StrCat("layer alone ", layer.id.ToString()));
}

absl::StatusOr<ChainRef> MakeLayerTree(const LayerRef& layer) {
  auto tree = std::make_shared<Chain>();
  tree->chain_id = LayerTreeId(*layer);
  tree->index_path = layer->directory + "/index";
  IMAGEFS_ASSIGN_OR_RETURN(tree->index, ErofsImage::Open(tree->index_path));
  tree->layers = {layer};
  tree->overlay_form = true;
  return tree;
}

// Sets how the registry of a mount is reached.
void SetTransport(const MountOptions& options, SourceFactory::Access& access) {
  access.plain_http |= options.plain_http;
  access.verify_tls &= !options.skip_tls_verify;
}

// Requests what a mount presents: the image as the store knows it, for the platform it was mounted
// for, or else the image of its digest, since the tag may have moved.
ResolveRequest RequestAgain(const ImageUses::Deps& deps, const MountRecord& record,
                            Reference reference) {
  ResolveRequest request;
  request.access = deps.access_of(reference);
  SetTransport(record.options, request.access);
  request.platform = Platform::Host();
  const absl::StatusOr<std::vector<ImageRecord>> images =
      deps.store.ListImages(/*also_held=*/false);
  bool known = false;
  for (const ImageRecord& image : images.ok() ? *images : std::vector<ImageRecord>()) {
    if (image.manifest_digest != record.manifest_digest) continue;
    request.platform = image.platform;
    known |= image.reference == record.reference;
  }
  if (!known && reference.transport == Reference::Transport::kRegistry) {
    reference.digest = record.manifest_digest;
  }
  request.reference = std::move(reference);
  return request;
}

}  // namespace

ImageUses::ImageUses(Deps deps)
    : deps_(std::move(deps)), executor_(ThreadRole::kImages, deps_.threads) {}

ImageUses::~ImageUses() { ending_ = true; }

void ImageUses::CheckPhase(Phase first, Phase last, std::string_view what) const {
  {
    absl::MutexLock lock(&mu_);
    if (first <= phase_ && phase_ <= last) return;
  }
  const std::string line =
      StrCat("FATAL: ", what, " called out of order (see snap/image_uses.h)\n");
  (void)!write(STDERR_FILENO, line.data(), line.size());
  abort();
}

absl::StatusOr<ChainRef> ImageUses::FindTree(ImageStore& store, const std::string& layers_holder,
                                             const Digest& chain_id) {
  absl::StatusOr<ChainRef> found = store.FindChain(chain_id);
  if (!absl::IsNotFound(found.status())) return found;
  IMAGEFS_ASSIGN_OR_RETURN(const auto held, store.ListHeld(layers_holder));
  for (const ImageRef& image : held) {
    const absl::StatusOr<ChainRef> chain = store.FindChainOf(image);
    if (!chain.ok()) continue;
    for (const LayerRef& layer : (*chain)->layers) {
      if (LayerTreeId(*layer) == chain_id) return MakeLayerTree(layer);
    }
  }
  return found;
}

absl::StatusOr<std::unique_ptr<ImageUses::Owner>> ImageUses::AddOwner(OwnerOptions options) {
  CheckPhase(Phase::kReclaiming, Phase::kReclaiming, "AddOwner");
  auto owner = absl::WrapUnique(new Owner(*this, std::move(options)));
  IMAGEFS_RETURN_IF_ERROR(owner->Reclaim());
  return owner;
}

void ImageUses::Recover() {
  CheckPhase(Phase::kReclaiming, Phase::kReclaiming, "Recover");
  const std::vector<std::string> mounted = deps_.mounts.Recover(
      [this](const Digest& chain_id) { return deps_.store.FindChain(chain_id); });
  for (const std::string& directory : mounted) LogInfo("mounted_again directory=", directory);
  std::vector<Owner*> owners;
  {
    absl::MutexLock lock(&mu_);
    phase_ = Phase::kRecovered;
    owners = owners_;
  }
  for (const Owner* owner : owners) {
    if (owner->options_.recovered) owner->options_.recovered();
  }
  deps_.mounts.RemoveLeftovers();
}

void ImageUses::Serve() {
  CheckPhase(Phase::kRecovered, Phase::kRecovered, "Serve");
  std::vector<Owner*> owners;
  {
    absl::MutexLock lock(&mu_);
    phase_ = Phase::kServing;
    owners = owners_;
  }
  for (Owner* owner : owners) owner->Serve();
  executor_.Submit([this] { AttachAllSources(); });
}

void ImageUses::AttachAllSources() {
  for (MountState& state : deps_.mounts.List()) {
    if (!state.mounted()) continue;
    // Weak, so that a tree unmounted in the meantime is not kept alive.
    std::weak_ptr<const Chain> shown = state.chain;
    executor_.Submit([this, record = std::move(state.record), shown = std::move(shown)] {
      if (ending_) return;
      ChainRef chain = shown.lock();
      if (chain == nullptr) {
        absl::StatusOr<ChainRef> found = deps_.store.FindChain(record.chain_id);
        if (found.ok()) chain = *std::move(found);
      }
      if (chain != nullptr) AttachSources(record.reference, record.options, chain);
    });
  }
}

void ImageUses::AttachSources(const std::string& text, const MountOptions& options,
                              const ChainRef& chain) const {
  CheckPhase(Phase::kServing, Phase::kServing, "AttachSources");
  if (chain->complete()) return;
  const absl::StatusOr<Reference> reference = Reference::Parse(text);
  if (!reference.ok()) return;
  SourceFactory::Access access = deps_.quick_access_of(*reference);
  SetTransport(options, access);
  deps_.store.AttachSource(chain, *reference, access);
  chain->AllowWaiting(absl::Seconds(options.deadline_seconds));
}

FlightTicket ImageUses::FetchAgain(const MountRecord& record, const TrustOf& trust_of,
                                   absl::AnyInvocable<void(absl::StatusOr<ChainRef>)> done) const {
  CheckPhase(Phase::kServing, Phase::kServing, "FetchAgain");
  absl::StatusOr<ChainRef> here = deps_.store.FindChain(record.chain_id);
  absl::StatusOr<Reference> reference = Reference::Parse(record.reference);
  if (here.ok() || !reference.ok()) {
    done(here.ok() ? std::move(here) : reference.status());
    return FlightTicket();
  }
  deps_.mounts.SetNotMounted(
      record.directory,
      StrCat("its layers are not local, and are being fetched again from ", record.reference));
  const IndexTrust trust = trust_of(*reference);
  ResolveRequest request = RequestAgain(deps_, record, *std::move(reference));
  request.trust = trust;
  const auto group = std::make_shared<TicketGroup>();
  auto resolved = [this, group, record, trust,
                   done = std::move(done)](absl::StatusOr<ImageStore::Resolved> result) mutable {
    if (!result.ok()) return done(result.status());
    const Digest& found = result->image->manifest_digest;
    if (found != record.manifest_digest) {
      return done(absl::FailedPreconditionError(
          StrCat(record.reference, " now names another image (", found.ToString(), " instead of ",
                 record.manifest_digest.ToString(), "); unmount it and mount it again")));
    }
    group->Add(deps_.store.EnsureChain(result->image, result->source, trust, Priority::kForeground,
                                       std::move(done)));
  };
  group->Add(deps_.store.Resolve(std::move(request), std::move(resolved)));
  return TicketGroup::TicketOf(group);
}

// A running Acquire.
struct ImageUses::Owner::Call {
  Request request;
  UseDone done;
  uint64_t number = 0;
  std::shared_ptr<TicketGroup> group = std::make_shared<TicketGroup>();
  std::string failure_key;   // "" = failures are not remembered
  std::string registry_key;  // the same for what concerns all images of the registry
  Timer budget;
  std::atomic<bool> over_budget{false};
  Use use;  // as far as known
};

ImageUses::Owner::Owner(ImageUses& uses, OwnerOptions options)
    : uses_(uses), options_(std::move(options)), gone_(std::make_shared<std::atomic<bool>>(false)) {
  absl::MutexLock lock(&uses_.mu_);
  uses_.owners_.push_back(this);
}

ImageUses::Owner::~Owner() {
  {
    absl::MutexLock lock(&uses_.mu_);
    std::erase(uses_.owners_, this);
  }
  Stop();
  {
    auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return tasks_ == 0; };
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(&idle));
  }
  *gone_ = true;
}

void ImageUses::Owner::Stop() {
  std::vector<std::shared_ptr<TicketGroup>> calls;
  std::vector<absl::AnyInvocable<void()>> waiting;
  {
    absl::MutexLock lock(&mu_);
    stopped_ = true;
    for (const auto& [number, group] : calls_) calls.push_back(group);
    waiting.swap(waiting_);
  }
  for (const auto& group : calls) TicketGroup::TicketOf(group).Leave();
  for (auto& work : waiting) work();  // each finds that its caller has left
  auto ended = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return calls_.empty(); };
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(&ended));
}

// Reclaims what the previous process held and left mounted.
absl::Status ImageUses::Owner::Reclaim() {
  {
    absl::MutexLock lock(&mu_);
    for (const Wanted& wanted : options_.wanted) {
      if (!names_.emplace(wanted.name, wanted.manifest).second) continue;
      Entry& entry = entries_[wanted.manifest];
      ++entry.names;
      entry.kept = true;
      std::vector<std::string>& known = entry.references;
      if (std::find(known.begin(), known.end(), wanted.reference) == known.end()) {
        known.push_back(wanted.reference);
      }
    }
  }
  IMAGEFS_ASSIGN_OR_RETURN(const auto held, uses_.deps_.store.ListHeld(options_.holder));
  std::vector<Digest> shown;
  for (const ImageRef& image : held) {
    const Digest& manifest = image->manifest_digest;
    absl::StatusOr<ChainRef> chain = uses_.deps_.store.FindChainOf(image);
    {
      absl::MutexLock lock(&mu_);
      Entry& entry = entries_[manifest];
      entry.image = image;
      if (chain.ok()) entry.chain = *std::move(chain);
      if (options_.keeps_trees && entry.needed() && entry.chain != nullptr) {
        shown.push_back(manifest);
      }
    }
    ReleaseIfUnused(manifest);  // held by a call that never finished
  }
  for (const Digest& manifest : shown) Readopt(manifest, 0);
  return absl::OkStatus();
}

void ImageUses::Owner::Serve() {
  std::vector<absl::AnyInvocable<void()>> waiting;
  {
    absl::MutexLock lock(&mu_);
    serving_ = true;
    waiting.swap(waiting_);
  }
  AttachSources();
  for (auto& work : waiting) uses_.executor_.Submit(std::move(work));
}

// The sources of partially present layers ended with the previous process. Reads wait until then.
void ImageUses::Owner::AttachSources() {
  std::vector<std::pair<ChainRef, std::string>> filling;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [manifest, entry] : entries_) {
      if (entry.chain == nullptr || entry.chain->complete()) continue;
      for (const std::string& text : entry.references) filling.emplace_back(entry.chain, text);
    }
    tasks_ += filling.size();
  }
  for (auto& [chain, text] : filling) {
    uses_.executor_.Submit([this, chain = std::move(chain), text = std::move(text)] {
      if (!stopped()) uses_.AttachSources(text, {}, chain);
      absl::MutexLock lock(&mu_);
      --tasks_;
    });
  }
}

FlightTicket ImageUses::Owner::Begin(const CallPtr& call, absl::AnyInvocable<void()> work) {
  const std::shared_ptr<TicketGroup> group = call->group;
  bool stopped;
  {
    absl::MutexLock lock(&mu_);
    call->number = next_call_++;
    stopped = stopped_;
    if (!stopped) calls_[call->number] = group;
    if (!stopped && !serving_) {
      waiting_.push_back(std::move(work));
      return TicketGroup::TicketOf(group);
    }
  }
  if (stopped) {
    Finish(call, absl::CancelledError("the daemon ends"));
  } else {
    work();
  }
  return TicketGroup::TicketOf(group);
}

void ImageUses::Owner::Finish(const CallPtr& call, absl::StatusOr<Use> use) {
  {
    // Destroy all state of the call before this object may be destroyed.
    UseDone done = std::move(call->done);
    call->use = {};
    done(std::move(use));
  }
  absl::MutexLock lock(&mu_);
  calls_.erase(call->number);
}

FlightTicket ImageUses::Owner::Acquire(Request request, UseDone done) {
  auto call = std::make_shared<Call>();
  call->request = std::move(request);
  call->done = std::move(done);
  return Begin(call, [this, call] {
    if (!TryLocal(call)) Resolve(call);
  });
}

FlightTicket ImageUses::Owner::AcquireFound(ImageRef image, std::shared_ptr<ImageSource> source,
                                            Priority priority, UseDone done) {
  auto call = std::make_shared<Call>();
  call->request.priority = priority;
  call->done = std::move(done);
  return Begin(call, [this, call, image = std::move(image), source = std::move(source)]() mutable {
    Hold(call, std::move(image), std::move(source));
  });
}

// Returns false if a registry must be asked.
bool ImageUses::Owner::TryLocal(const CallPtr& call) {
  const Request& request = call->request;
  if (!request.manifest.has_value() || call->group->left()) return false;
  ImageRef image = Find(*request.manifest).image;
  if (image == nullptr || request.layers > image->chain_ids.size()) return false;
  const size_t layers = request.layers == 0 ? image->chain_ids.size() : request.layers;
  const ImageRef part = Truncate(image, layers);
  if (!uses_.deps_.store.HasLayers(*part, TrustOfImage(options_.trust_of, *part))) return false;
  if (request.accept) {
    if (absl::Status status = request.accept(*image); !status.ok()) {
      Finish(call, status);
      return true;
    }
  }
  Hold(call, std::move(image), nullptr);
  return true;
}

void ImageUses::Owner::Resolve(const CallPtr& call) {
  uses_.executor_.Submit([this, call] {
    if (call->group->left()) return Finish(call, absl::CancelledError("the caller went away"));
    ResolveRequest request;
    request.reference = call->request.reference;
    request.listed_by = call->request.listed_by;
    if (call->request.manifest.has_value()) {
      request.reference.digest = call->request.manifest;
      const ImageRef known = Find(*call->request.manifest).image;
      if (known != nullptr && !known->index_digest.empty()) {
        request.listed_by = known->index_digest.ToString();
      }
    }
    // A manifest selected by digest is used whatever its platform.
    if (!request.reference.digest.has_value()) request.platform = Platform::Host();
    request.access = uses_.deps_.access_of(request.reference);
    request.policy = PullPolicy::kRevalidate;
    request.trust = options_.trust_of(request.reference);
    if (call->request.fail_fast) {
      call->failure_key =
          StrCat(request.reference.ToString(), " ", request.access.credential.Fingerprint());
      call->registry_key = request.reference.host;
      absl::Status failure = RecentFailure(call);
      if (!failure.ok()) return Finish(call, std::move(failure));
    }
    ResolveWithin(call, std::move(request));
  });
}

void ImageUses::Owner::ResolveWithin(const CallPtr& call, ResolveRequest request) {
  const std::string name = request.reference.ToString();
  auto resolved = [this, call, name](absl::StatusOr<ImageStore::Resolved> result) {
    call->budget.Cancel();
    if (call->over_budget && absl::IsCancelled(result.status())) {
      result = absl::DeadlineExceededError(
          StrCat(name, ": its registry has said nothing for ", absl::FormatDuration(kLookBudget),
                 "; check the network and the registry, or configure a mirror that answers"));
    }
    OnResolved(call, std::move(result));
  };
  const auto look = std::make_shared<TicketGroup>();
  if (call->request.fail_fast) {
    call->budget = uses_.timers_.After(kLookBudget, [weak = std::weak_ptr(call), look] {
      if (const CallPtr late = weak.lock()) late->over_budget = true;
      TicketGroup::TicketOf(look).Leave();
    });
  }
  // A registry that has answered is not blamed for what verifiers take.
  request.verifying = [call] { call->budget.Cancel(); };
  FlightTicket ticket = uses_.deps_.store.Resolve(std::move(request), std::move(resolved));
  look->Add(ticket);
  call->group->Add(ticket);
}

void ImageUses::Owner::OnResolved(const CallPtr& call,
                                  absl::StatusOr<ImageStore::Resolved> resolved) {
  if (!resolved.ok()) {
    RememberFailure(call, resolved.status());
    return Finish(call, resolved.status());
  }
  if (call->request.layers > resolved->image->chain_ids.size()) {
    return Finish(call, absl::DataLossError("the image has fewer layers than were recorded"));
  }
  if (call->request.accept) {
    absl::Status status = call->request.accept(*resolved->image);
    if (!status.ok()) return Finish(call, std::move(status));
  }
  Hold(call, std::move(resolved->image), std::move(resolved->source));
}

void ImageUses::Owner::Hold(const CallPtr& call, ImageRef image,
                            std::shared_ptr<ImageSource> source) {
  const Digest manifest = image->manifest_digest;
  const size_t wanted = call->request.layers;
  call->use.layers = wanted == 0 ? image->chain_ids.size() : wanted;
  {
    absl::MutexLock lock(&mu_);
    Entry& entry = entries_[manifest];
    if (entry.image == nullptr) entry.image = image;
    ++entry.holds;
    call->use.hold = std::shared_ptr<const void>(
        image.get(), [this, manifest](const void*) { Leave(manifest); });
    call->use.image = std::move(image);
    if (entry.releasing) {
      // The store must release the previous hold before it records this one.
      entry.after_release.push_back(
          [this, call, source = std::move(source)]() mutable { Ensure(call, std::move(source)); });
      return;
    }
  }
  Ensure(call, std::move(source));
}

void ImageUses::Owner::Ensure(const CallPtr& call, std::shared_ptr<ImageSource> source) {
  ImageRef part = Truncate(call->use.image, call->use.layers);
  const IndexTrust trust = TrustOfImage(options_.trust_of, *part);
  call->group->Add(uses_.deps_.store.EnsureOwned(
      options_.holder, std::move(part), std::move(source), trust, call->request.priority,
      [this, call](absl::StatusOr<ChainRef> chain) { OnChain(call, std::move(chain)); }));
}

void ImageUses::Owner::OnChain(const CallPtr& call, absl::StatusOr<ChainRef> chain) {
  if (!chain.ok()) {
    RememberFailure(call, chain.status());
    return Finish(call, chain.status());
  }
  Use use = std::move(call->use);
  use.chain = *std::move(chain);
  if (use.layers == use.image->chain_ids.size()) {
    use.image = WithLayers(*use.image, *use.chain);
    absl::MutexLock lock(&mu_);
    Entry& entry = entries_[use.image->manifest_digest];
    entry.chain = use.chain;
    entry.image = use.image;
  }
  Finish(call, std::move(use));
}

absl::Status ImageUses::Owner::RecentFailure(const CallPtr& call) {
  absl::MutexLock lock(&mu_);
  for (const auto& [key, memory] :
       {std::pair(call->failure_key, kFailureMemory), {call->registry_key, kSilenceMemory}}) {
    const auto found = failures_.find(key);
    if (found == failures_.end()) continue;
    if (Moment::Now() - found->second.when < memory) return found->second.status;
    failures_.erase(found);
  }
  return absl::OkStatus();
}

void ImageUses::Owner::RememberFailure(const CallPtr& call, const absl::Status& status) {
  // Verifiers are asked anew.
  const bool kept = absl::IsCancelled(status) || IsImageDenied(status);
  if (call->failure_key.empty() || kept) return;
  absl::MutexLock lock(&mu_);
  if (failures_.size() >= kMaxFailures) failures_.clear();
  failures_[call->failure_key] = {status, Moment::Now()};
  if (absl::IsDeadlineExceeded(status)) failures_[call->registry_key] = {status, Moment::Now()};
}

void ImageUses::Owner::Keep(const std::string& name, const Digest& manifest) {
  std::optional<Digest> before;
  {
    absl::MutexLock lock(&mu_);
    const auto [found, fresh] = names_.try_emplace(name, manifest);
    if (!fresh && found->second == manifest) return;
    if (!fresh) {
      before = std::exchange(found->second, manifest);
      --entries_[*before].names;
    }
    Entry& entry = entries_[manifest];
    ++entry.names;
    entry.kept = true;
  }
  if (before.has_value()) ReleaseIfUnused(*before);
}

void ImageUses::Owner::Drop(const std::string& name) {
  Digest manifest;
  {
    absl::MutexLock lock(&mu_);
    const auto found = names_.find(name);
    if (found == names_.end()) return;
    manifest = found->second;
    names_.erase(found);
    --entries_[manifest].names;
  }
  ReleaseIfUnused(manifest);
}

void ImageUses::Owner::Leave(const Digest& manifest) {
  {
    absl::MutexLock lock(&mu_);
    Entry& entry = entries_[manifest];
    --entry.holds;
    if (entry.needed()) return;
    ++tasks_;
  }
  // Not on the calling thread, which may be a flight's: ReleaseIfUnused writes to disk.
  uses_.executor_.Submit([this, manifest] {
    // The image lost its last name earlier, so nobody else would collect its bytes.
    if (ReleaseIfUnused(manifest)) {
      const absl::Status status = Collect().status();
      if (!status.ok()) LogWarning("images.not_collected cause=", status.message());
    }
    absl::MutexLock lock(&mu_);
    --tasks_;
  });
}

// Releases an image that is no longer needed. Returns true if there is something for Collect to
// free.
bool ImageUses::Owner::ReleaseIfUnused(const Digest& manifest) {
  std::map<size_t, Tree> trees;
  ChainRef chain;
  {
    absl::MutexLock lock(&mu_);
    const auto found = entries_.find(manifest);
    if (found == entries_.end()) return false;
    Entry& entry = found->second;
    if (entry.needed() || entry.releasing) return false;
    entry.releasing = true;
    trees.swap(entry.trees);
    chain = std::move(entry.chain);
  }
  trees.clear();
  chain.reset();
  const absl::Status status = uses_.deps_.store.ReleaseHeld(options_.holder, manifest);
  if (!status.ok()) {
    LogWarning("image.not_released manifest=", manifest.Short(), " cause=", status.message());
  }
  std::vector<absl::AnyInvocable<void()>> next;
  bool kept;
  {
    absl::MutexLock lock(&mu_);
    const auto found = entries_.find(manifest);
    found->second.releasing = false;
    kept = found->second.kept;
    // Set only after everything has been released, because Collect resets it.
    if (kept) {
      collect_ = true;
    } else {
      abandoned_ = Moment::Now();
    }
    next.swap(found->second.after_release);
    if (!found->second.needed()) entries_.erase(found);
  }
  for (auto& work : next) work();
  return kept;
}

ImageUses::Use ImageUses::Owner::Find(const Digest& manifest) const {
  absl::MutexLock lock(&mu_);
  const auto found = entries_.find(manifest);
  if (found == entries_.end()) return {};
  const Entry& entry = found->second;
  const size_t layers = entry.image == nullptr ? 0 : entry.image->chain_ids.size();
  return {nullptr, entry.image, entry.chain, layers};
}

ImageUses::Tree ImageUses::Owner::MakeTree(MountTable::SharedMount shown, ChainRef chain) const {
  auto tree = std::make_unique<SharedTree>();
  tree->path = std::move(shown.path);
  tree->chain = std::move(chain);
  tree->filling = shown.filling;
  tree->fuse = shown.fuse;
  return Tree(tree.release(), [&mounts = uses_.deps_.mounts, gone = gone_,
                               lease = std::move(shown.lease)](const SharedTree* gone_tree) {
    const std::unique_ptr<const SharedTree> owned(gone_tree);
    if (!*gone) mounts.Release(lease);
  });
}

absl::StatusOr<ImageUses::Tree> ImageUses::Owner::MountTree(const Use& use) {
  uses_.CheckPhase(Phase::kRecovered, Phase::kServing, "MountTree");
  // The mount table knows the best available mount, and returns the same path for the same one.
  IMAGEFS_ASSIGN_OR_RETURN(MountTable::SharedMount shown,
                           uses_.deps_.mounts.MountShared(use.chain));
  Tree tree = MakeTree(std::move(shown), use.chain);
  Tree other;  // destroyed after the lock is released
  absl::MutexLock lock(&mu_);
  const auto found = entries_.find(use.image->manifest_digest);
  if (found == entries_.end()) return tree;
  Tree& kept = found->second.trees[use.layers];
  if (kept != nullptr && kept->path == tree->path && kept->chain == tree->chain) {
    other = std::exchange(tree, kept);
  } else {
    other = std::exchange(kept, tree);
  }
  return tree;
}

absl::StatusOr<ImageUses::Tree> ImageUses::Owner::MountLayer(const Use& use, size_t layer) {
  uses_.CheckPhase(Phase::kRecovered, Phase::kServing, "MountLayer");
  IMAGEFS_ASSIGN_OR_RETURN(ChainRef tree, MakeLayerTree(use.chain->layers[layer]));
  IMAGEFS_ASSIGN_OR_RETURN(MountTable::SharedMount shown, uses_.deps_.mounts.MountShared(tree));
  return MakeTree(std::move(shown), std::move(tree));
}

ImageUses::Tree ImageUses::Owner::ReadoptLayer(const Digest& manifest, size_t layer) {
  uses_.CheckPhase(Phase::kReclaiming, Phase::kReclaiming, "ReadoptLayer");
  const Use here = Find(manifest);
  if (here.chain == nullptr || layer >= here.chain->layers.size()) return nullptr;
  absl::StatusOr<ChainRef> tree = MakeLayerTree(here.chain->layers[layer]);
  if (!tree.ok()) return nullptr;
  std::optional<MountTable::SharedMount> shown =
      uses_.deps_.mounts.Readopt((*tree)->chain_id, *tree);
  return shown.has_value() ? MakeTree(*std::move(shown), *std::move(tree)) : nullptr;
}

ImageUses::Tree ImageUses::Owner::Readopt(const Digest& manifest, size_t layers) {
  uses_.CheckPhase(Phase::kReclaiming, Phase::kReclaiming, "Readopt");
  const Use here = Find(manifest);
  if (here.image == nullptr || layers > here.layers) return nullptr;
  const bool whole = layers == 0 || layers == here.layers;
  if (whole) layers = here.layers;
  {
    absl::MutexLock lock(&mu_);
    const std::map<size_t, Tree>& trees = entries_[manifest].trees;
    if (const auto found = trees.find(layers); found != trees.end()) return found->second;
  }
  ChainRef chain = whole ? here.chain : nullptr;
  Digest chain_id;
  if (chain != nullptr) {
    chain_id = chain->chain_id;
  } else {
    const ImageRef part = Truncate(here.image, layers);
    if (part->layer_ids.size() != layers) return nullptr;
    chain_id = ChainIdentity(part->layer_ids, part->config.diff_ids);
    absl::StatusOr<ChainRef> found = uses_.deps_.store.FindChain(chain_id);
    if (found.ok()) chain = *std::move(found);
  }
  std::optional<MountTable::SharedMount> shown = uses_.deps_.mounts.Readopt(chain_id, chain);
  if (!shown.has_value()) return nullptr;
  Tree tree = MakeTree(*std::move(shown), std::move(chain));
  absl::MutexLock lock(&mu_);
  entries_[manifest].trees[layers] = tree;
  return tree;
}

void ImageUses::Owner::ReleaseKept() {
  std::vector<std::map<size_t, Tree>> trees;  // destroyed after the lock is released
  absl::MutexLock lock(&mu_);
  for (auto& [manifest, entry] : entries_) trees.push_back(std::exchange(entry.trees, {}));
}

absl::StatusOr<uint64_t> ImageUses::Owner::Collect(Moment now) {
  {
    absl::MutexLock lock(&mu_);
    if (now >= abandoned_ + kAbandonedFor) {
      abandoned_ = Moment::InfiniteFuture();
      collect_ = true;
    }
    if (!std::exchange(collect_, false)) return 0;
  }
  absl::StatusOr<uint64_t> freed = uses_.deps_.store.Collect();
  if (freed.ok()) {
    LogInfo("images.collected holder=", options_.holder, " bytes=", *freed);
  } else {
    absl::MutexLock lock(&mu_);
    collect_ = true;
  }
  return freed;
}

}  // namespace imagefs
