// SPDX-License-Identifier: Apache-2.0
#include "cache/index_finder.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/log.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "base/ticket_group.h"
#include "base/units.h"
#include "cache/index_opener.h"
#include "image/index_bundle.h"
#include "image/soci.h"
#include "image/toc.h"
#include "image/ztoc.h"

namespace imagefs {
namespace {

// The end of an eStargz blob that is fetched first: usually it contains the whole table of
// contents.
constexpr uint64_t kTailBytes = 128 << 10;
constexpr uint64_t kMaxProfileBytes = 4 << 20;

// An index may be as large as this fraction of its layer's blob: beyond that, unpacking the whole
// layer costs no more. See docs/security.md.
constexpr uint64_t kLayerShare = 4;
constexpr uint64_t kSmallIndex = 1 << 20;  // allowed for any layer
// Limits for data that was fetched but not opened yet, on the disk: the total, as a multiple of the
// memory, and the fraction for one image.
constexpr uint64_t kSpoolTimes = 4;
constexpr uint64_t kSpoolParts = 16, kMemoryParts = 2;

}  // namespace

// The finder's destructor waits for it.
struct IndexFinder::Alive {
  explicit Alive(IndexFinder& owner) : finder(owner) {
    absl::MutexLock lock(&finder.mu_);
    ++finder.alive_;
  }
  ~Alive() {
    absl::MutexLock lock(&finder.mu_);
    --finder.alive_;
  }
  Alive(const Alive&) = delete;
  Alive& operator=(const Alive&) = delete;

  IndexFinder& finder;
};

IndexFinder::IndexFinder(Options options)
    : options_(std::move(options)),
      opener_(options_.directory),
      download_(kSpoolTimes * options_.memory, kSpoolTimes * options_.memory / kSpoolParts),
      memory_(options_.memory, options_.memory / kMemoryParts),
      work_(std::make_unique<Executor>(ThreadRole::kIndex, 2)),
      stored_(std::make_unique<StoredLayerFinder>(opener_, *work_)),
      sidecars_(std::make_unique<SidecarFinder>()) {}

IndexFinder::~IndexFinder() {
  stop_.Cancel();
  sidecars_->Stop();
  {
    absl::MutexLock lock(&mu_);
    auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return alive_ == 0; };
    mu_.Await(absl::Condition(&none));
  }
  sidecars_.reset();
  stored_.reset();
  work_.reset();
}

bool IndexFinder::MayBeSigned(IndexTrust trust) const {
  return trust.Allows(IndexSource::kSigned) && options_.verify_signature != nullptr;
}

void IndexFinder::Prefetch(const Digest& manifest, const std::shared_ptr<ImageSource>& source,
                           IndexTrust trust) {
  if (!options_.lookup || !source->remote()) return;
  if (trust.Allows(IndexSource::kBeside) || MayBeSigned(trust))
    sidecars_->Find(manifest, source, nullptr);
}

absl::StatusOr<IndexSource> IndexFinder::Classify(const Sidecar& sidecar, IndexSource unsigned_is,
                                                  IndexTrust trust) const {
  const Manifest& artifact = *sidecar.index;
  if (liars_->Has(sidecar.artifact)) {
    return absl::PermissionDeniedError("its hot pack had bytes that the image does not have");
  }
  absl::Status status = absl::PermissionDeniedError("nobody has signed it");
  if (MayBeSigned(trust)) {
    status = options_.verify_signature(artifact);
    if (status.ok()) return IndexSource::kSigned;
  }
  if (trust.Allows(unsigned_is)) return unsigned_is;
  return status;
}

// One Find. Callbacks start its steps one after the other; the indexes of several layers are
// fetched concurrently, as far as the budgets allow.
class IndexFinder::Job : public std::enable_shared_from_this<Job> {
 public:
  Job(IndexFinder& finder, ImageRef image, std::shared_ptr<ImageSource> source,
      std::vector<bool> wanted, IndexTrust trust, bool runs, CancelToken cancel, Done done)
      : finder_(finder),
        image_(std::move(image)),
        source_(std::move(source)),
        wanted_(std::move(wanted)),
        trust_(trust),
        runs_(runs),
        cancel_(std::move(cancel)),
        done_(std::move(done)) {
    found_.layers.resize(wanted_.size());
    absl::MutexLock lock(&finder_.mu_);
    ++finder_.alive_;
  }
  ~Job() {
    absl::MutexLock lock(&finder_.mu_);
    --finder_.alive_;
  }

  // Layers that contain their table first; the others are looked up.
  void Start() {
    Begin();
    bool look_up = false;
    for (size_t i = 0; i < wanted_.size(); ++i) {
      if (!MayBeDescribed(i)) continue;
      std::optional<TocLocation> toc;
      if (trust_.Allows(IndexSource::kInImage)) toc = FindToc(layer(i));
      toc.has_value() ? ReadToc(i, *toc) : void(look_up = true);
    }
    if (look_up && (trust_.Allows(IndexSource::kBeside) || finder_.MayBeSigned(trust_))) {
      Begin();
      finder_.sidecars_->Find(
          image_->manifest_digest, source_,
          [self = shared_from_this()](const std::shared_ptr<const Sidecar>& sidecar) {
            self->OnBeside(*sidecar);
            self->End();
          });
    } else if (look_up && !ReadSoci(std::nullopt)) {
      QueryRepository(0);
    }
    End();
  }

 private:
  // Fetched data, on the disk.
  struct Fetched {
    Fd file;
    ByteRange blob;  // which part of the blob it is
    ByteBudget::Lease room;
  };
  using FetchDone = absl::AnyInvocable<void(absl::StatusOr<Fetched>)>;
  using Open = absl::AnyInvocable<absl::StatusOr<FoundIndexRef>(const IndexMaterial&)>;

  const Descriptor& layer(size_t i) const { return image_->manifest.layers[i]; }
  const Digest& diff_id(size_t i) const { return image_->config.diff_ids[i]; }
  // Whether a published index of layer i would be of use. Only tars have one.
  bool MayBeDescribed(size_t i) const { return wanted_[i] && image_->FormOf(i).is_tar(); }
  StoredLayerFinder::Layer Stored(size_t i) const {
    return {layer(i), diff_id(i), image_->FormOf(i)};
  }

  void Begin() {
    absl::MutexLock lock(&mu_);
    ++pending_;
  }
  void End() {
    {
      absl::MutexLock lock(&mu_);
      if (--pending_ > 0) return;
    }
    if (ScanLayers()) return;
    if (!cancel_.cancelled()) {
      for (size_t i = 0; i < wanted_.size(); ++i) {
        if (wanted_[i] && found_.layers[i] == nullptr) finder_.absent_++;
      }
    }
    // The callers' next step may be expensive: do not run it on the network thread.
    finder_.work_->Submit(
        [self = shared_from_this()]() mutable { self->done_(std::move(self->found_)); });
  }
  // Reads the headers of uncompressed layers that nobody has described; called again once all of
  // that has ended. Returns false if there is nothing to wait for.
  bool ScanLayers() {
    if (std::exchange(scanned_, true) || !trust_.Allows(IndexSource::kUnverified)) return false;
    std::vector<size_t> layers;
    for (size_t i = 0; i < wanted_.size(); ++i) {
      const bool missing = wanted_[i] && found_.layers[i] == nullptr;
      if (missing && StoredLayerFinder::MayFind(Stored(i))) layers.push_back(i);
    }
    if (layers.empty() || cancel_.cancelled()) return false;
    Begin();
    on_cancel_ = cancel_.OnCancel([ticket = TicketGroup::TicketOf(scans_)] { ticket.Leave(); });
    for (const size_t i : layers) {
      Begin();
      scans_->Add(finder_.stored_->Find(
          Stored(i), source_, Repository(),
          [self = shared_from_this(), i](absl::StatusOr<FoundIndexRef> found) {
            self->OnScanned(i, std::move(found));
          }));
    }
    End();
    return true;
  }
  void OnScanned(size_t i, absl::StatusOr<FoundIndexRef> found) {
    if (found.ok()) {
      absl::MutexLock lock(&mu_);
      found_.layers[i] = *std::move(found);
    }
    End();
  }
  // Ends the work started for layer i.
  void Take(size_t i, absl::StatusOr<FoundIndexRef> found, std::string_view origin) {
    if (found.ok()) {
      finder_.found_++;
      absl::MutexLock lock(&mu_);
      found_.layers[i] = *std::move(found);
    } else if (!absl::IsCancelled(found.status())) {
      Refuse(StrCat("layer=", diff_id(i).Short()), origin, found.status());
    }
    End();
  }
  void Refuse(std::string_view what, std::string_view origin, const absl::Status& why) {
    finder_.refused_++;
    LogWarning("index.refused ", what, " origin=", origin, " cause=", why.message());
  }

  // Returns whether layer i may have an index of `bytes` at all. Called before any of it is
  // fetched.
  absl::Status CheckSize(size_t i, uint64_t bytes) {
    IMAGEFS_RETURN_IF_ERROR(CheckShare(i, bytes));
    return Count(bytes, &Totals::fetched);
  }
  absl::Status CheckShare(size_t i, uint64_t bytes) const {
    const uint64_t share = std::max(kSmallIndex, layer(i).size / kLayerShare);
    if (bytes > share) {
      return absl::ResourceExhaustedError(
          StrCat("it has ", FormatBytes(bytes), ", and that of a layer of ",
                 FormatBytes(layer(i).size), " may have ", FormatBytes(share)));
    }
    return absl::OkStatus();
  }
  absl::Status CheckMemory(uint64_t bytes) const {
    const uint64_t largest = LargestIndex(finder_.memory_.total());
    if (bytes <= largest) return absl::OkStatus();
    return absl::ResourceExhaustedError(StrCat("it has ", FormatBytes(bytes), " and may have ",
                                               FormatBytes(largest),
                                               "; index.memory in the configuration allows more"));
  }

  // Fetches a part of a blob to a file once there is space for it. The space may be released on the
  // network thread, which must not open files.
  void Fetch(const std::shared_ptr<ImageSource>& source, const Descriptor& blob, ByteRange range,
             FetchDone done) {
    finder_.download_.Take(
        source_->auth_scope(), range.size(), cancel_,
        [self = shared_from_this(), source, blob, range,
         done = std::move(done)](absl::StatusOr<ByteBudget::Lease> room) mutable {
          if (!room.ok()) return done(room.status());
          self->finder_.work_->Submit([self, source, blob, range, room = *std::move(room),
                                       done = std::move(done)]() mutable {
            self->FetchTo(*source, blob, range, std::move(room), std::move(done));
          });
        });
  }
  void FetchTo(ImageSource& source, const Descriptor& blob, ByteRange range, ByteBudget::Lease room,
               FetchDone done) {
    absl::StatusOr<Fd> file = finder_.opener_.NewFile();
    if (!file.ok()) return done(file.status());
    auto fetched = std::make_shared<Fetched>(Fetched{*std::move(file), range, std::move(room)});
    source.ReadBlob(
        blob, {range}, nullptr, cancel_,
        [fetched, range](uint64_t offset, std::string_view data) -> absl::Status {
          if (offset < range.begin || offset > range.end || data.size() > range.end - offset) {
            return absl::InternalError("bytes that were not requested");
          }
          return PwriteFull(fetched->file.get(), data, offset - range.begin);
        },
        [fetched, done = std::move(done)](const absl::Status& status) mutable {
          if (!status.ok()) return done(status);
          done(std::move(*fetched));
        });
  }

  // Opens `part` of what was fetched for layer i, on a worker, once there is memory for it.
  void OpenWhenAllowed(size_t i, std::shared_ptr<Fetched> fetched, ByteRange part,
                       const absl::StatusOr<uint64_t>& unpacked, std::string_view origin,
                       Open open) {
    if (!unpacked.ok()) return Take(i, unpacked.status(), origin);
    if (absl::Status status = Count(*unpacked, &Totals::unpacked); !status.ok()) {
      return Take(i, status, origin);
    }
    IndexMaterial material;
    material.file = fetched->file.get();
    material.part = part;
    material.layer = layer(i);
    material.diff_id = diff_id(i);
    material.max_memory = IndexMemory(part.size(), *unpacked);
    finder_.memory_.Take(
        source_->auth_scope(), material.max_memory, cancel_,
        [self = shared_from_this(), i, fetched, material, origin,
         open = std::move(open)](absl::StatusOr<ByteBudget::Lease> memory) mutable {
          if (!memory.ok()) return self->Take(i, memory.status(), origin);
          self->finder_.work_->Submit([self, i, fetched, material, origin,
                                       memory = *std::move(memory),
                                       open = std::move(open)]() mutable {
            absl::StatusOr<FoundIndexRef> found =
                self->cancel_.cancelled() ? absl::CancelledError("") : open(material);
            memory.Return();
            self->Take(i, std::move(found), origin);
          });
        });
  }

  // Total bytes of all indexes of the image.
  struct Totals {
    uint64_t fetched = 0, unpacked = 0;
  };
  // The indexes become one tree, so their total must fit in the budget.
  absl::Status Count(uint64_t bytes, uint64_t Totals::*total) {
    IMAGEFS_RETURN_IF_ERROR(CheckMemory(bytes));
    absl::MutexLock lock(&mu_);
    if (bytes > finder_.memory_.total() - totals_.*total) {
      return absl::ResourceExhaustedError(
          StrCat("the indexes of this image have more than ", FormatBytes(finder_.memory_.total()),
                 " together; index.memory in the configuration allows more"));
    }
    totals_.*total += bytes;
    return absl::OkStatus();
  }

  void ReadToc(size_t i, const TocLocation& toc) {
    Begin();
    if (toc.kind == TocKind::kZstdChunked) return ReadTocAt(i, toc);
    const uint64_t size = layer(i).size;
    const ByteRange tail = {size - std::min<uint64_t>(size, kTailBytes), size};
    Fetch(source_, layer(i), tail,
          [self = shared_from_this(), i, toc](absl::StatusOr<Fetched> tail) mutable {
            self->OnTail(i, std::move(toc), std::move(tail));
          });
  }

  void OnTail(size_t i, TocLocation toc, absl::StatusOr<Fetched> tail) {
    const auto find = [&]() -> absl::StatusOr<ByteRange> {
      IMAGEFS_RETURN_IF_ERROR(tail.status());
      char footer[kEstargzFooterBytes];
      if (tail->blob.size() < sizeof(footer)) return absl::DataLossError("no footer");
      IMAGEFS_RETURN_IF_ERROR(PreadExact(tail->file.get(), absl::MakeSpan(footer),
                                         tail->blob.size() - sizeof(footer), "the footer"));
      return ParseEstargzFooter(std::string_view(footer, sizeof(footer)), layer(i).size);
    };
    const absl::StatusOr<ByteRange> range = find();
    if (!range.ok()) return Take(i, range.status(), kInLayer);
    toc.range = *range;
    if (range->begin >= tail->blob.begin) return OpenToc(i, toc, std::move(tail));
    tail = absl::CancelledError("");  // release its space first: a waiter for space never holds any
    ReadTocAt(i, toc);
  }

  void ReadTocAt(size_t i, const TocLocation& toc) {
    absl::Status status = CheckSize(i, toc.range.size());
    if (toc.range.end > layer(i).size) {
      status = absl::DataLossError("a table of contents outside of its blob");
    }
    if (!status.ok()) return Take(i, status, kInLayer);
    Fetch(source_, layer(i), toc.range,
          [self = shared_from_this(), i, toc](absl::StatusOr<Fetched> fetched) {
            self->OpenToc(i, toc, std::move(fetched));
          });
  }

  void OpenToc(size_t i, const TocLocation& toc, absl::StatusOr<Fetched> fetched) {
    if (!fetched.ok()) return Take(i, fetched.status(), kInLayer);
    auto held = std::make_shared<Fetched>(*std::move(fetched));
    IndexMaterial head;
    head.file = held->file.get();
    head.part = {toc.range.begin - held->blob.begin, toc.range.end - held->blob.begin};
    OpenWhenAllowed(i, held, head.part, IndexOpener::AnnouncedToc(head, toc), kInLayer,
                    [&opener = finder_.opener_, toc](const IndexMaterial& material) {
                      return opener.OpenToc(material, toc);
                    });
  }

  void OnBeside(const Sidecar& sidecar) {
    if (sidecar.index.has_value()) {
      const absl::StatusOr<IndexSource> whose =
          finder_.Classify(sidecar, IndexSource::kBeside, trust_);
      if (whose.ok()) return ReadBundles(sidecar, *whose, "");
      Refuse(StrCat("manifest=", image_->manifest_digest.Short()), kPublished, whose.status());
    }
    if (!ReadSoci(sidecar.soci)) QueryRepository(0);
  }

  // Queries the configured repositories in order until one knows the image.
  void QueryRepository(size_t which) {
    if (!trust_.Allows(IndexSource::kConfigured) && !finder_.MayBeSigned(trust_)) return;
    if (which >= finder_.options_.repositories.size()) return;
    absl::StatusOr<std::shared_ptr<ImageSource>> source =
        finder_.options_.open(finder_.options_.repositories[which]);
    if (!source.ok()) return QueryRepository(which + 1);
    Begin();
    finder_.sidecars_->Find(
        image_->manifest_digest, *source,
        [self = shared_from_this(), which](const std::shared_ptr<const Sidecar>& sidecar) {
          self->OnRepository(which, *sidecar);
          self->End();
        });
  }
  void OnRepository(size_t which, const Sidecar& sidecar) {
    if (sidecar.index.has_value()) {
      const absl::StatusOr<IndexSource> whose =
          finder_.Classify(sidecar, IndexSource::kConfigured, trust_);
      const Reference& where = finder_.options_.repositories[which];
      if (whose.ok()) {
        return ReadBundles(sidecar, *whose, StrCat(where.host, "/", where.repository));
      }
      Refuse(StrCat("manifest=", image_->manifest_digest.Short()), kPublished, whose.status());
    }
    QueryRepository(which + 1);
  }

  // `repository`: the name of the sidecar's; "" = that of the image.
  void ReadBundles(const Sidecar& sidecar, IndexSource whose, const std::string& repository) {
    const Manifest& index = *sidecar.index;
    const std::shared_ptr<ImageSource>& source = sidecar.source;
    std::map<std::string, const Descriptor*> by_layer, old_by_layer;
    const Descriptor *profile = nullptr, *pack = nullptr;
    for (const Descriptor& one : index.layers) {
      const auto it = one.annotations.find(std::string(kLayerAnnotation));
      if (it != one.annotations.end()) {
        if (one.media_type == kLayerIndexMediaType) by_layer[it->second] = &one;
        if (one.media_type == kOldLayerIndexMediaType) old_by_layer[it->second] = &one;
      }
      if (one.media_type == kProfileMediaType) profile = &one;
      if (one.media_type == kHotPackMediaType) pack = &one;
    }
    if (!runs_ || !finder_.options_.hot_packs) pack = nullptr;
    if (pack != nullptr && whose == IndexSource::kBeside) pages_from_ = Repository();
    if (profile != nullptr) ReadProfile(*profile, source);
    by_layer.merge(old_by_layer);  // what is of both forms is read in the newer one
    for (size_t i = 0; i < wanted_.size(); ++i) {
      if (!MayBeDescribed(i) || Has(i)) continue;
      const auto it = by_layer.find(layer(i).digest.ToString());
      if (it != by_layer.end()) ReadBundle(i, *it->second, source, whose, repository);
    }
    if (pack != nullptr) ReadPack(*pack, source, sidecar.artifact);
  }

  // Names whoever may push to the repository of the image.
  std::string Repository() const {
    const absl::StatusOr<Reference> reference = Reference::Parse(image_->reference);
    if (!reference.ok()) return source_->auth_scope();
    return StrCat(reference->host, "/", reference->repository);
  }

  // A pack may be as large as a part of the layers that are missing, as indexes are.
  absl::Status CheckPackSize(const PublishedHotPack& pack) const {
    uint64_t bytes = 0;
    for (size_t i = 0; i < wanted_.size(); ++i) bytes += wanted_[i] ? layer(i).size : 0;
    const uint64_t share = std::min(MaxHotPackBytes(bytes), finder_.download_.total() / 2);
    if (pack.blob.size <= share) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        StrCat("it has ", FormatBytes(pack.blob.size), ", and that of missing layers of ",
               FormatBytes(bytes), " may have ", FormatBytes(share)));
  }

  void ReadPack(const Descriptor& blob, const std::shared_ptr<ImageSource>& source,
                const Digest& artifact) {
    const absl::StatusOr<PublishedHotPack> pack = ParsePublishedHotPack(blob);
    const absl::Status status = pack.ok() ? CheckPackSize(*pack) : pack.status();
    if (!status.ok()) {
      return Refuse(StrCat("manifest=", image_->manifest_digest.Short()), kHotPack, status);
    }
    finder_.packs_++;
    HotPackStream::Options options;
    options.source = source;
    options.pack = *pack;
    // Nobody waits for it: a mount whose pack gets no room goes on without.
    options.make_spool = [&finder = finder_, auth_scope = source_->auth_scope(), bytes = blob.size](
                             CancelToken cancel, HotPackStream::SpoolDone done) {
      finder.download_.Take(
          auth_scope, bytes, cancel,
          [&finder, done = std::move(done)](absl::StatusOr<ByteBudget::Lease> room) mutable {
            if (!room.ok()) return done(room.status());
            finder.work_->Submit(
                [&finder, room = *std::move(room), done = std::move(done)]() mutable {
                  absl::StatusOr<Fd> file = finder.opener_.NewFile();
                  if (!file.ok()) return done(file.status());
                  done(HotPackStream::Spool{*std::move(file), std::move(room)});
                });
          });
    };
    options.work = finder_.work_.get();
    options.stop = finder_.stop_.token();
    options.lied = [liars = finder_.liars_, artifact] { liars->Add(artifact); };
    options.keep = std::make_shared<Alive>(finder_);
    std::shared_ptr<HotPackStream> stream = HotPackStream::Start(std::move(options));
    absl::MutexLock lock(&mu_);
    found_.pack = std::move(stream);
  }

  void ReadBundle(size_t i, const Descriptor& bundle, const std::shared_ptr<ImageSource>& source,
                  IndexSource whose, const std::string& repository) {
    Begin();
    if (absl::Status status = CheckSize(i, bundle.size); !status.ok()) {
      return Take(i, status, kPublished);
    }
    Fetch(source, bundle, {0, bundle.size},
          [self = shared_from_this(), i, bundle, source, whose,
           repository](absl::StatusOr<Fetched> fetched) {
            if (!fetched.ok()) return self->Take(i, fetched.status(), kPublished);
            auto held = std::make_shared<Fetched>(*std::move(fetched));
            IndexMaterial head;
            head.file = held->file.get();
            head.part = held->blob;
            self->OpenWhenAllowed(
                i, held, head.part, IndexOpener::AnnouncedBundle(head), kPublished,
                [self, i, bundle, source, whose, repository](IndexMaterial material) {
                  material.source = source;
                  material.repository = repository;
                  return self->OpenBundle(i, std::move(material), bundle, whose);
                });
          });
  }

  absl::StatusOr<FoundIndexRef> OpenBundle(size_t i, IndexMaterial material,
                                           const Descriptor& bundle, IndexSource whose) const {
    material.pages_from = pages_from_;
    IMAGEFS_ASSIGN_OR_RETURN(FoundIndexRef found,
                             finder_.opener_.OpenBundle(material, bundle.digest, whose));
    const uint64_t later = found->windows.has_value() ? found->windows->blob.size : 0;
    IMAGEFS_RETURN_IF_ERROR(CheckShare(i, bundle.size + later));
    return found;
  }

  void ReadProfile(const Descriptor& blob, const std::shared_ptr<ImageSource>& source) {
    Begin();
    source->GetSmallBlob(blob, kMaxProfileBytes, cancel_,
                         [self = shared_from_this()](absl::StatusOr<std::string> bytes) {
                           if (bytes.ok()) {
                             absl::MutexLock lock(&self->mu_);
                             self->found_.profile = *std::move(bytes);
                           }
                           self->End();
                         });
  }

  // Reads the SOCI index that the image's manifest names, else the attached one, `sidecar`. Returns
  // false if there is none that is trusted.
  bool ReadSoci(const std::optional<Digest>& sidecar) {
    IndexSource whose = IndexSource::kInImage;
    std::optional<Digest> index = SociIndexOf(image_->manifest);
    if (!index.has_value() || !trust_.Allows(whose)) {
      whose = IndexSource::kBeside;
      index = sidecar;
    }
    if (!index.has_value() || !trust_.Allows(whose)) return false;
    Begin();
    source_->GetManifest(
        index->ToString(), cancel_,
        [self = shared_from_this(), whose](absl::StatusOr<ImageSource::FetchedManifest> fetched) {
          if (fetched.ok()) self->OnSoci(fetched->bytes, whose);
          self->End();
        });
    return true;
  }

  void OnSoci(const std::string& manifest, IndexSource whose) {
    const absl::StatusOr<std::map<Digest, Descriptor>> ztocs = ParseSociIndex(manifest);
    if (!ztocs.ok()) {
      return Refuse(StrCat("manifest=", image_->manifest_digest.Short()), kSoci, ztocs.status());
    }
    for (size_t i = 0; i < wanted_.size(); ++i) {
      const auto it = ztocs->find(layer(i).digest);
      if (MayBeDescribed(i) && !Has(i) && it != ztocs->end()) ReadZtoc(i, it->second, whose);
    }
  }

  void ReadZtoc(size_t i, const Descriptor& ztoc, IndexSource whose) {
    Begin();
    if (absl::Status status = CheckSize(i, ztoc.size); !status.ok()) return Take(i, status, kSoci);
    Fetch(source_, ztoc, {0, ztoc.size},
          [self = shared_from_this(), i, digest = ztoc.digest,
           whose](absl::StatusOr<Fetched> fetched) {
            if (!fetched.ok()) return self->Take(i, fetched.status(), kSoci);
            auto held = std::make_shared<Fetched>(*std::move(fetched));
            const ByteRange whole = held->blob;
            self->OpenWhenAllowed(
                i, held, whole, whole.size(), kSoci,
                [&opener = self->finder_.opener_, digest, whose](const IndexMaterial& material) {
                  return opener.OpenZtoc(material, digest, whose);
                });
          });
  }

  // Returns whether the layer contains its own table of contents.
  bool Has(size_t i) const {
    return trust_.Allows(IndexSource::kInImage) && FindToc(layer(i)).has_value();
  }

  static constexpr std::string_view kInLayer = "table of contents", kPublished = "published",
                                    kSoci = "SOCI", kHotPack = "hot pack";
  IndexFinder& finder_;
  const ImageRef image_;
  const std::shared_ptr<ImageSource> source_;
  const std::vector<bool> wanted_;
  const IndexTrust trust_;
  const bool runs_;
  const CancelToken cancel_;
  std::string pages_from_;  // set before any bundle is fetched
  bool scanned_ = false;    // the steps before it have ended
  const std::shared_ptr<TicketGroup> scans_ = std::make_shared<TicketGroup>();
  CancelToken::Registration on_cancel_;
  Done done_;
  absl::Mutex mu_;
  int pending_ ABSL_GUARDED_BY(mu_) = 0;
  Totals totals_ ABSL_GUARDED_BY(mu_);
  Found found_;  // guarded by mu_ until the last step has ended
};

void IndexFinder::Find(ImageRef image, std::shared_ptr<ImageSource> source,
                       std::vector<bool> wanted, IndexTrust trust, bool runs, CancelToken cancel,
                       Done done) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i]) bytes += image->manifest.layers[i].size;
  }
  if (!options_.lookup || trust.empty() || bytes < options_.min_bytes || source == nullptr ||
      !source->remote()) {
    Found none;
    none.layers.resize(wanted.size());
    return done(std::move(none));
  }
  std::make_shared<Job>(*this, std::move(image), std::move(source), std::move(wanted), trust, runs,
                        std::move(cancel), std::move(done))
      ->Start();
}

void IndexFinder::AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const {
  out.emplace_back("index_lookups", sidecars_->lookups());
  out.emplace_back("indexes_found", found_.load());
  out.emplace_back("indexes_refused", refused_.load());
  out.emplace_back("indexes_absent", absent_.load());
  out.emplace_back("hot_packs", packs_.load());
  stored_->AppendCounters(out);
}

}  // namespace imagefs
