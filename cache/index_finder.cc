#include "cache/index_finder.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <utility>

#include "absl/time/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "image/disarm.h"
#include "image/erofs_reader.h"
#include "image/erofs_writer.h"
#include "image/index_bundle.h"
#include "image/layer_access.h"
#include "image/soci.h"
#include "image/toc.h"
#include "image/ztoc.h"

namespace imagefs {
namespace {

// How long an answer about a manifest stays good for those who ask again.
constexpr absl::Duration kKeepAnswers = absl::Seconds(10);
// The end of an eStargz blob that is read at once: mostly the whole table of contents.
constexpr uint64_t kTailBytes = 128 << 10;
constexpr uint64_t kMaxProfileBytes = 4 << 20;

absl::StatusOr<std::string> ErofsBytes(const Tree& tree, const Digest& diff_id,
                                       uint64_t data_bytes) {
  const Fd fd(memfd_create("index", MFD_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "memfd_create");
  ErofsWriterOptions options;
  options.overlay_form = true;
  options.devices.push_back({diff_id.hex(), data_bytes});
  IMAGEFS_RETURN_IF_ERROR(WriteErofs(tree, options, fd.get()));
  const off_t size = lseek(fd.get(), 0, SEEK_END);
  std::string bytes(static_cast<size_t>(std::max<off_t>(size, 0)), '\0');
  IMAGEFS_RETURN_IF_ERROR(PreadFull(fd.get(), absl::MakeSpan(bytes), 0).status());
  return bytes;
}

absl::StatusOr<FoundIndexRef> FromTable(TableLayer table, DataLayout layout, std::string origin,
                                        const Digest& description, const Digest& diff_id) {
  auto found = std::make_shared<FoundIndex>();
  found->source = IndexSource::kInImage;
  found->origin = std::move(origin);
  found->description = description;
  Disarm(table.layer.tree);
  table.access.layout = layout;
  IMAGEFS_ASSIGN_OR_RETURN(found->index,
                           ErofsBytes(table.layer.tree, diff_id, table.access.data_bytes));
  IMAGEFS_ASSIGN_OR_RETURN(found->access, WriteAccess(table.access));
  found->prefetch = table.prefetch;
  return FoundIndexRef(std::move(found));
}

std::string TagOf(const Digest& manifest) { return StrCat("sha256-", manifest.hex(), ".imagefs"); }

// A manifest that is an imagefs index of `subject`.
absl::StatusOr<Manifest> ParseArtifact(const ImageSource::FetchedManifest& fetched,
                                       const Digest& subject) {
  IMAGEFS_ASSIGN_OR_RETURN(ManifestOrIndex parsed,
                           ParseManifest(fetched.bytes, fetched.content_type));
  if (!parsed.manifest.has_value() || parsed.manifest->artifact_type != kIndexArtifactType ||
      !parsed.manifest->subject.has_value() || parsed.manifest->subject->digest != subject) {
    return absl::DataLossError("not an imagefs index of that image");
  }
  return *std::move(parsed.manifest);
}

}  // namespace

// The questions about one manifest in one repository.
struct IndexFinder::Lookup {
  explicit Lookup(IndexFinder& owner) : finder(owner) {
    finder.mu_.AssertHeld();
    ++finder.alive_;
  }
  ~Lookup() {
    absl::MutexLock lock(&finder.mu_);
    --finder.alive_;
  }

  IndexFinder& finder;
  Digest manifest;
  std::shared_ptr<ImageSource> source;
  absl::Time asked;
  absl::Mutex mu;
  bool tag_over ABSL_GUARDED_BY(mu) = false;
  bool referrers_over ABSL_GUARDED_BY(mu) = false;
  std::optional<Digest> artifact ABSL_GUARDED_BY(mu), soci ABSL_GUARDED_BY(mu);
  std::shared_ptr<const Beside> answer ABSL_GUARDED_BY(mu);
  std::vector<BesideDone> waiting ABSL_GUARDED_BY(mu);
};

IndexFinder::IndexFinder(Options options)
    : options_(std::move(options)), work_(std::make_unique<Executor>("index", 2)) {}

IndexFinder::~IndexFinder() {
  stop_.Cancel();
  {
    absl::flat_hash_map<std::string, std::shared_ptr<Lookup>> lookups;
    absl::MutexLock lock(&mu_);
    lookups.swap(lookups_by_key_);
  }
  {
    absl::MutexLock lock(&mu_);
    auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return alive_ == 0; };
    mu_.Await(absl::Condition(&none));
  }
  work_.reset();
}

void IndexFinder::Hint(const Digest& manifest, const std::shared_ptr<ImageSource>& source) {
  if (!options_.lookup || !options_.trust_beside || !source->remote()) return;
  Ask(manifest, source, nullptr);
}

// Asks the tag, which is the answer itself, and the list of referrers, which is one question more,
// at the same time.
void IndexFinder::Ask(const Digest& manifest, const std::shared_ptr<ImageSource>& source,
                      BesideDone done) {
  const std::string key = StrCat(manifest.hex(), " ", source->audience());
  std::shared_ptr<Lookup> lookup;
  std::vector<std::shared_ptr<Lookup>> old;  // ends outside of the lock
  bool led = false;
  {
    absl::MutexLock lock(&mu_);
    const absl::Time now = absl::Now();
    for (auto it = lookups_by_key_.begin(); it != lookups_by_key_.end();) {
      if (now - it->second->asked <= kKeepAnswers) {
        ++it;
        continue;
      }
      old.push_back(std::move(it->second));
      lookups_by_key_.erase(it++);
    }
    std::shared_ptr<Lookup>& slot = lookups_by_key_[key];
    if (slot == nullptr) {
      slot = std::make_shared<Lookup>(*this);
      slot->manifest = manifest;
      slot->source = source;
      slot->asked = now;
      led = true;
    }
    lookup = slot;
  }
  std::shared_ptr<const Beside> answer;
  {
    absl::MutexLock lock(&lookup->mu);
    answer = lookup->answer;
    if (answer == nullptr && done) lookup->waiting.push_back(std::move(done));
  }
  if (answer != nullptr) return done ? done(answer) : void();
  if (!led) return;
  lookups_++;
  source->GetManifest(
      TagOf(manifest), stop_.token(),
      [this, lookup](absl::StatusOr<ImageSource::FetchedManifest> fetched) {
        absl::StatusOr<Manifest> index = fetched.ok() ? ParseArtifact(*fetched, lookup->manifest)
                                                      : absl::StatusOr<Manifest>(fetched.status());
        if (index.ok()) {
          return Answer(lookup, std::make_shared<Beside>(
                                    Beside{lookup->source, *std::move(index), std::nullopt}));
        }
        {
          absl::MutexLock lock(&lookup->mu);
          lookup->tag_over = true;
          if (!lookup->referrers_over) return;
        }
        AskReferrers(lookup);
      });
  source->GetReferrers(manifest, "", stop_.token(),
                       [this, lookup](absl::StatusOr<std::vector<Descriptor>> referrers) {
                         OnReferrers(lookup, std::move(referrers));
                       });
}

void IndexFinder::OnReferrers(const std::shared_ptr<Lookup>& lookup,
                              absl::StatusOr<std::vector<Descriptor>> referrers) {
  {
    absl::MutexLock lock(&lookup->mu);
    lookup->referrers_over = true;
    if (referrers.ok()) {
      for (const Descriptor& one : *referrers) {
        // The one that was added last.
        if (one.artifact_type == kIndexArtifactType) lookup->artifact = one.digest;
        for (const std::string_view type : kSociIndexTypes) {
          if (one.artifact_type == type) lookup->soci = one.digest;
        }
      }
    }
    if (!lookup->tag_over || lookup->answer != nullptr) return;
  }
  AskReferrers(lookup);
}

// Both questions are answered and the tag was not there.
void IndexFinder::AskReferrers(const std::shared_ptr<Lookup>& lookup) {
  std::optional<Digest> artifact, soci;
  {
    absl::MutexLock lock(&lookup->mu);
    artifact = lookup->artifact;
    soci = lookup->soci;
  }
  if (!artifact.has_value()) {
    return Answer(lookup, std::make_shared<Beside>(Beside{lookup->source, std::nullopt, soci}));
  }
  lookup->source->GetManifest(
      artifact->ToString(), stop_.token(),
      [this, lookup, soci](absl::StatusOr<ImageSource::FetchedManifest> fetched) {
        absl::StatusOr<Manifest> index = fetched.ok() ? ParseArtifact(*fetched, lookup->manifest)
                                                      : absl::StatusOr<Manifest>(fetched.status());
        auto beside = std::make_shared<Beside>(Beside{lookup->source, std::nullopt, soci});
        if (index.ok()) beside->index = *std::move(index);
        Answer(lookup, std::move(beside));
      });
}

void IndexFinder::Answer(const std::shared_ptr<Lookup>& lookup,
                         std::shared_ptr<const Beside> beside) {
  std::vector<BesideDone> waiting;
  {
    absl::MutexLock lock(&lookup->mu);
    if (lookup->answer != nullptr) return;
    lookup->answer = beside;
    waiting.swap(lookup->waiting);
  }
  for (BesideDone& done : waiting) done(beside);
}

// One Find. Its steps are started one after the other by callbacks; the bytes of several layers
// come at the same time.
class IndexFinder::Job : public std::enable_shared_from_this<Job> {
 public:
  Job(IndexFinder& finder, ImageRef image, std::shared_ptr<ImageSource> source,
      std::vector<bool> wanted, CancelToken cancel, Done done)
      : finder_(finder),
        image_(std::move(image)),
        source_(std::move(source)),
        wanted_(std::move(wanted)),
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

  // Layers that carry their table themselves first; the rest is looked up.
  void Start() {
    Begin();
    for (size_t i = 0; i < wanted_.size(); ++i) {
      if (!wanted_[i]) continue;
      if (std::optional<TocLocation> toc = FindToc(layer(i)); toc.has_value()) {
        ReadToc(i, *toc);
      } else {
        look_up_ = true;
      }
    }
    if (look_up_ && finder_.options_.trust_beside) {
      Begin();
      finder_.Ask(image_->manifest_digest, source_,
                  [self = shared_from_this()](const std::shared_ptr<const Beside>& beside) {
                    self->OnBeside(beside);
                    self->End();
                  });
    } else if (look_up_) {
      // What the manifest names itself is as good as the manifest.
      const std::optional<Digest> soci = SociIndexOf(image_->manifest);
      soci.has_value() ? ReadSoci(*soci) : AskRepository(0);
    }
    End();
  }

 private:
  const Descriptor& layer(size_t i) const { return image_->manifest.layers[i]; }
  const Digest& diff_id(size_t i) const { return image_->config.diff_ids[i]; }

  void Begin() {
    absl::MutexLock lock(&mu_);
    ++pending_;
  }
  void End() {
    {
      absl::MutexLock lock(&mu_);
      if (--pending_ > 0) return;
    }
    // What the callers do next may be work: not on the network's thread.
    finder_.work_->Submit(
        [self = shared_from_this()]() mutable { self->done_(std::move(self->found_)); });
  }

  void Take(size_t i, absl::StatusOr<FoundIndexRef> found, std::string_view origin) {
    if (found.ok()) {
      finder_.found_++;
      absl::MutexLock lock(&mu_);
      found_.layers[i] = *std::move(found);
      return;
    }
    if (absl::IsCancelled(found.status())) return;
    finder_.refused_++;
    LogWarning("index.refused layer=", diff_id(i).Short(), " origin=", origin,
               " cause=", found.status().message());
  }

  // Reads a part of layer i's blob into memory.
  void ReadPart(size_t i, ByteRange range,
                absl::AnyInvocable<void(absl::StatusOr<std::string>)> done) {
    auto bytes = std::make_shared<std::string>(range.size(), '\0');
    source_->ReadBlob(
        layer(i), {range}, nullptr, cancel_,
        [bytes, range](uint64_t offset, std::string_view data) {
          bytes->replace(offset - range.begin, data.size(), data);
          return absl::OkStatus();
        },
        [bytes, done = std::move(done)](const absl::Status& status) mutable {
          if (!status.ok()) return done(status);
          done(std::move(*bytes));
        });
  }

  void ReadToc(size_t i, TocLocation toc) {
    Begin();
    if (toc.kind == TocKind::kZstdChunked) return ReadTocAt(i, toc, 0, "");
    const uint64_t size = layer(i).size;
    const ByteRange tail = {size - std::min<uint64_t>(size, kTailBytes), size};
    ReadPart(
        i, tail,
        [self = shared_from_this(), i, toc, tail, size](absl::StatusOr<std::string> bytes) mutable {
          absl::StatusOr<ByteRange> range =
              bytes.status().ok() && bytes->size() >= kEstargzFooterBytes
                  ? ParseEstargzFooter(
                        std::string_view(*bytes).substr(bytes->size() - kEstargzFooterBytes), size)
                  : absl::StatusOr<ByteRange>(absl::DataLossError("no footer"));
          if (!range.ok()) {
            self->Take(i, range.status(), "table of contents");
            return self->End();
          }
          toc.range = *range;
          if (range->begin < tail.begin) return self->ReadTocAt(i, toc, 0, "");
          self->ReadTocAt(i, toc, tail.begin, *std::move(bytes));
        });
  }

  // With `have`: the blob's bytes from `at` on, which hold the table.
  void ReadTocAt(size_t i, const TocLocation& toc, uint64_t at, std::string have) {
    auto build = [self = shared_from_this(), i, toc](absl::StatusOr<std::string> bytes) {
      self->finder_.work_->Submit([self, i, toc, bytes = std::move(bytes)]() mutable {
        self->Take(i, self->BuildToc(i, toc, std::move(bytes)), "table of contents");
        self->End();
      });
    };
    if (!have.empty()) return build(have.substr(toc.range.begin - at, toc.range.size()));
    if (toc.range.end > layer(i).size || toc.range.size() > kMaxTocBlobBytes) {
      return build(absl::DataLossError("a table of contents outside of its blob, or too large"));
    }
    ReadPart(i, toc.range, std::move(build));
  }

  absl::StatusOr<FoundIndexRef> BuildToc(size_t i, const TocLocation& toc,
                                         absl::StatusOr<std::string> bytes) {
    IMAGEFS_RETURN_IF_ERROR(bytes.status());
    IMAGEFS_ASSIGN_OR_RETURN(const std::string json, OpenToc(toc, *bytes));
    IMAGEFS_ASSIGN_OR_RETURN(TableLayer table, BuildFromToc(toc, json, layer(i), diff_id(i)));
    return FromTable(std::move(table), DataLayout::kTable,
                     toc.kind == TocKind::kEstargz ? "eStargz" : "zstd:chunked", Sha256Of(json),
                     diff_id(i));
  }

  void OnBeside(const std::shared_ptr<const Beside>& beside) {
    if (beside->index.has_value()) return ReadBundles(*beside->index, beside->source);
    std::optional<Digest> soci = SociIndexOf(image_->manifest);
    if (!soci.has_value()) soci = beside->soci;
    if (soci.has_value()) return ReadSoci(*soci);
    AskRepository(0);
  }

  // The repositories of the configuration, one after the other until one knows the image.
  void AskRepository(size_t which) {
    if (which >= finder_.options_.repositories.size()) return;
    absl::StatusOr<std::shared_ptr<ImageSource>> source =
        finder_.options_.open(finder_.options_.repositories[which]);
    if (!source.ok()) return AskRepository(which + 1);
    Begin();
    finder_.Ask(image_->manifest_digest, *source,
                [self = shared_from_this(), which](const std::shared_ptr<const Beside>& beside) {
                  if (beside->index.has_value()) {
                    self->ReadBundles(*beside->index, beside->source);
                  } else {
                    self->AskRepository(which + 1);
                  }
                  self->End();
                });
  }

  void ReadBundles(const Manifest& index, const std::shared_ptr<ImageSource>& source) {
    std::map<std::string, const Descriptor*> by_layer;
    for (const Descriptor& one : index.layers) {
      const auto it = one.annotations.find(std::string(kLayerAnnotation));
      if (one.media_type == kLayerIndexMediaType && it != one.annotations.end()) {
        by_layer[it->second] = &one;
      }
      if (one.media_type == kProfileMediaType) ReadProfile(one, source);
    }
    for (size_t i = 0; i < wanted_.size(); ++i) {
      if (!wanted_[i]) continue;
      const auto it = by_layer.find(layer(i).digest.ToString());
      if (it == by_layer.end()) continue;
      Begin();
      source->GetSmallBlob(*it->second, kMaxBundleBytes, cancel_,
                           [self = shared_from_this(), i](absl::StatusOr<std::string> bytes) {
                             self->finder_.work_->Submit([self, i, bytes = std::move(bytes)] {
                               self->Take(i, self->OpenBundle(i, bytes), "published");
                               self->End();
                             });
                           });
    }
  }

  absl::StatusOr<FoundIndexRef> OpenBundle(size_t i, const absl::StatusOr<std::string>& bytes) {
    IMAGEFS_RETURN_IF_ERROR(bytes.status());
    IMAGEFS_ASSIGN_OR_RETURN(IndexBundle bundle, UnpackBundle(*bytes));
    IMAGEFS_RETURN_IF_ERROR(CheckBundle(bundle, layer(i).digest, layer(i).size, diff_id(i)));
    IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<ErofsImage> image,
                             ErofsImage::FromMemory(bundle.index));
    IMAGEFS_ASSIGN_OR_RETURN(Tree tree, image->ToTree());
    Disarm(tree);
    auto found = std::make_shared<FoundIndex>();
    found->source = IndexSource::kBeside;
    found->origin = "published";
    found->description = Sha256Of(*bytes);
    IMAGEFS_ASSIGN_OR_RETURN(found->index,
                             ErofsBytes(tree, diff_id(i), image->devices()[0].size_bytes));
    found->access = std::move(bundle.access);
    return FoundIndexRef(std::move(found));
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

  void ReadSoci(const Digest& index) {
    Begin();
    source_->GetManifest(
        index.ToString(), cancel_,
        [self = shared_from_this()](absl::StatusOr<ImageSource::FetchedManifest> fetched) {
          if (fetched.ok()) self->OnSoci(fetched->bytes);
          self->End();
        });
  }

  void OnSoci(const std::string& manifest) {
    const absl::StatusOr<std::map<Digest, Descriptor>> ztocs = ParseSociIndex(manifest);
    if (!ztocs.ok()) {
      LogWarning("index.refused origin=SOCI cause=", ztocs.status().message());
      return;
    }
    for (size_t i = 0; i < wanted_.size(); ++i) {
      const auto it = ztocs->find(layer(i).digest);
      if (!wanted_[i] || it == ztocs->end()) continue;
      Begin();
      source_->GetSmallBlob(it->second, kMaxZtocBytes, cancel_,
                            [self = shared_from_this(), i](absl::StatusOr<std::string> bytes) {
                              self->finder_.work_->Submit([self, i, bytes = std::move(bytes)] {
                                auto build = [&]() -> absl::StatusOr<FoundIndexRef> {
                                  IMAGEFS_RETURN_IF_ERROR(bytes.status());
                                  IMAGEFS_ASSIGN_OR_RETURN(
                                      TableLayer table,
                                      BuildFromZtoc(*bytes, self->layer(i), self->diff_id(i)));
                                  return FromTable(std::move(table), DataLayout::kForeignTar,
                                                   "SOCI", Sha256Of(*bytes), self->diff_id(i));
                                };
                                self->Take(i, build(), "SOCI");
                                self->End();
                              });
                            });
    }
  }

  IndexFinder& finder_;
  const ImageRef image_;
  const std::shared_ptr<ImageSource> source_;
  const std::vector<bool> wanted_;
  const CancelToken cancel_;
  Done done_;
  bool look_up_ = false;
  absl::Mutex mu_;
  int pending_ ABSL_GUARDED_BY(mu_) = 0;
  Found found_;  // guarded by mu_ until the last step has ended
};

void IndexFinder::Find(ImageRef image, std::shared_ptr<ImageSource> source,
                       std::vector<bool> wanted, CancelToken cancel, Done done) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i]) bytes += image->manifest.layers[i].size;
  }
  if (!options_.lookup || bytes < options_.min_bytes || source == nullptr || !source->remote()) {
    Found none;
    none.layers.resize(wanted.size());
    return done(std::move(none));
  }
  std::make_shared<Job>(*this, std::move(image), std::move(source), std::move(wanted),
                        std::move(cancel), std::move(done))
      ->Start();
}

void IndexFinder::AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const {
  out.emplace_back("index_lookups", lookups_.load());
  out.emplace_back("indexes_found", found_.load());
  out.emplace_back("indexes_refused", refused_.load());
}

}  // namespace imagefs
