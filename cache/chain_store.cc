// SPDX-License-Identifier: Apache-2.0
#include "cache/chain_store.h"

#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <numeric>
#include <thread>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "base/directory.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "base/timeline.h"
#include "base/units.h"
#include "cache/identity.h"
#include "image/erofs_writer.h"
#include "image/merge.h"

namespace imagefs {
namespace {

constexpr std::string_view kChainPrefix = "chain/";

// Key of the chain given to one image for one auth scope. The ChainID distinguishes a part of an
// image from the whole.
std::string RecentKey(const ChainStore::Request& request) {
  return StrCat(request.image->manifest_digest.hex(), " ", request.image->chain_id().hex(), " ",
                request.source == nullptr ? "" : request.source->auth_scope());
}

std::string FlightKey(const ChainStore::Request& request) {
  std::string key = RecentKey(request);
  StrAppend(&key, " trust");
  for (const IndexSource source : kIndexSources) {
    if (request.trust.Allows(source)) StrAppend(&key, ",", IndexSourceName(source));
  }
  return key;
}

// Returns whether users with this `trust` may be given the chain and nothing better exists: a layer
// that has been proven since is available under its DiffID.
bool IsTrusted(const Chain& chain, IndexTrust trust) {
  return std::all_of(chain.layers.begin(), chain.layers.end(), [&](const LayerRef& layer) {
    if (layer->proven()) return true;
    return trust.AllowsUnproven(layer->by_pass, layer->source) &&
           (layer->by_pass ? layer->readable() : !layer->complete());
  });
}

// The order in which an image's layers are asked for. A long layer that is begun last keeps the
// image waiting when most processors have nothing left to do.
std::vector<size_t> LongestFirst(const std::vector<Descriptor>& blobs) {
  std::vector<size_t> order(blobs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return blobs[a].size > blobs[b].size; });
  return order;
}

}  // namespace

// The work of one chain flight: joins the flights of all its layers, then that of the merge. Holds
// no thread while it waits for them.
class ChainStore::Job : public std::enable_shared_from_this<Job> {
 public:
  Job(ChainStore& store, Request request, FlightTable<ChainRef>::Context context)
      : store_(store),
        request_(std::move(request)),
        image_(*request_.image),
        context_(std::move(context)),
        layers_(image_.config.diff_ids.size()),
        missing_(layers_.size()) {
    absl::MutexLock lock(&store_.mu_);
    ++store_.jobs_alive_;
    std::vector<LayerKey>& running = store_.running_[context_.key];
    for (size_t i = 0; i < layers_.size(); ++i) running.push_back(KeyOf(image_, i));
  }
  ~Job() {
    absl::MutexLock lock(&store_.mu_);
    --store_.jobs_alive_;
    store_.running_.erase(context_.key);
  }

  void Start() {
    CancelToken::Registration registration = context_.cancel.OnCancel([weak = weak_from_this()] {
      if (std::shared_ptr<Job> self = weak.lock()) self->LeaveAll();
    });
    {
      absl::MutexLock lock(&mu_);
      on_cancel_ = std::move(registration);
    }
    if (!request_.find || request_.source == nullptr) return GetLayers();
    request_.find(context_.cancel, [self = shared_from_this()](std::vector<FoundIndexRef> found) {
      self->found_ = std::move(found);
      self->GetLayers();
    });
  }

 private:
  void GetLayers() {
    found_.resize(image_.config.diff_ids.size());
    const std::vector<std::optional<Digest>> recorded = store_.RecordedLayers(request_);
    // Not layers_: the merge may take it while the last iteration is still running.
    for (const size_t i : LongestFirst(image_.manifest.layers)) {
      LayerStore::Request layer = RequestOf(image_, i, request_.source);
      const bool trusted = found_[i] != nullptr && request_.trust.Allows(found_[i]->source);
      (trusted ? layer.found : layer.table) = found_[i];
      layer.recorded = recorded[i];
      layer.trust = request_.trust;
      FlightTicket ticket =
          store_.layers_.Ensure(std::move(layer), context_.priority->get(),
                                [self = shared_from_this(), i](absl::StatusOr<LayerRef> result) {
                                  self->OnLayer(i, std::move(result));
                                });
      bool leave = false;
      {
        absl::MutexLock lock(&mu_);
        tickets_.push_back(ticket);
        leave = leaving_;
      }
      // A failure or cancellation may have arrived before this ticket was in the list.
      if (leave) ticket.Leave();
    }
  }

  void OnLayer(size_t index, absl::StatusOr<LayerRef> layer) {
    bool last = false, failed = false;
    {
      absl::MutexLock lock(&mu_);
      if (layer.ok()) {
        layers_[index] = *std::move(layer);
      } else if (status_.ok()) {
        status_ = layer.status();
        failed = true;
      }
      last = --missing_ == 0;
    }
    // If one layer is unavailable, the others are pointless.
    if (failed && !last) LeaveAll();
    if (last) Merge();
  }

  void LeaveAll() {
    std::vector<FlightTicket> tickets;
    {
      absl::MutexLock lock(&mu_);
      leaving_ = true;
      tickets = tickets_;
    }
    for (const FlightTicket& ticket : tickets) ticket.Leave();
  }

  void Merge() {
    absl::Status status;
    std::vector<LayerRef> layers;
    {
      absl::MutexLock lock(&mu_);
      status = status_;
      layers = std::move(layers_);
    }
    if (status.ok() && context_.cancel.cancelled()) {
      status = absl::CancelledError("the image is no longer wanted");
    }
    if (!status.ok()) return context_.finish(status);
    std::vector<Digest> ids;
    for (const LayerRef& layer : layers) ids.push_back(layer->id);
    const Digest chain_id = ChainIdentity(ids, image_.config.diff_ids);
    FlightTable<ChainRef>::Caller caller;
    caller.priority = context_.priority->get();
    caller.start = [&store = store_, chain_id, layers](FlightTable<ChainRef>::Context context) {
      store.work_->Submit(context.priority, [&store, chain_id, layers, context] {
        absl::StatusOr<ChainRef> here = store.Find(chain_id);
        context.finish(here.ok() ? std::move(here) : store.Make(chain_id, layers));
      });
    };
    caller.done = EndingStep(TimedStep(TimelineEvent::Step::kMerge),
                             [self = shared_from_this()](absl::StatusOr<ChainRef> chain) {
                               self->OnMerged(std::move(chain));
                             });
    const FlightTicket ticket = store_.merges_.Join(chain_id.ToString(), std::move(caller)).ticket;
    bool leave = false;
    {
      absl::MutexLock lock(&mu_);
      tickets_.push_back(ticket);
      leave = leaving_;
    }
    if (leave) ticket.Leave();
  }

  void OnMerged(absl::StatusOr<ChainRef> chain) {
    if (chain.ok()) {
      store_.KeepRecent(request_, *chain);
      if (const absl::Status status = store_.CheckLayers(**chain); !status.ok()) chain = status;
    }
    // Each attempt fails because of another layer: it was made from a description that was found to
    // be false meanwhile, and is made from its whole blob now.
    if (absl::IsAborted(chain.status()) && ++attempts_ <= image_.config.diff_ids.size()) {
      {
        absl::MutexLock lock(&mu_);
        layers_.assign(image_.config.diff_ids.size(), nullptr);
        missing_ = layers_.size();
        tickets_.clear();
      }
      return GetLayers();
    }
    context_.finish(std::move(chain));
  }

  ChainStore& store_;
  const Request request_;
  const ResolvedImage& image_;  // of request_
  const FlightTable<ChainRef>::Context context_;
  std::vector<FoundIndexRef> found_;  // not changed while layers are on their way
  size_t attempts_ = 0;               // that ended; as above
  absl::Mutex mu_;
  std::vector<LayerRef> layers_ ABSL_GUARDED_BY(mu_);
  size_t missing_ ABSL_GUARDED_BY(mu_);
  absl::Status status_ ABSL_GUARDED_BY(mu_);
  std::vector<FlightTicket> tickets_ ABSL_GUARDED_BY(mu_);
  CancelToken::Registration on_cancel_ ABSL_GUARDED_BY(mu_);
  bool leaving_ ABSL_GUARDED_BY(mu_) = false;
};

ChainStore::ChainStore(std::string root, KeyValueStore& kv, LayerStore& layers)
    : root_(std::move(root)), kv_(kv), layers_(layers) {}

absl::StatusOr<std::unique_ptr<ChainStore>> ChainStore::Open(std::string root, KeyValueStore& kv,
                                                             LayerStore& layers, bool keep) {
  std::unique_ptr<ChainStore> store(new ChainStore(std::move(root), kv, layers));
  IMAGEFS_ASSIGN_OR_RETURN(store->boot_id_, BootId());
  IMAGEFS_RETURN_IF_ERROR(MakeDirs(store->root_ + "/chains", 0700));
  store->work_ = std::make_unique<Executor>(ThreadRole::kChain,
                                            static_cast<int>(std::thread::hardware_concurrency()));
  store->watch_ = std::make_unique<WriteWatch>();
  IMAGEFS_RETURN_IF_ERROR(store->Load(keep));
  return store;
}

ChainStore::~ChainStore() {
  {
    absl::MutexLock lock(&mu_);
    auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return jobs_alive_ == 0; };
    mu_.Await(absl::Condition(&none));
  }
  watch_.reset();
  work_.reset();
}

std::string ChainStore::PathOf(const Digest& chain_id) const {
  return StrCat(root_, "/chains/", chain_id.hex());
}

// Returns an error if the record or its file is unusable.
absl::StatusOr<ChainStore::Entry> ChainStore::ReadRecord(const Digest& chain_id,
                                                         std::string_view value) const {
  IMAGEFS_ASSIGN_OR_RETURN(const Json record, Json::Parse(value));
  Entry entry;
  for (const Json& layer : record["layers"].elements()) {
    IMAGEFS_ASSIGN_OR_RETURN(Digest name, Digest::Parse(layer.string().value_or("")));
    entry.layers.push_back(name);
  }
  entry.bytes = static_cast<uint64_t>(record.IntOr("bytes", -1));
  if (const int64_t sum = record.IntOr("sum", -1); sum >= 0) entry.sum = static_cast<uint32_t>(sum);
  const bool trusted =
      record["synced"].boolean().value_or(false) || record.StringOr("boot") == boot_id_;
  IMAGEFS_ASSIGN_OR_RETURN(const struct stat st, StatPath(PathOf(chain_id)));
  if (!trusted || entry.layers.empty() || static_cast<uint64_t>(st.st_size) != entry.bytes) {
    return absl::DataLossError("not synced before a crash, or of another size");
  }
  const std::vector<Digest> none(entry.layers.size());
  if (chain_id != ChainIdentity(entry.layers, entry.layers) &&
      chain_id != ChainIdentity(entry.layers, none)) {
    return absl::DataLossError("it is not the chain of its layers");
  }
  return entry;
}

absl::Status ChainStore::Load(bool keep) {
  WriteBatch dead;
  absl::flat_hash_set<std::string> known;
  {
    absl::MutexLock lock(&mu_);
    IMAGEFS_RETURN_IF_ERROR(
        kv_.ForEachWithPrefix(kChainPrefix, [&](std::string_view key, std::string_view value) {
          mu_.AssertHeld();
          const absl::StatusOr<Digest> chain_id =
              Digest::Parse(StrCat("sha256:", key.substr(kChainPrefix.size())));
          absl::StatusOr<Entry> entry = chain_id.ok() && keep
                                            ? ReadRecord(*chain_id, value)
                                            : absl::StatusOr<Entry>(absl::NotFoundError(""));
          if (entry.ok()) {
            known.insert(chain_id->hex());
            chains_.emplace(*chain_id, *std::move(entry));
          } else {
            dead.Delete(key);
          }
          return true;
        }));
  }
  IMAGEFS_RETURN_IF_ERROR(kv_.Write(dead, false));
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDir(root_ + "/chains"));
  for (const std::string& name : names) {
    if (known.contains(name)) continue;
    if (unlink(StrCat(root_, "/chains/", name).c_str()) != 0) {
      LogWarning("chain.cleanup_failed name=", name, " errno=", errno);
    }
  }
  return absl::OkStatus();
}

absl::Status ChainStore::PutRecord(const Digest& chain_id, const Entry& entry, bool synced) {
  JsonWriter writer;
  writer.BeginObject().Key("layers").BeginArray();
  for (const Digest& layer : entry.layers) writer.String(layer.ToString());
  writer.EndArray().Member("bytes", entry.bytes).Member("boot", boot_id_).Member("synced", synced);
  if (entry.sum.has_value()) writer.Member("sum", uint64_t{*entry.sum});
  writer.EndObject();
  WriteBatch batch;
  batch.Put(StrCat(kChainPrefix, chain_id.hex()), writer.Take());
  return kv_.Write(batch, synced);
}

absl::StatusOr<ChainRef> ChainStore::OpenChain(const Digest& chain_id, std::optional<uint32_t> sum,
                                               std::vector<LayerRef> layers) {
  auto chain = std::make_shared<Chain>();
  chain->chain_id = chain_id;
  chain->index_path = PathOf(chain_id);
  IMAGEFS_ASSIGN_OR_RETURN(chain->index, ErofsImage::Open(chain->index_path));
  Watch(chain_id);  // before it is read
  if (chain->index->Checksum() != sum) {
    return absl::DataLossError(StrCat(
        "the index of chain ", chain_id.ToString(),
        sum.has_value() ? " is not as it was written" : " was written by an earlier version"));
  }
  if (chain->index->devices().size() != layers.size()) {
    return absl::DataLossError(StrCat("the index of chain ", chain_id.ToString(), " names ",
                                      chain->index->devices().size(), " layers instead of ",
                                      layers.size()));
  }
  // A layer may have been rebuilt with another layout than the one that was merged.
  for (size_t i = 0; i < layers.size(); ++i) {
    if (chain->index->devices()[i].size_bytes != layers[i]->data_bytes) {
      return absl::DataLossError(StrCat("the index of chain ", chain_id.ToString(),
                                        " refers to another data file of layer ",
                                        layers[i]->id.Short()));
    }
  }
  chain->layers = std::move(layers);
  return ChainRef(std::move(chain));
}

absl::StatusOr<ChainRef> ChainStore::Find(const Digest& chain_id) {
  // Existing users keep the same chain.
  if (IsDamaged(chain_id)) {
    bool repaired = false;
    Repair(chain_id, &repaired).IgnoreError();  // on failure, a new chain is made below
  }
  std::vector<Digest> names;
  std::optional<uint32_t> sum;
  {
    absl::MutexLock lock(&mu_);
    const auto it = chains_.find(chain_id);
    if (it == chains_.end()) {
      return absl::NotFoundError(StrCat("chain ", chain_id.ToString(), " is not present"));
    }
    if (ChainRef chain = it->second.open.lock(); chain != nullptr && !chain->index->damaged()) {
      return chain;
    }
    names = it->second.layers;
    sum = it->second.sum;
  }
  std::vector<LayerRef> layers;
  for (const Digest& name : names) {
    IMAGEFS_ASSIGN_OR_RETURN(LayerRef layer, layers_.Find(name));
    layers.push_back(std::move(layer));
  }
  absl::StatusOr<ChainRef> chain = OpenChain(chain_id, sum, layers);
  if (!chain.ok()) {
    // Its layers are present: rebuild it from them.
    LogWarning("chain.damaged chain=", chain_id.Short(), " error=", chain.status().message());
    chain = Make(chain_id, std::move(layers));
  }
  absl::MutexLock lock(&mu_);
  const auto it = chains_.find(chain_id);
  if (it == chains_.end()) return absl::NotFoundError("the chain was just removed");
  if (absl::IsResourceExhausted(chain.status())) return chain;  // says nothing about the chain
  if (!chain.ok()) {
    LogError("chain.lost chain=", chain_id.Short(), " error=", chain.status().message());
    chains_.erase(it);
    return absl::NotFoundError(chain.status().message());
  }
  if (ChainRef other = it->second.open.lock(); other != nullptr && !other->index->damaged()) {
    return other;
  }
  it->second.open = *chain;
  return chain;
}

ChainRef ChainStore::Recent(const Request& request) const {
  absl::MutexLock lock(&mu_);
  const auto it = recent_.find(RecentKey(request));
  ChainRef chain = it == recent_.end() ? nullptr : it->second.lock();
  return chain != nullptr && chain->index->damaged() ? nullptr : chain;
}

void ChainStore::KeepRecent(const Request& request, const ChainRef& chain) {
  if (request.source == nullptr) return;
  absl::MutexLock lock(&mu_);
  absl::erase_if(recent_, [](const auto& one) { return one.second.expired(); });
  recent_[RecentKey(request)] = chain;
}

absl::StatusOr<ChainRef> ChainStore::FindOf(const ResolvedImage& image) {
  const bool whole = image.layer_ids.size() == image.config.diff_ids.size() &&
                     std::none_of(image.layer_ids.begin(), image.layer_ids.end(),
                                  [](const Digest& id) { return id.empty(); });
  if (!whole) {
    return absl::NotFoundError(StrCat("the layers of ", image.reference, " are not recorded"));
  }
  return Find(ChainIdentity(image.layer_ids, image.config.diff_ids));
}

// Returns the chain that the image was given before, if it may be used.
ChainRef ChainStore::FindGiven(const Request& request) {
  if (ChainRef recent = Recent(request); recent != nullptr && IsTrusted(*recent, request.trust)) {
    return recent;
  }
  absl::StatusOr<ChainRef> recorded = FindOf(*request.image);
  return recorded.ok() && IsTrusted(**recorded, request.trust) ? *std::move(recorded) : nullptr;
}

std::vector<std::optional<Digest>> ChainStore::RecordedLayers(const Request& request) const {
  std::vector<std::optional<Digest>> layers(request.image->config.diff_ids.size());
  for (size_t i = 0; i < std::min(layers.size(), request.image->layer_ids.size()); ++i) {
    if (!request.image->layer_ids[i].empty()) layers[i] = request.image->layer_ids[i];
  }
  if (const ChainRef recent = Recent(request); recent != nullptr) {
    for (size_t i = 0; i < layers.size(); ++i) layers[i] = recent->layers[i]->id;
  }
  return layers;
}

FlightTicket ChainStore::Ensure(Request request, Priority priority, Done done) {
  if (ChainRef here = FindGiven(request); here != nullptr) {
    reused_++;
    done(std::move(here));
    return FlightTicket();
  }
  FlightTable<ChainRef>::Caller caller;
  caller.priority = priority;
  caller.auth_scope = request.source == nullptr ? "" : request.source->auth_scope();
  const std::string key = FlightKey(request);
  caller.start = [this, request = std::move(request)](FlightTable<ChainRef>::Context context) {
    // It may have been made between the check above and the start of this flight.
    if (ChainRef here = FindGiven(request); here != nullptr) {
      return context.finish(std::move(here));
    }
    std::make_shared<Job>(*this, request, std::move(context))->Start();
  };
  caller.done = std::move(done);
  return flights_.Join(key, std::move(caller)).ticket;
}

absl::Status ChainStore::Merge(const std::vector<LayerRef>& layers, const std::string& path,
                               Entry& entry) {
  // The trees of an image with a million files take a hundred MiB: return them to the system.
  const absl::Cleanup give_back = [&] {
    for (const LayerRef& layer : layers) layer->index->DropResidentPages();
    malloc_trim(0);
  };
  std::vector<const ErofsImage*> indexes;
  ErofsWriterOptions options;
  for (const LayerRef& layer : layers) {
    indexes.push_back(layer->index.get());
    options.devices.push_back({layer->id.hex(), layer->data_bytes});
  }
  IMAGEFS_ASSIGN_OR_RETURN(const Tree tree, MergeLayers(indexes));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenFile(path, O_RDWR | O_CREAT | O_EXCL, 0600));
  IMAGEFS_RETURN_IF_ERROR(WriteErofs(tree, options, fd.get()));
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return ErrnoStatus(errno, path);
  entry.bytes = static_cast<uint64_t>(st.st_size);
  IMAGEFS_ASSIGN_OR_RETURN(entry.sum, Crc32cOfFile(fd.get()));
  return absl::OkStatus();
}

absl::StatusOr<ChainRef> ChainStore::Make(const Digest& chain_id, std::vector<LayerRef> layers) {
  const std::string temporary = StrCat(root_, "/chains/tmp-", RandomHex(8));
  Entry entry;
  for (const LayerRef& layer : layers) entry.layers.push_back(layer->id);
  absl::Status status = [&]() -> absl::Status {
    IMAGEFS_RETURN_IF_ERROR(Merge(layers, temporary, entry));
    if (rename(temporary.c_str(), PathOf(chain_id).c_str()) != 0) {
      return ErrnoStatus(errno, PathOf(chain_id));
    }
    return PutRecord(chain_id, entry, false);
  }();
  if (!status.ok()) {
    unlink(temporary.c_str());
    return Annotate(status, StrCat("merging the layers of chain ", chain_id.ToString()));
  }
  IMAGEFS_ASSIGN_OR_RETURN(ChainRef chain, OpenChain(chain_id, entry.sum, std::move(layers)));
  merged_++;
  entry.open = chain;
  {
    absl::MutexLock lock(&mu_);
    chains_[chain_id] = std::move(entry);
  }
  IMAGEFS_RETURN_IF_ERROR(CheckLayers(*chain));
  work_->Submit(std::make_shared<LivePriority>(Priority::kBackground),
                [this, chain_id] { Sync(chain_id); });
  return chain;
}

// A layer that is forgotten takes its chains with it, but not those that are not known yet: so this
// is called after a chain has become known. Returns kAborted, and forgets the chain, if one of its
// layers has been forgotten since it was given out.
absl::Status ChainStore::CheckLayers(const Chain& chain) {
  absl::Status status;
  for (const LayerRef& layer : chain.layers) {
    const absl::StatusOr<LayerRef> now = layers_.Find(layer->id);
    if (now.ok() && *now == layer) continue;
    Forget(layer->id);
    status = absl::AbortedError(StrCat("layer ", layer->id.ToString(),
                                       " was found to be damaged while its image was prepared"));
  }
  return status;
}

void ChainStore::Sync(const Digest& chain_id) {
  Entry entry;
  {
    absl::MutexLock lock(&mu_);
    const auto it = chains_.find(chain_id);
    if (it == chains_.end()) return;
    entry = it->second;
  }
  absl::StatusOr<Fd> fd = OpenFile(PathOf(chain_id), O_RDONLY);
  absl::Status status = fd.ok() ? FsyncFd(fd->get(), PathOf(chain_id)) : fd.status();
  if (status.ok()) status = FsyncDir(root_ + "/chains");
  if (status.ok()) status = PutRecord(chain_id, entry, true);
  // Without the record the index is merged again after the next boot: nothing is lost.
  if (!status.ok())
    LogWarning("chain.sync_failed chain=", chain_id.Short(), " error=", status.message());
}

void ChainStore::Forget(const Digest& layer) {
  WriteBatch batch;
  std::vector<ChainRef> looked_at;  // keeps last references from being dropped under the lock
  absl::MutexLock lock(&mu_);
  for (auto it = chains_.begin(); it != chains_.end();) {
    const std::vector<Digest>& layers = it->second.layers;
    if (std::find(layers.begin(), layers.end(), layer) == layers.end()) {
      ++it;
      continue;
    }
    unlink(PathOf(it->first).c_str());
    batch.Delete(StrCat(kChainPrefix, it->first.hex()));
    chains_.erase(it++);
  }
  absl::erase_if(recent_, [&](const auto& one) {
    const ChainRef chain = looked_at.emplace_back(one.second.lock());
    return chain == nullptr ||
           std::any_of(chain->layers.begin(), chain->layers.end(),
                       [&](const LayerRef& other) { return other->id == layer; });
  });
  if (absl::Status status = kv_.Write(batch, true); !status.ok()) {
    LogWarning("chain.forget_failed error=", status.message());
  }
}

bool ChainStore::InUse(const Digest& chain_id) const {
  absl::MutexLock lock(&mu_);
  const auto it = chains_.find(chain_id);
  return it != chains_.end() && !it->second.open.expired();
}

uint32_t ChainStore::CallersOf(const LayerKey& layer) const {
  uint32_t callers = 0;
  const std::vector<std::pair<std::string, size_t>> running = flights_.Running();
  absl::MutexLock lock(&mu_);
  for (const auto& [key, count] : running) {
    const auto it = running_.find(key);
    if (it == running_.end()) continue;
    if (std::find(it->second.begin(), it->second.end(), layer) != it->second.end()) {
      callers += static_cast<uint32_t>(count);
    }
  }
  return callers;
}

std::vector<FlightReport> ChainStore::Flights() const {
  return {{"chain", flights_.counters(), flights_.Running()},
          {"merge", merges_.counters(), merges_.Running()}};
}

void ChainStore::AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const {
  out.emplace_back("chains_merged", merged_.load());
  out.emplace_back("chains_reused", reused_.load());
  out.emplace_back("chains_repaired", repaired_.load());
}

uint64_t ChainStore::Collect(const absl::flat_hash_set<Digest>& keep,
                             absl::flat_hash_set<Digest>& layers_needed) {
  uint64_t freed = 0;
  WriteBatch batch;
  absl::MutexLock lock(&mu_);
  for (auto it = chains_.begin(); it != chains_.end();) {
    if (keep.contains(it->first) || !it->second.open.expired()) {
      layers_needed.insert(it->second.layers.begin(), it->second.layers.end());
      ++it;
      continue;
    }
    // An index is a small file: removing it under the lock keeps file and entry consistent.
    unlink(PathOf(it->first).c_str());
    batch.Delete(StrCat(kChainPrefix, it->first.hex()));
    freed += it->second.bytes;
    chains_.erase(it++);
  }
  if (absl::Status status = kv_.Write(batch, false); !status.ok()) {
    LogWarning("chain.forget_failed error=", status.message());
  }
  return freed;
}

}  // namespace imagefs
